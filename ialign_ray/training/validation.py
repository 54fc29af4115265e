"""The loss on held-out examples: encoded once before the run, computed by all workers with the model of the loop.

A validation does not affect training: it draws no dropout and keeps no gradient, and a run with it ends with the same
weights as one without.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from scipy import stats
from torch import nn

from ialign_ray.errors import DataError
from ialign_ray.inference.batching import read_only
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.streaming.examples import encode_drawn
from ialign_ray.tasks.mixture import Draw
from ialign_ray.tasks.negatives import Pair
from ialign_ray.tasks.plan import Plan
from ialign_ray.tokens.batch import Encoded, micro_batches
from ialign_ray.tokens.cache import ENCODED
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.collate import collate
from ialign_ray.training.loss import target_nats

PAIRS, INSTRUCTIONS = "pairs", "instructions"
HELD_OUT = "validation.parquet"


@dataclass(frozen=True)
class LossEstimate:
    """Nats per target token of one source, with a 95 % interval over sentences."""

    value: float
    low: float
    high: float
    n: int
    """Number of sentences, whatever the number of their directions, or of instructions."""


def encode_held_out(plan: Plan, encoder: Encoder, pairs: pa.Table, instructions: pa.Table) -> list[Encoded]:
    """Pairs as machine translation (source `pairs/eng-jav`), instructions as they are; the same for every seed.

    Examples that exceed the limits of `train` are skipped.
    """
    asking = replace(plan, seed=0, pairs=pairs)  # sentences are indexed only for these few pairs
    found: list[Encoded] = []
    for row in pairs.to_pylist():
        example = asking.align(Pair(**row), 0, "mt").example
        own = encoder.within(row["source_language"], row["target_language"])
        ids = own.encode(example.prompt, example.target, example.spans)
        if ids:
            source = f"{PAIRS}/{row['source_language']}-{row['target_language']}"
            found.append(Encoded(row["row_id"], 0, source, "mt", example.template, *ids))
    asked = Plan.replay_only(instructions, 0)
    for place, row in enumerate(instructions.to_pylist()):
        with suppress(DataError):  # it does not fit
            one = encode_drawn(encoder, asked.at(Draw(replay=True, row=place, epoch=0)))
            found.append(replace(one, source=INSTRUCTIONS, template=row["source"]))
    return found


def save_held_out(folder: Path, examples: Iterable[Encoded]) -> None:
    """Write held-out examples next to the plan."""
    pq.write_table(pa.Table.from_pylist([vars(e) for e in examples], schema=ENCODED), folder / HELD_OUT)


def load_held_out(folder: Path) -> list[Encoded]:
    """Read the output of `save_held_out`; an empty list if nothing is held out."""
    path = folder / HELD_OUT
    return [Encoded(**row) for row in pq.ParquetFile(path).read().to_pylist()] if path.exists() else []


def metrics_of(examples: Iterable[Encoded]) -> list[str]:
    """Names of the metrics that `validate` reports, sorted: each source, and pairs of all directions."""
    return sorted({m for e in examples for m in _metrics(e.source)})


def _metrics(source: str) -> list[str]:
    return list(dict.fromkeys([source.partition("/")[0], source]))


Loss = tuple[str, str, int, float]
"""Source, row id, target tokens and summed nats of one example."""


def validate(
    model: nn.Module, examples: Sequence[Encoded], *, pad: int, device: torch.device, micro_batch_tokens: int
) -> dict[str, LossEstimate]:
    """Loss of each metric, the same on every worker; each worker computes its share of the batches."""
    return summary(losses(model, examples, pad=pad, device=device, micro_batch_tokens=micro_batch_tokens))


def losses(
    model: nn.Module, examples: Sequence[Encoded], *, pad: int, device: torch.device, micro_batch_tokens: int
) -> list[Loss]:
    """The loss of every example, sorted by source and row id.

    All workers run the same number of forward passes, because those of a sharded model wait for each other.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    start = decoder_start(model)
    batches = list(micro_batches(examples, micro_batch_tokens, apart=start is not None))
    own: list[tuple[Encoded, float]] = []
    with read_only(model):
        for first in range(0, len(batches), world):
            mine = first + rank
            # a worker without a batch left repeats the last one, and discards the result
            batch = batches[min(mine, len(batches) - 1)]
            nats = _nats(model, batch, pad, device, start)
            own += zip(batch, nats, strict=True) if mine < len(batches) else []
    return _from_all(own)


def _nats(model: nn.Module, batch: Sequence[Encoded], pad: int, device: torch.device, start: int | None) -> list[float]:
    """Summed nats of each example's target."""
    inputs, positions, labels = collate(batch, pad, device, start)
    _, nats = target_nats(model, positions, labels, **inputs)
    return [float(part.sum()) for part in torch.split(nats, [e.learned for e in batch])]


def _from_all(own: list[tuple[Encoded, float]]) -> list[Loss]:
    """Gather (source, row id, target tokens, nats) from all workers, in one order for any number of them."""
    rows = [(e.source, e.row_id, e.learned, nats) for e, nats in own]
    if dist.is_initialized() and dist.get_world_size() > 1:
        every: list[list[Loss]] = [[] for _ in range(dist.get_world_size())]
        dist.all_gather_object(every, rows)
        rows = [row for part in every for row in part]
    return sorted(rows, key=lambda row: row[:2])


def summary(rows: Iterable[Loss]) -> dict[str, LossEstimate]:
    """Each metric's estimate from (source, row id, target tokens, nats) of every example."""
    by_metric: dict[str, dict[str, tuple[float, int]]] = defaultdict(dict)
    for source, row_id, tokens, nats in rows:
        # all directions of a sentence are one unit, since they are not independent
        unit = row_id.rpartition(":")[0] if source.startswith(PAIRS) else row_id
        for metric in _metrics(source):
            before = by_metric[metric].get(unit, (0.0, 0))
            by_metric[metric][unit] = (before[0] + nats, before[1] + tokens)
    return {metric: estimate(list(units.values())) for metric, units in sorted(by_metric.items())}


def estimate(units: Sequence[tuple[float, int]]) -> LossEstimate:
    """Ratio of summed nats to summed tokens over sentences, with the t interval of a ratio estimator.

    Its variance is that of the residuals (Cochran, Sampling Techniques, 1977, section 6.4); a sentence is one unit
    with all its directions. Bounds are NaN for fewer than two sentences.
    """
    n, tokens = len(units), sum(t for _, t in units)
    value = math.fsum(nats for nats, _ in units) / tokens
    if n < 2:
        return LossEstimate(value, math.nan, math.nan, n)
    squares = math.fsum((nats - value * t) ** 2 for nats, t in units)
    # t, not z: 20 held-out sentences need 2.09 standard errors
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(n / (n - 1) * squares) / tokens
    return LossEstimate(value, value - half, value + half, n)


@dataclass(frozen=True)
class Found:
    """Result of a validation."""

    losses: Mapping[str, LossEstimate]
    """Metric, without `validation/`, -> nats per target token."""
    seconds: float
    """Seconds spent, including model loading if any."""


class Validator(Protocol):
    """Validates checkpoints, one at a time; used only by the first worker."""

    def start(self, step: int, checkpoint: Path) -> None:
        """Start; the checkpoint is kept until `result` is called."""

    def ready(self) -> bool:
        """Return True if `result` would not wait; takes well under a millisecond, as it is called at every step."""

    def result(self) -> Found:
        """Return the losses, or raise an IalignError with the reason why they are missing."""
