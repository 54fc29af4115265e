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
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.classification import (
    Floats,
    Ints,
    extreme_margin,
    length_strata,
    predict,
)

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
    """How often each unit is drawn: (units, resamples + 1), column 0 all ones, other columns sum to `units`.

    Depends on its arguments alone, so runs over the same sorted ids are resampled alike.
    """
    if units < 1 or resamples < 1:
        raise DataError(f"bootstrap: need a unit and a resample, got {units} units and {resamples} resamples")
    picks = np.random.default_rng(seed).integers(units, size=(resamples, units))
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


def classification_draws(
    weights: Floats, unit: Ints, gold: Ints, scores: Floats, chars: ArrayLike
) -> dict[str, Floats]:
    """`metrics.classification_metrics` of one cell as draw vectors.

    `weights` (units, draws); for each row `unit` (rows,) its unit's index, `gold` (rows,), `scores`
    (rows, labels), `chars` (rows,). All inputs already checked by `metrics.score_matrix` and `gold_labels`.
    """
    labels = scores.shape[1]
    confusion = confusion_draws(weights, unit, gold, predict(scores))
    total = confusion.sum(axis=(0, 1))
    extreme = (gold == 0) | (gold == labels - 1)
    ranked = (weights, unit[extreme], gold[extreme] > 0, extreme_margin(scores)[extreme])
    strata = length_strata(np.asarray(chars)[extreme])
    shares = _ratio(confusion.sum(axis=0), total)
    return {
        "f1_weighted": f1_draws(confusion, "weighted"),
        "f1_macro": f1_draws(confusion, "macro"),
        "accuracy": _ratio(np.trace(confusion), total),
        "auc": auc_draws(*ranked, np.zeros_like(strata)),
        "auc_length_fixed": auc_draws(*ranked, strata),
        **{f"share_{label}": shares[label] for label in range(labels)},
    }


def likelihood_draws(
    weights: Floats, unit: Ints, nats: Floats, sizes: Floats, mismatched_nats: Floats | None = None
) -> Floats:
    """Total nats per unit of `sizes` (bytes or tokens) as a draw vector; all row inputs are (rows,).

    With `mismatched_nats` it is what the right source saves, `metrics.source_use` before the division by
    ln 2; rows where it is NaN are left out.
    """
    cost = nats if mismatched_nats is None else mismatched_nats - nats
    known = np.isfinite(cost)
    return _ratio(
        _by_unit(unit[known], cost[known], len(weights)) @ weights,
        _by_unit(unit[known], sizes[known], len(weights)) @ weights,
    )


def confusion_draws(weights: Floats, unit: Ints, gold: Ints, predicted: Floats) -> Floats:
    """Confusion matrices (labels, labels, draws), gold by predicted; `predicted` is `metrics.predict`'s."""
    labels, units = predicted.shape[1], len(weights)
    flat = (gold[:, None] * labels + np.arange(labels)) * units + unit[:, None]
    counts = np.bincount(flat.ravel(), predicted.ravel(), minlength=labels * labels * units)
    confusion: Floats = (counts.reshape(labels * labels, units) @ weights).reshape(labels, labels, -1)
    return confusion


def f1_draws(confusion: Floats, average: Literal["weighted", "macro"]) -> Floats:
    """F1 (draws,) of confusion matrices (labels, labels, draws), as scikit-learn with zero_division=0.

    Macro averages over labels that occur in gold or predictions of that draw. NaN for an empty draw.
    """
    support = confusion.sum(axis=1)
    occurring = support + confusion.sum(axis=0)
    hits = 2 * np.einsum("iid->id", confusion)
    per_label = np.divide(hits, occurring, out=np.zeros_like(hits), where=occurring > 0)
    share = support if average == "weighted" else (occurring > 0).astype(np.float64)
    return _ratio((share * per_label).sum(axis=0), share.sum(axis=0))


def auc_draws(weights: Floats, unit: Ints, positive: ArrayLike, margin: Floats, stratum: Ints) -> Floats:
    """AUC (draws,) over pairs inside a stratum, each pair weighted by how often both rows were drawn.

    `unit`, `positive` (bool), `margin` and `stratum` are (rows,). Negatives are sorted once; a running sum
    of their weights tells each positive how many it beats, so the cost is linear in rows. Ties count half.
    """
    is_positive = np.asarray(positive, dtype=bool)
    # One integer key orders rows by stratum, then margin; equal margins share a key.
    by_margin = np.unique(margin, return_inverse=True)[1].astype(np.int64)
    base = stratum * (by_margin.max(initial=0) + 1)
    key = base + by_margin
    below = np.argsort(key[~is_positive], kind="stable")
    negatives = key[~is_positive][below]
    running = np.zeros((negatives.size + 1, weights.shape[1]))
    np.cumsum(weights[unit[~is_positive][below]], axis=0, out=running[1:])

    def up_to(keys: Ints, side: Literal["left", "right"]) -> Floats:
        return running[np.searchsorted(negatives, keys, side=side)]

    own, start = key[is_positive], base[is_positive]
    drawn, floor = weights[unit[is_positive]], up_to(start, "left")
    beaten = (up_to(own, "left") + up_to(own, "right")) / 2 - floor
    faced = up_to(start + by_margin.max(initial=0), "right") - floor
    return _ratio(np.einsum("rd,rd->d", drawn, beaten), np.einsum("rd,rd->d", drawn, faced))


def _by_unit(unit: Ints, values: Floats, units: int) -> Floats:
    return np.bincount(unit, values, minlength=units).astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    ratio: Floats = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=np.broadcast_to(denominator > 0, ratio.shape))
    return ratio
