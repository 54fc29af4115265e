"""Lengths of each language's texts, and their ratio to the pivot's; counted in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.corpus.cleaning.step import Scope

LONGEST = 100_000
"""Characters up to which lengths are distinguished; longer texts count as this long."""
BINS = 24
"""Bars of a histogram, about."""
_NORMAL = 1.4826  # MAD -> standard deviation of a normal distribution
_LEAST_DEVIATION = 0.05  # as in the step `ratio`: generated pairs may not vary at all
_REACH, _STEP = 8.0, 0.005
"""Log ratios are counted from e^-8 to e^8 in steps of half a per cent."""
FEWEST = 30
"""Pairs from which their usual ratio is known well enough to call others unusual."""


@dataclass
class Histogram:
    """Texts by their number of characters."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Place n: texts of exactly n characters."""

    def add(self, lengths: npt.NDArray[np.int64]) -> None:
        """Count some lengths."""
        new = np.bincount(np.minimum(lengths, LONGEST))
        size = max(len(new), len(self.counts))
        self.counts = np.pad(self.counts, (0, size - len(self.counts))) + np.pad(new, (0, size - len(new)))

    @property
    def n(self) -> int:
        """Texts counted."""
        return int(self.counts.sum())

    def percentile(self, percent: int) -> int:
        """Length that this percentage of the texts does not exceed (nearest rank); 0 without texts."""
        rank = max(1, math.ceil(percent * self.n / 100))
        return int(np.searchsorted(np.cumsum(self.counts), rank)) if self.n else 0

    def bars(self, width: int, count: int) -> list[int]:
        """Texts of 0 to width - 1 characters, of width to 2 width - 1, and so on; the last bar holds all longer."""
        padded = np.pad(self.counts, (0, max(0, width * count - len(self.counts))))
        whole = padded[: width * count].reshape(count, width).sum(axis=1)
        whole[-1] += padded[width * count :].sum()
        return [int(n) for n in whole]


def bar_width(histograms: Sequence[Histogram], bins: int = BINS) -> tuple[int, int]:
    """Return (characters per bar, bars) that show all of them on one scale: up to the longest 99th percentile."""
    reach = max((h.percentile(99) for h in histograms), default=0) + 1
    rough = max(1, reach / bins)
    power = 10 ** int(math.log10(rough))
    width = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return width, reach // width + 2


@dataclass(frozen=True)
class Usual:
    """Usual log((other + 1) / (pivot + 1)), in characters."""

    n: int
    median: float
    deviation: float
    """1.4826 MAD, at least 0.05."""


@dataclass
class Ratios:
    """Log ratios of lengths of one pair of languages."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(round(2 * _REACH / _STEP) + 1, np.int64))

    def add(self, ratios: npt.NDArray[np.float64]) -> None:
        """Count some log ratios; NaN, where a side is missing, does not count."""
        known = np.clip(ratios[~np.isnan(ratios)], -_REACH, _REACH)
        self.counts += np.bincount(np.rint((known + _REACH) / _STEP).astype(np.int64), minlength=len(self.counts))

    def usual(self) -> Usual | None:
        """Median and spread, within half a per cent; None if there are too few pairs."""
        n = int(self.counts.sum())
        if n < FEWEST:
            return None
        values = np.arange(len(self.counts), dtype=np.float64) * _STEP - _REACH
        median = _median(values, self.counts)
        spread: npt.NDArray[np.float64] = np.abs(values - median)
        order = np.argsort(spread, kind="stable")
        return Usual(n, median, max(_LEAST_DEVIATION, _NORMAL * _median(spread[order], self.counts[order])))


@dataclass
class Lengths:
    """All lengths of one corpus."""

    scope: Scope
    texts: dict[str, Histogram] = field(default_factory=dict)
    """Lengths per language."""
    ratios: dict[tuple[str, str], Ratios] = field(default_factory=dict)
    """Ratios per pivot and other language."""

    def __post_init__(self) -> None:
        self.texts = {code: Histogram() for code in self.scope.languages}
        self.ratios = {pair: Ratios() for pair in self.scope.pairs()}

    def add(self, table: pa.Table) -> None:
        """Count a table."""
        for code, histogram in self.texts.items():
            histogram.add(pc.utf8_length(table[code].drop_null()).to_numpy().astype(np.int64))
        for (pivot, other), ratios in self.ratios.items():
            ratios.add(log_ratio(table, pivot, other))

    def usual(self) -> dict[tuple[str, str], Usual]:
        """Usual ratio of every pair with enough rows."""
        found = {pair: ratios.usual() for pair, ratios in self.ratios.items()}
        return {pair: usual for pair, usual in found.items() if usual}


def log_ratio(table: pa.Table, pivot: str, other: str) -> npt.NDArray[np.float64]:
    """log((other + 1) / (pivot + 1)) in characters of each row, NaN where a side is missing."""
    first, second = (_log_length(table[code]) for code in (pivot, other))
    return second - first


def _log_length(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    lengths = pc.cast(pc.utf8_length(column), pa.float64()).fill_null(float("nan")).to_numpy()
    return np.asarray(np.log1p(lengths), np.float64)


def _median(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> float:
    total = np.cumsum(counts)
    return float(values[np.searchsorted(total, (total[-1] + 1) // 2)])
