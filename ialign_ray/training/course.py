"""The course of one run: what validation and the steps' losses have said so far, and what follows from it.

Every worker holds the same course. A resumed one reads it from the run's records, so it decides as if undisturbed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.storage import is_intact
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.guard import WINDOW, Guard
from ialign_ray.training.journal import Journal
from ialign_ray.training.stopping import Validated, best_steps, reason_to_stop
from ialign_ray.training.validation import validate


@dataclass
class Course:
    """Validates when it is due, and remembers."""

    settings: TrainConfig
    held_out: Sequence[Encoded]
    journal: Journal
    guard: Guard
    history: list[Validated] = field(default_factory=list)

    def resume(self) -> None:
        """Go on from what the records say: the first worker reads them and tells the others."""
        told = [self.journal.past(WINDOW)]
        if dist.is_initialized():
            dist.broadcast_object_list(told)
        self.history, steps = told[0]
        self.guard.remember(steps)

    def look(self, model: nn.Module, step: int, pad: int, device: torch.device) -> str | None:
        """Validate after this step if that is due and not done yet; why the run ends here, or None."""
        if self._due(step):
            began = time.perf_counter()
            found = validate(
                model, self.held_out, pad=pad, device=device, micro_batch_tokens=self.settings.micro_batch_tokens
            )
            self.journal.validated(step, found, time.perf_counter() - began)
            self.history.append(Validated(step, {metric: e.value for metric, e in found.items()}))
        return reason_to_stop(self.settings.stop, self.history)

    def _due(self, step: int) -> bool:
        wanted = self.settings.validation
        if wanted is None or not self.held_out or any(v.step == step for v in self.history):
            return False
        return step % wanted.every == 0 or step == self.settings.steps

    def best(self) -> list[int]:
        """Steps by merit, the best first; none when the last step is kept."""
        if self.settings.keep == "last":
            return []
        return [v.step for v in best_steps(self.settings.stop, self.settings.best_metric, self.history)]

    def spare(self, checkpoints: Checkpoints, now: int) -> list[int]:
        """The step whose checkpoint must stay beside the newest: the best that has one, or is `now` given one."""
        return next(([s] for s in self.best() if s == now or checkpoints.of(s).exists()), [])

    def choose(self, checkpoints: Checkpoints, last: int) -> Path | None:
        """The checkpoint that the finished model is of, the first worker's choice; None for the last step as it is."""
        chosen: list[Path | None] = [None]
        if self.settings.keep == "best" and (not dist.is_initialized() or dist.get_rank() == 0):
            chosen = [self._intact(checkpoints, last)]
        if dist.is_initialized():
            dist.broadcast_object_list(chosen)
        return chosen[0]

    def _intact(self, checkpoints: Checkpoints, last: int) -> Path | None:
        best = self.best()
        step = next((s for s in best if s == last or is_intact(checkpoints.of(s))), None)
        if step is None or step != best[0]:
            why = f"the checkpoint of the best step {best[0]} is torn or gone" if best else "train.stop allows no step"
            self.journal.warn(f"{why}; the model is of step {last if step is None else step}")
        return None if step in (None, last) else checkpoints.of(step)
