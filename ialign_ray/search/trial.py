"""One trial, independent of Ray: trained from budget to budget by the ordinary loop, validated at each, never repeated.

A trial is an ordinary run folder. Its result at a budget is written there, so a restarted trial, after a kill or in a
resumed search, reports the same without training, and resumes from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from ialign_ray.config import Experiment, dump_yaml
from ialign_ray.config.model import DECLARED
from ialign_ray.errors import CheckpointError, StoppedError
from ialign_ray.modeling.load import add_adapter
from ialign_ray.search.budget import steps_of
from ialign_ray.search.objective import Losses
from ialign_ray.search.trial_cache import ExampleCache, fresh
from ialign_ray.storage import is_intact, json_hash, read_json, write_bytes, write_json, write_text
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.loop import Loop, make_optimizer, run_loop
from ialign_ray.training.objective import objective_of
from ialign_ray.training.run_log import RunLog, records
from ialign_ray.training.runs import MODEL, RECORD, save_run
from ialign_ray.training.stop_requests import StopRequest
from ialign_ray.training.validation import losses

REPORTS, HELD_OUT = "reports.json", "held-out"


@dataclass(frozen=True)
class TrialContext:
    """Model, data and device shared by the trials of one process."""

    base: nn.Module
    """Frozen; each trial adds an adapter to it, or copies it."""
    held_out: list[Encoded]
    record: dict[str, Any]
    """Counts of the data, for a run's record."""
    data: str
    """Hash of pools, templates and held-out rows."""
    rows: list[int] = field(default_factory=list)
    """Rows of the embeddings that `model.vocabulary` added."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class TrialRun:
    """One trial's run folder, advanced from budget to budget."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        budgets: list[int],
        unit: str,
        example_cache: ExampleCache,
        trial_context: TrialContext,
    ) -> None:
        self.folder, self._example_cache, self._context = folder, example_cache, trial_context
        self._plan = example_cache.trial_plan(experiment)
        self._size = experiment.train.batch_size
        steps = [self._steps(b) for b in budgets] if unit == "tokens" else budgets
        self.ends = dict(zip(budgets, steps, strict=True))
        """Budget -> the step at its end."""
        # the rate decays over the full budget; validation and stopping are done by the search
        plain: dict[str, Any] = {"steps": steps[-1], "validation": None, "stop": [], "keep": "last"}
        self.settings = experiment.train.model_copy(update=plain)
        self.experiment = experiment.model_copy(update={"train": self.settings})
        decides = self.experiment.model_dump(
            mode="json", include={"model", "train", "replay", "tasks"}, exclude=DECLARED
        )
        self.fingerprint = json_hash([trial_context.data, list(self.ends.items()), decides])
        self._model: nn.Module | None = None

    @cached_property
    def reports(self) -> list[dict[str, Any]]:
        """Reports so far, in the order of budgets."""
        path = self.folder / REPORTS
        if not path.exists():
            return []
        known = read_json(path)
        if known["fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"{self.folder} was made with other settings or data; remove it, or give the experiment another name"
            )
        return list(known["reports"])

    def report(self, k: int) -> dict[str, Any]:
        """Return the report of the k-th budget, read from disk or trained and validated now.

        Raises IalignError if training cannot continue.
        """
        while len(self.reports) <= k:
            self._advance(list(self.ends)[len(self.reports)])
        return self.reports[k]

    def losses(self, budget: int) -> Losses:
        """Held-out losses at a reported budget."""
        return read_losses(self.folder, budget, self.experiment.languages.l1)

    def base_losses(self) -> None:
        """Save the losses of the untrained base as those of budget 0."""
        if not held_out_file(self.folder, 0).exists():
            self._validate(self._context.base, 0)

    def _advance(self, budget: int) -> None:
        began = time.perf_counter()
        self._open()
        self._train(self.ends[budget])
        trained = time.perf_counter()
        self._validate(self.model, budget)
        last = budget == list(self.ends)[-1]
        if last:
            self._finish()
        seen = [r for r in records(self.folder) if r["step"] <= self.ends[budget]]
        known = {
            "budget": budget, "step": self.ends[budget], "tokens": sum(r["tokens"] for r in seen),
            "train_loss": seen[-1]["loss"], "train_seconds": sum(r["seconds"] for r in seen),
            "seconds": time.perf_counter() - began, "validation_seconds": time.perf_counter() - trained, "last": last,
        }  # fmt: skip
        found = [*self.reports, known]
        # last: a kill before this repeats the validation, but nothing that was reported
        write_json(self.folder / REPORTS, {"fingerprint": self.fingerprint, "reports": found})
        self.reports.append(known)

    def _open(self) -> None:
        if not (self.folder / RECORD).exists():
            write_text(self.folder / "experiment.yaml", dump_yaml(self.experiment))
            known = {"run": self.folder.name, "experiment": self.experiment.name, "fingerprint": self.fingerprint}
            write_json(self.folder / RECORD, self._context.record | known)

    @property
    def model(self) -> nn.Module:
        """The trial's model, created on first use."""
        if self._model is None:
            full = self.experiment.model.tuning == "full"
            self._model = fresh(self._context.base, writable=full)
            if not full:
                lora, seed = self.experiment.model.lora, self.settings.seed
                self._model = add_adapter(self._model, lora, seed, self._context.rows).to(self._context.device)
        return self._model

    def _train(self, end: int) -> None:
        """Train to this step, from the newest checkpoint; the loop writes one there."""
        at = [0]

        def stream(start: int) -> Any:
            at[0] = start
            return self._example_cache.steps(self._plan, self.settings.batch_size, start)

        def on_step(step: int) -> None:
            at[0] = step

        loop = Loop(
            settings=self.settings,
            stream=stream,
            checkpoints=Checkpoints(self.folder / "checkpoints", self.fingerprint, self.settings.keep_checkpoints),
            run_log=RunLog(self.folder),
            pad=self._example_cache.encoder.tokenizer.pad_token_id,
            device=self._context.device,
            autocast=self.experiment.model.precision == "bf16",
            objective=objective_of(self.settings),
            on_step=on_step,
            # a budget ends as after SIGTERM: with a checkpoint, from which the next budget resumes
            stop_request=lambda: StopRequest.STOP if at[0] + 1 == end else StopRequest.GO_ON,
        )
        newest = loop.checkpoints.newest()
        if newest == loop.checkpoints.of(end) and end < self.settings.steps:
            # killed between this budget's checkpoint and its report
            loop.checkpoints.restore(self.model, make_optimizer(self.model, self.settings), newest)
            return
        try:
            run_loop(self.model, loop)
        # the end of this budget; any other stop has a different reason
        except StoppedError:
            if at[0] != end:
                raise

    def _validate(self, model: nn.Module, budget: int) -> None:
        rows = losses(
            model,
            self._context.held_out,
            pad=self._example_cache.encoder.tokenizer.pad_token_id,
            device=self._context.device,
            micro_batch_tokens=self.settings.micro_batch_tokens,
        )
        columns = list(zip(*rows, strict=True))
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(dict(zip(("source", "row_id", "tokens", "nats"), columns, strict=True))), sink)
        write_bytes(held_out_file(self.folder, budget), sink.getvalue().to_pybytes())

    def _finish(self) -> None:
        if not is_intact(self.folder / MODEL):
            save_run(self.experiment, self.folder, self.model, self._example_cache.encoder.tokenizer)

    def _steps(self, tokens: int) -> int:
        return steps_of(
            tokens, lambda step: sum(map(len, next(self._example_cache.steps(self._plan, self._size, step))))
        )


def read_losses(folder: Path, budget: int, l1: Iterable[str]) -> Losses:
    """Held-out losses that a trial wrote at a budget; in a control's folder, 0 is the base."""
    table = pq.ParquetFile(held_out_file(folder, budget)).read().to_pydict()
    return Losses.of(zip(*(table[c] for c in ("source", "row_id", "tokens", "nats")), strict=True), l1)


def held_out_file(folder: Path, budget: int) -> Path:
    """File with the loss of every held-out example at a budget."""
    return folder / HELD_OUT / f"{budget:012d}.parquet"
