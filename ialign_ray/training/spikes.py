"""Detector of spikes: losses that are not finite or far above the recent ones; the batch is named and saved.

The threshold follows from the run log, so a resumed run decides like an uninterrupted one.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist

from ialign_ray.config import TrainConfig
from ialign_ray.errors import ModelError
from ialign_ray.storage import write_bytes
from ialign_ray.tokens.batch import Encoded

FLAGGED = "flagged"
"""Folder of the run for batches with a spike or without a finite loss."""
WINDOW, ENOUGH = 50, 20
"""Number of recent steps by which a spike is judged, and the fewest needed."""
FLOOR = 0.01
"""Floor for the deviation, as a share of the median, so that a nearly constant loss does not trigger on noise."""
SHOWN = 3
_MAD = 1.4826  # makes the median absolute deviation of a normal distribution its standard deviation
Rows = list[tuple[Any, ...]]
_SCHEMA = pa.schema(
    [("row_id", pa.string()), ("epoch", pa.int64())]
    + [(n, pa.string()) for n in ("source", "task", "template")]
    + [("tokens", pa.int64()), ("target_tokens", pa.int64()), ("nats", pa.float64())]
)


def spike_limit(seen: Sequence[float], deviations: float) -> float:
    """Value above which a loss is a spike: median + deviations x robust standard deviation; infinite for too few."""
    if len(seen) < ENOUGH:
        return math.inf
    middle = median(seen)
    spread = _MAD * median(abs(value - middle) for value in seen)
    return middle + deviations * max(spread, FLOOR * abs(middle))


@dataclass
class SpikeDetector:
    """Judges each step between its gradient and its update, identically on every worker."""

    settings: TrainConfig = field(default_factory=TrainConfig)
    run: Path | None = None
    """Run folder for flagged batches; None saves no batches."""
    warn: Callable[[str], None] = lambda text: None
    _seen: dict[str, deque[float]] = field(
        default_factory=lambda: {name: deque(maxlen=WINDOW) for name in ("loss", "grad_norm")}
    )

    def remember(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add steps that are done already, in order."""
        for record in records:
            for name, seen in self._seen.items():
                seen.append(float(record[name]))

    def allows(
        self, step: int, loss: float, norm: float, own: Sequence[tuple[Encoded, float]], device: torch.device
    ) -> bool:
        """Return True if the step may update the weights; `own` are this worker's examples with their summed nats.

        Raises ModelError, on every worker, if the loss or the gradient is NaN or infinite, and at a spike if
        `train.on_spike` is stop.
        """
        # also true of NaN
        if not (loss < math.inf and norm < math.inf):
            raise ModelError(f"{self._unusable(step, loss, norm, _of_all(own))}; lower train.learning_rate or use fp32")
        sentence = self._spike(loss, norm)
        # spikes are included: a loss that stays high becomes the usual one after some steps
        self.remember([{"loss": loss, "grad_norm": norm}])
        if not _any_worker(bool(sentence), device):
            return True
        told = f"step {step}: {sentence or 'a spike'}; {self._batch(step, _of_all(own))}"
        if self.settings.on_spike == "stop":
            raise ModelError(
                f"{told}; train.on_spike is stop: inspect the batch, then continue with --resume --set "
                "train.on_spike=skip"
            )
        skipped = self.settings.on_spike == "skip"
        self.warn(told + ("; its update is skipped" if skipped else ""))
        return not skipped

    def _spike(self, loss: float, norm: float) -> str:
        said = []
        for name, value in (("loss", loss), ("grad_norm", norm)):
            seen = self._seen[name]
            if value > spike_limit(seen, self.settings.spike_deviations):
                word = {"loss": "loss", "grad_norm": "gradient norm"}[name]
                said.append(
                    f"the {word} {value:.4g} is far above the last {len(seen)} steps' (median {median(seen):.4g})"
                )
        return " and ".join(said)

    def _unusable(self, step: int, loss: float, norm: float, rows: Rows) -> str:
        bad = [row for row in rows if not math.isfinite(row[-1])]
        which = f"{_named(bad)} of {len(rows)} examples have no finite loss" if bad else "each example's loss is finite"
        return f"step {step}: the loss is {loss} and the gradient norm {norm}; {which}{self._kept(step, rows)}"

    def _batch(self, step: int, rows: Rows) -> str:
        """The examples with the highest loss per token, and the file with all of them."""
        worst = sorted(rows, key=lambda row: -row[-1] / row[-2])[:SHOWN]
        named = ", ".join(f"{row[0]} ({row[2]}, {row[-1] / row[-2]:.3g} nats per token)" for row in worst)
        return f"highest of {len(rows)} examples: {named}{self._kept(step, rows)}"

    def _kept(self, step: int, rows: Rows) -> str:
        """Write the batch (first worker); return the part of the message that names its file."""
        if self.run is None:
            return ""
        path = self.run / FLAGGED / f"step-{step:08d}.parquet"
        if not dist.is_initialized() or dist.get_rank() == 0:
            columns = dict(zip(_SCHEMA.names, zip(*rows, strict=True), strict=True))
            part = BytesIO()
            pq.write_table(pa.table(columns, schema=_SCHEMA), part)
            try:
                write_bytes(path, part.getvalue())
            except OSError as error:
                return f"; the batch could not be written ({error.strerror or error})"
        return f"; all are in {path.relative_to(self.run.parent)}"


def _named(rows: Rows) -> str:
    """Count of rows, their sources, and the first few ids."""
    sources = ", ".join(sorted(Counter(row[2] for row in rows)))
    more = ", ..." if len(rows) > SHOWN else ""
    return f"{len(rows)} ({sources}: {', '.join(row[0] for row in rows[:SHOWN])}{more})"


def _of_all(own: Sequence[tuple[Encoded, float]]) -> Rows:
    """Every worker's examples, in one order."""
    rows: Rows = [
        (e.row_id, e.epoch, e.source, e.task, e.template, len(e), e.learned, nats) for e, nats in own if e.target
    ]
    if dist.is_initialized() and dist.get_world_size() > 1:
        every: list[Rows] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(every, rows)
        rows = [row for part in every for row in part]
    return sorted(rows, key=lambda row: row[:2])


def _any_worker(own: bool, device: torch.device) -> bool:
    """Return True if it is True on any worker: norms may differ in the last bit between different devices, decisions
    may not."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    shared = torch.tensor(int(own), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)
