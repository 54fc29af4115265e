"""The progress of one run: its validations and step losses so far, and the decisions that follow from them.

Every worker has the same progress. A resumed one reads it from the run's records, so it decides as if uninterrupted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.errors import IalignError
from ialign_ray.storage import is_intact
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.checkpoint import Checkpoints, first_says, first_worker
from ialign_ray.training.run_log import RunLog
from ialign_ray.training.spikes import WINDOW, SpikeDetector
from ialign_ray.training.stopping import Validated, best_steps, reason_to_stop
from ialign_ray.training.validation import Found, Validator, validate


@dataclass
class RunProgress:
    """Validates when due, or has a checkpoint validated in another process, and keeps the results."""

    settings: TrainConfig
    held_out: Sequence[Encoded]
    run_log: RunLog
    detector: SpikeDetector
    checkpoints: Checkpoints
    validator: Validator | None = None
    """Validates in another process; None if the workers validate between two steps. Only the first worker's is used."""
    history: list[Validated] = field(default_factory=list)
    """Validations in the order of steps: each waits for earlier ones."""
    pending: list[int] = field(default_factory=list)
    """Steps to be validated from their checkpoints in another process; the first of them is running."""

    def resume(self, start: int) -> None:
        """Resume from the records: the first worker reads them and sends them to the others.

        A step whose result a lost attempt did not receive is validated again, if its checkpoint exists.
        """
        self.history, steps = first_says(lambda: self.run_log.past(WINDOW))
        self.detector.remember(steps)
        if self.validator is not None and reason_to_stop(self.settings.stop, self.history) is None:
            for step in first_says(lambda: self._unheard(start)):
                self.ask(step)

    def _unheard(self, start: int) -> list[int]:
        """Steps that have a checkpoint, and no validation though one was due."""
        wanted = self.settings.validation
        due = [s for s in range(wanted.every, start + 1, wanted.every) if self.elsewhere(s)] if wanted else []
        return [s for s in due if is_intact(self.checkpoints.of(s))]

    def validate_due(self, model: nn.Module, step: int, pad: int, device: torch.device) -> str | None:
        """Validate after this step if due, not done and not delegated; return the reason why the run ends here, or
        None."""
        if self._due(step):
            self.settle()
            if not self.elsewhere(step):
                began = time.perf_counter()
                found = validate(
                    model, self.held_out, pad=pad, device=device, micro_batch_tokens=self.settings.micro_batch_tokens
                )
                self._note(step, Found(found, time.perf_counter() - began))
        return reason_to_stop(self.settings.stop, self.history)

    def _note(self, step: int, found: Found) -> None:
        self.run_log.validated(step, found.losses, found.seconds)
        self.history.append(Validated(step, {metric: e.value for metric, e in found.losses.items()}))

    def _due(self, step: int) -> bool:
        wanted = self.settings.validation
        if wanted is None or not self.held_out or step in self.pending or any(v.step == step for v in self.history):
            return False
        return step % wanted.every == 0 or step == self.settings.steps

    def elsewhere(self, step: int) -> bool:
        """Return True if this step is to be validated from its checkpoint; the base and the last step never are."""
        return self.validator is not None and 0 < step < self.settings.steps and self._due(step)

    def ask(self, step: int) -> None:
        """Have the checkpoint of a step validated in another process."""
        self.pending.append(step)
        if len(self.pending) == 1:
            self._begin()

    def _begin(self) -> None:
        if self.validator is not None and first_worker():
            self.validator.start(self.pending[0], self.checkpoints.of(self.pending[0]))

    def arrived(self) -> bool:
        """Return True if a new result is ready; only the first worker can know."""
        return bool(self.validator and self.pending and first_worker() and self.validator.ready())

    def collect(self) -> None:
        """Add the result of the running validation, waiting for it if necessary. Every worker calls this.

        A failure is reported; from then on the workers validate.
        """
        found, failure = first_says(self._result)
        step = self.pending.pop(0)
        if found is not None:
            self._note(step, found)
            if self.pending:
                self._begin()
            return
        lost = ", ".join(map(str, [step, *self.pending]))
        self.run_log.warn(f"{failure}; validation of step {lost} is skipped, and the workers validate from now on")
        self.validator, self.pending = None, []

    def _result(self) -> tuple[Found | None, str]:
        assert self.validator is not None
        try:
            return self.validator.result(), ""
        except IalignError as error:
            return None, str(error)

    def settle(self) -> None:
        """Wait for all pending validations in another process."""
        while self.pending:
            self.collect()

    def best(self) -> list[int]:
        """Steps, the best first; empty if the last step is kept."""
        if self.settings.keep == "last":
            return []
        return [v.step for v in best_steps(self.settings.stop, self.settings.best_metric, self.history)]

    def spare(self, now: int) -> list[int]:
        """Steps whose checkpoints must be kept in addition to the newest: the best that has one, or gets one `now`, and
        those still to be validated."""
        best = next(([s] for s in self.best() if s == now or self.checkpoints.of(s).exists()), [])
        return best + self.pending

    def choose(self, last: int) -> Path | None:
        """The checkpoint of the finished model, chosen by the first worker; None for the current last step."""
        return first_says(lambda: self._intact(last)) if self.settings.keep == "best" else None

    def _intact(self, last: int) -> Path | None:
        best = self.best()
        step = next((s for s in best if s == last or is_intact(self.checkpoints.of(s))), None)
        if step is None or step != best[0]:
            why = (
                f"the checkpoint of the best step {best[0]} is torn or missing"
                if best
                else "train.stop rules out every step"
            )
            self.run_log.warn(f"{why}; the model is that of step {last if step is None else step}")
        return None if step in (None, last) else self.checkpoints.of(step)
