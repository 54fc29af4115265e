"""Flagged texts: the most anomalous rows that were kept, and examples of what each step dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.corpus.build import Built
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.inspection.lengths import Usual
from ialign_ray.inspection.quality import MEASURES, Scripts, anomaly
from ialign_ray.inspection.rows import Lowest, batches, parts

FLAGGED = 15
"""Kept rows shown per corpus."""
DROPPED = 5
"""Dropped texts shown per step."""
_NAMES = [m.name for m in MEASURES]


@dataclass(frozen=True)
class FlaggedRow:
    """A kept row and the pair of it that looks worst."""

    id: str
    file: int
    line: int
    pivot: str
    other: str
    texts: tuple[str, str]
    """Pivot and other side."""
    anomaly: float
    reasons: list[str]
    """Anomalies in words, the worst first."""


@dataclass(frozen=True)
class Dropped:
    """A text that a step dropped."""

    id: str
    file: int
    line: int
    language: str
    text: str
    pivot: str | None
    """Text of the pivot in the same row."""


def flagged(
    built: Built, corpus: str, scope: Scope, usual: Mapping[tuple[str, str], Usual], scripts: Scripts, k: int = FLAGGED
) -> list[FlaggedRow]:
    """The k rows with the most anomaly, each with its worst pair; rows without any anomaly are not among them."""
    worst = Lowest(k)
    for table in batches(parts(built, corpus)):
        if scope.pairs():
            scores, rows = _worst_pairs(table, scope, usual, scripts)
            worst.offer(np.where(scores > 0, -scores, np.nan), rows)
    return [_flagged_row(row) for row in worst.rows()]


def dropped(
    built: Built, corpus: str, steps: Sequence[str], seed: int = 0, k: int = DROPPED
) -> dict[str, list[Dropped]]:
    """Draw at most k examples of what each of the steps dropped, in the steps' order."""
    chosen = {step: Lowest(k) for step in steps}
    random = np.random.default_rng(seed)
    for table in batches(built.drops(corpus)):
        keys = random.random(table.num_rows)
        for step in pc.unique(table["step"]).to_pylist():
            if step in chosen:
                chosen[step].offer(np.where(pc.equal(table["step"], step).to_numpy(), keys, np.nan), table)
    return {step: [_dropped(row) for row in lowest.rows()] for step, lowest in chosen.items()}


def _worst_pairs(
    table: pa.Table, scope: Scope, usual: Mapping[tuple[str, str], Usual], scripts: Scripts
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], pa.Table]:
    """The largest anomaly of each row, NaN without a pair; and rows of that pair's texts and measures."""
    measured = anomaly(table, scope, usual, scripts)
    totals = np.stack([values["anomaly"] for values in measured.values()])
    place = np.argmax(np.nan_to_num(totals, nan=-1.0), axis=0)
    here = np.arange(table.num_rows)
    columns = {name: np.stack([m[name] for m in measured.values()])[place, here] for name in [*_NAMES, "anomaly"]}
    names = pa.array([f"{pivot}|{other}" for pivot, other in measured])
    rows = table.append_column("pair", names.take(pa.array(place)))
    for name, values in columns.items():
        rows = rows.append_column(f":{name}", pa.array(values))
    return columns["anomaly"], rows


def _flagged_row(row: Mapping[str, Any]) -> FlaggedRow:
    pivot, _, other = row["pair"].partition("|")
    counted = {m: float(m.count(np.array([row[f":{m.name}"]]))[0]) for m in MEASURES}
    odd = sorted((m for m in MEASURES if counted[m] > 0), key=lambda m: -counted[m])
    return FlaggedRow(
        row["id"], row["file"], row["line"], pivot, other, (row[pivot], row[other]), row[":anomaly"],
        [m.describe(row[f":{m.name}"]) for m in odd],
    )  # fmt: skip


def _dropped(row: Mapping[str, Any]) -> Dropped:
    return Dropped(row["id"], row["file"], row["line"], row["language"], row["text"], row["pivot"])
