"""Intervals and p values by a bootstrap over independent units: sentences, or clusters of them such as articles.

A sentence is one unit, however many languages, prompts and training seeds it was scored in: all its rows are drawn
together. Sentences of one article are not independent units; a suite's `cluster` makes the article the unit. This
module covers the choice of the *sentences*; `results.training_luck` adds the spread over training seeds.

A *draw vector* has shape (resamples + 1,): entry 0 is the sample itself, the others are resamples. Metrics
are computed from weights (units, resamples + 1), how often each unit was drawn. `scipy.stats.bootstrap`
would call scikit-learn's F1 a thousand times for each cell (measured 1.0 s per cell of 400 rows); one matrix
product of confusion counts with the weights takes 0.4 ms, and all metrics of a cell 5 ms. Two runs over
the same ids use the same weights, so subtracting their draw vectors is the paired bootstrap.

The interval is Student's t, corrected for the skewness that single units bring in (by their influence: the
infinitesimal jackknife of Efron, 2014) with the cubic of Hall (1992, "On the removal of skewness by transformation",
JRSS B 54): its inverse on the short side, the cubic itself on the long side, where the inverse would diverge. In
simulations (docs/evaluation.md) percentile intervals of 48 lognormal losses cover .80 to .90, BCa .84 to .91,
bootstrap-t .88 to .94, this one .94 to .95. It needs only spread and skewness, so that any level and any p can be
reached with 1,000 resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ialign_ray.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RESAMPLES: Final = 1000
LEVEL: Final = 0.95
POWER: Final = 0.8
_MIN_DEFINED: Final = 0.9  # an interval over fewer defined resamples would describe a different population
_ROUNDING: Final = 1e-12  # below it two runs are equal: the order of a sum must not decide a sign
# A sample shows less skewness than its population, the more so the more its largest unit makes up of it: larger ones
# have not been drawn yet. Simulated: lognormal losses of 48 units rise from .89 to .94 covered by it; normal ones and
# shares of right answers stay where they are.
_UNSEEN: Final = 6.0
_FEWEST_ALIKE: Final = 6  # a sign test over five units that all agree cannot reach .05


@dataclass(frozen=True)
class Interval:
    """A value, its interval and the number of sentence ids; bounds are NaN where unknown."""

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
    """A paired difference of two runs on the same ids, with its two-sided p."""

    p: float


@dataclass(frozen=True)
class Estimates:
    """Many values (vectors,), with the parameters of their intervals and p values; NaN if unknown."""

    value: Floats
    error: Floats
    """Standard errors."""
    skew: Floats
    """Skewness of the estimate over samples, as seen in the sample; 0 is symmetric."""
    tail: Floats
    """The same, corrected for units that the sample may not have drawn yet: it determines the end on the long side."""
    freedom: Floats
    """Degrees of freedom of the standard errors."""

    def bounds(self, level: float = LEVEL) -> tuple[Floats, Floats]:
        """Lower and upper ends (vectors,) of the two-sided intervals at a level."""
        reach = quantile((1 + level) / 2, self.freedom)
        near, far = _uncubed(reach, np.abs(self.skew)), _cubed(reach, np.abs(self.tail))
        right = self.skew >= 0
        low: Floats = self.value - self.error * np.where(right, near, far)
        high: Floats = self.value + self.error * np.where(right, far, near)
        return low, high

    def p(self) -> Floats:
        """Two-sided p (vectors,) of a true value of 0: below .05 exactly where the 95 % interval excludes 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.minimum(np.abs(self.value) / self.error, 1e6)
        # 0 is on the short side where the value and its skewness have the same sign
        short = (self.skew >= 0) == (self.value >= 0)
        reach = np.where(short, _cubed(distance, np.abs(self.skew)), _uncubed(distance, np.abs(self.tail)))
        found: Floats = np.asarray(2 * stats.t.sf(np.maximum(reach, 0), self.freedom), dtype=np.float64)
        found[self.value == 0] = np.where(np.isfinite(self.freedom[self.value == 0]), 1.0, np.nan)
        # no unit differs from another: only a sign test remains, in which all of them agree
        alike = (self.error == 0) & np.isfinite(self.freedom)
        found[alike] = np.where(self.value[alike] == 0, 1.0, 2.0 ** (-self.freedom[alike]))
        return found

    def detectable(self) -> Floats:
        """The smallest true values (vectors,) that 80 % of samples of this size would show to be non-zero at the 5 %
        level."""
        seen: Floats = self.error * (quantile((1 + LEVEL) / 2, self.freedom) + quantile(POWER, self.freedom))
        return seen

    @staticmethod
    def joined(parts: Sequence[Estimates]) -> Estimates:
        """All of them, in order."""
        return Estimates(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Estimates)))

    def with_variance(self, variance: Floats, freedom: Floats) -> Estimates:
        """The same values with standard errors of the given variance and degrees of freedom (both (vectors,)).

        The added variance is taken as symmetric: the skewness falls with its share of the spread.
        """
        error = np.sqrt(variance)
        share = np.divide(self.error, error, out=np.ones_like(error), where=error > 0)
        kept = np.minimum(share, 1) ** 3
        return replace(self, error=error, skew=self.skew * kept, tail=self.tail * kept, freedom=freedom)


def quantile(share: float, freedom: ArrayLike) -> Floats:
    """Quantile `share` of Student's t, for each number of degrees of freedom."""
    found: Floats = np.asarray(stats.t.ppf(share, np.asarray(freedom, dtype=np.float64)), dtype=np.float64)
    return found


@lru_cache(maxsize=4)
def resample_weights(units: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Number of times that each unit is drawn: (units, resamples + 1), column 0 all ones, other columns sum to `units`.

    Depends only on its arguments, so runs over the same sorted ids are resampled alike.
    """
    if units < 1 or resamples < 1:
        raise DataError(f"bootstrap: need a unit and a resample, got {units} units and {resamples} resamples")
    picks = np.random.default_rng(seed).integers(units, size=(resamples, units))
    # a range of numbers for each resample, so that one bincount counts them all
    picks += units * np.arange(resamples)[:, None]
    counts = np.bincount(picks.ravel(), minlength=resamples * units).reshape(resamples, units)
    weights = np.ones((units, resamples + 1))
    weights[:, 1:] = counts.T
    weights.flags.writeable = False  # the cached array is shared by all callers
    return weights


def estimates(draws: Floats, units: ArrayLike, weights: Floats | None = None) -> Estimates:
    """Estimates from many draw vectors (vectors, resamples + 1), each over its number of independent `units`.

    `weights` are those that they were made with (`resample_weights`); without them the skewness is unknown and
    intervals are symmetric. Unknown (NaN) with fewer than two units, if the value is undefined, or if it is undefined
    in over a tenth of the resamples (for example, AUC with two positives).
    """
    draws = np.where(np.abs(draws) < _ROUNDING, 0.0, draws)
    value, resampled, n = draws[:, 0].copy(), draws[:, 1:], np.asarray(units, dtype=np.float64)
    finite = np.isfinite(resampled)
    count = np.maximum(finite.sum(axis=1), 1)
    known = (n >= 2) & np.isfinite(value) & (count >= _MIN_DEFINED * resampled.shape[1])
    mean = np.where(finite, resampled, 0.0).sum(axis=1) / count
    off = np.where(finite, resampled - mean[:, None], 0.0)
    spread = np.sqrt((off**2).sum(axis=1) / count)
    spread[spread < _ROUNDING] = 0.0
    skew, tail = (np.zeros(len(draws)),) * 2 if weights is None else _skewness(off, weights, count, spread)
    known &= (spread > 0) | (value == 0) | (n >= _FEWEST_ALIKE)
    unknown = np.where(known, 0.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        # not n - 1: units of unequal weight vary less in a sample than their number suggests (as in HC3)
        error = spread * n / np.maximum(n - 2, 1)
    return Estimates(value, error + unknown, skew + unknown, tail + unknown, n - 1 + unknown)


def _skewness(off: Floats, weights: Floats, count: Ints, spread: Floats) -> tuple[Floats, Floats]:
    """`skew` and `tail` of estimates, from the influence of their units."""
    cubes = (off @ (weights[:, 1:] - 1).T / count[:, None]) ** 3
    total = np.abs(cubes).sum(axis=1)
    largest = np.divide(np.abs(cubes).max(axis=1), total, out=np.zeros_like(total), where=total > 0)
    skew: Floats = np.divide(cubes.sum(axis=1), spread**3, out=np.zeros_like(total), where=spread > 0)
    return skew, skew * (1 + _UNSEEN * largest)


def interval(draws: Floats, n: int, level: float = LEVEL) -> Interval:
    """Interval of one draw vector over `n` independent ids, drawn by the default weights; see `estimates`."""
    found = estimates(draws[None], [n], resample_weights(n, len(draws) - 1))
    low, high = found.bounds(level)
    return Interval(float(found.value[0]), float(low[0]), float(high[0]), n)


def difference(first: Floats, second: Floats, n: int, level: float = LEVEL) -> Difference:
    """Paired difference `first - second` of two draw vectors made with the default weights; see `estimates`."""
    found = estimates((first - second)[None], [n], resample_weights(n, len(first) - 1))
    low, high = found.bounds(level)
    return Difference(float(found.value[0]), float(low[0]), float(high[0]), n, float(found.p()[0]))


def mean_draws(vectors: Sequence[Floats]) -> Floats:
    """Mean over cells (languages, prompts or seeds), draw by draw: the cells are resampled jointly.

    A draw that is undefined in one cell is undefined in the mean, so that the members of a mean never change silently.
    """
    mean: Floats = np.mean(np.stack(vectors), axis=0)
    return mean


def _cubed(t: Floats, skew: Floats) -> Floats:
    """Hall's cubic of a studentised value, for a skewness of at least 0."""
    found: Floats = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
    return found


def _uncubed(reach: Floats, skew: Floats) -> Floats:
    """Inverse of `_cubed`, which rises everywhere: its derivative is a square."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(skew > 1e-8, 3 / skew * (np.cbrt(1 + skew * (reach - skew / 6)) - 1), reach)
    return found
