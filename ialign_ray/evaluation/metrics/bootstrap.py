"""Intervals and paired differences by a cluster bootstrap over sentence ids.

A sentence is one unit however many languages, prompts and training seeds it was scored in: all its rows
are drawn together. The sampling error covered is that of the *sentences*; the spread over training seeds
is reported beside it, not inside it.

A *draw vector* has shape (resamples + 1,): entry 0 is the sample itself, the others are resamples. Metrics
are computed from weights (units, resamples + 1), how often each unit was drawn. `scipy.stats.bootstrap`
would call scikit-learn's F1 a thousand times for each cell (measured 1.0 s a cell of 400 rows); one matrix
product of confusion counts with the weights takes 0.4 ms, and all metrics of a cell 5 ms. Two runs over
the same ids use the same weights, so subtracting their draw vectors is the paired bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ialign_ray.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
_MIN_DEFINED: Final = 0.9  # an interval over fewer defined resamples would describe another population
_ROUNDING: Final = 1e-12  # below it two runs are equal: the order of a sum must not decide a sign


@dataclass(frozen=True)
class Interval:
    """A value, its percentile interval and the number of sentence ids; bounds are NaN where unknown."""

    value: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the interval's width, in the metric's unit."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference of two runs on the same ids, with its two-sided bootstrap p."""

    p: float


def resample_weights(units: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Weights, how often each unit is drawn: (units, resamples + 1), column 0 all ones, other columns sum to `units`.

    Depends on its arguments alone, so runs over the same sorted ids are resampled alike.
    """
    if units < 1 or resamples < 1:
        raise DataError(f"bootstrap: need a unit and a resample, got {units} units and {resamples} resamples")
    picks = np.random.default_rng(seed).integers(units, size=(resamples, units))
    # a range of numbers for each resample, so that one bincount counts them all
    picks += units * np.arange(resamples)[:, None]
    counts = np.bincount(picks.ravel(), minlength=resamples * units).reshape(resamples, units)
    weights = np.ones((units, resamples + 1))
    weights[:, 1:] = counts.T
    return weights


def interval(draws: Floats, n: int, level: float = LEVEL) -> Interval:
    """Percentile interval of a draw vector over `n` ids; see `intervals`."""
    return intervals(draws[None], [n], level)[0]


def intervals(draws: Floats, n: Sequence[int], level: float = LEVEL) -> list[Interval]:
    """Percentile intervals of many draw vectors (vectors, resamples + 1), each over its `n` ids, at once.

    The bounds are NaN when n < 2 (one sentence says nothing about the next), when the value is undefined,
    or when it is undefined in over a tenth of the resamples (say, AUC with two positives).
    """
    resampled, low, high = draws[:, 1:], np.full(len(draws), np.nan), np.full(len(draws), np.nan)
    finite = np.isfinite(resampled)
    known = (np.asarray(n) >= 2) & np.isfinite(draws[:, 0]) & (finite.mean(axis=1) >= _MIN_DEFINED)
    whole, tails = known & finite.all(axis=1), [(1 - level) / 2, (1 + level) / 2]
    if whole.any():
        low[whole], high[whole] = np.quantile(resampled[whole], tails, axis=1)
    # np.quantile over all rows at once takes no NaN
    for row in np.flatnonzero(known & ~whole):
        low[row], high[row] = np.quantile(resampled[row][finite[row]], tails)
    return [Interval(*found) for found in zip(draws[:, 0].tolist(), low.tolist(), high.tolist(), n, strict=True)]


def difference(first: Floats, second: Floats, n: int, level: float = LEVEL) -> Difference:
    """Paired difference `first - second` of two draw vectors made with the same weights; see `differences`."""
    return differences((first - second)[None], [n], level)[0]


def differences(draws: Floats, n: Sequence[int], level: float = LEVEL) -> list[Difference]:
    """Intervals and p of many paired differences (vectors, resamples + 1), each over its `n` ids, at once.

    p = 2 min(P(d <= 0), P(d >= 0)) over the resamples, with one added to each count (never exactly 0),
    at most 1; NaN where the interval is unknown.
    """
    draws = np.where(np.abs(draws) < _ROUNDING, 0.0, draws)
    resampled = draws[:, 1:]
    tail = np.minimum((resampled <= 0).sum(axis=1), (resampled >= 0).sum(axis=1))
    p = np.minimum(1.0, 2 * (tail + 1) / (np.isfinite(resampled).sum(axis=1) + 1))
    return [
        Difference(found.value, found.low, found.high, found.n, float(of) if np.isfinite(found.low) else float("nan"))
        for found, of in zip(intervals(draws, n, level), p, strict=True)
    ]


def mean_draws(vectors: Sequence[Floats]) -> Floats:
    """Mean over cells (languages, prompts or seeds), draw by draw: the cells are resampled jointly.

    A draw that is undefined in one cell is undefined in the mean: no mean changes its members silently.
    """
    mean: Floats = np.mean(np.stack(vectors), axis=0)
    return mean
