"""Training luck: the spread over training seeds as part of a difference's standard error.

A difference between two *recipes* is uncertain for two reasons: other test sentences, and other training seeds. Its
variance is estimated as in an analysis of variance of seeds crossed with sentences (Searle, Casella and McCulloch,
Variance Components, 1992): that of the sentences without the effect of a seed on single sentences, plus that of the
mean over the differences of the seeds, which includes this effect.

- Both recipes have the same three or more seeds: paired by seed, as data order and initialisation are shared.
- Other numbers of seeds, or two: the spread of both is pooled. Two pairs would leave one degree of freedom, which shows
  nothing below 12.7 standard errors.
- Several seeds against a model without luck (the base): their spread. Against a recipe with a single seed: its luck is
assumed to be as large.
- Neither has several: the declared spread (`evaluate.seed_spread`). Without one, luck is `unmeasured`, the interval
covers only the choice of sentences, and no verdict about a recipe follows from it.

Seeds are few, so their variance has few degrees of freedom, while that of the sentences has many. As in Cochran and Cox
(1957), the critical value is the mean of the two t values, weighted by the share of each in the variance; the share of
the seeds is raised to the power of 1.25, as the original weights are conservative. Equal recipes are found different in
.03 to .06 of simulations (nominal .05) for 2, 3 and 5 seeds (docs/evaluation.md); without counting the seeds in, in .08
to .45.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ialign_ray.evaluation.metrics.bootstrap import LEVEL, Estimates, quantile
from ialign_ray.evaluation.results.cells import CellDraws
from ialign_ray.evaluation.rules import UNMEASURED

NONE: Final = "none"
"""Both are fixed models, not recipes: there is no training luck."""
MEASURED: Final = "measured"
DECLARED: Final = "declared"
LUCK_UNKNOWN: Final = (
    "one training run: cannot be distinguished from luck (train more seeds, or declare evaluate.seed_spread)"
)

_WEIGHT: Final = 1.25
_FREEDOM: Final = np.geomspace(1.0, 1e5, 2000)
_REACH: Final = quantile((1 + LEVEL) / 2, _FREEDOM)  # falls


class Luck(NamedTuple):
    """Contribution of training seeds to the variance of one difference."""

    kind: str
    seeds: int
    """Training seeds of the recipes compared, the smaller number."""
    seed_sd: float
    """Standard deviation of the difference over seeds; NaN if it was not measured."""
    variance: float = 0.0
    """Variance of the mean difference due to seeds."""
    freedom: float = np.inf
    """Degrees of freedom of `variance`."""
    interaction: float = 0.0
    """Part of `variance` that is also in the sentences' variance: the effect of a seed on single sentences."""


def with_luck(
    found: Estimates,
    pairs: Sequence[tuple[CellDraws, CellDraws]],
    recipes: tuple[bool, bool],
    declared: Sequence[float | None],
) -> tuple[Estimates, list[Luck]]:
    """Add the training luck to the differences of `pairs` over sentences (`found`); return its state too.

    `recipes`: True for each side whose training is part of the claim; False for a fixed model (base, baseline, a
    registered version). `declared`: the spread over seeds that the experiment declares for each pair's metric.
    """
    lucks = [luck_of(first, second, recipes, known) for (first, second), known in zip(pairs, declared, strict=True)]
    variance, freedom = found.error**2, found.freedom.copy()
    for row, luck in enumerate(lucks):
        if luck.variance > 0 and np.isfinite(variance[row]):
            variance[row], freedom[row] = _total(float(variance[row]), float(freedom[row]), luck)
    return found.with_variance(variance, freedom), lucks


def luck_of(first: CellDraws, second: CellDraws, recipes: tuple[bool, bool], declared: float | None) -> Luck:
    """State of the training luck in `first - second`."""
    sides = [side for side, recipe in zip((first, second), recipes) if recipe]
    seeds = min((len(side.values) for side in sides), default=1)
    many = [side for side in sides if len(side.values) > 1]
    if not sides:
        return Luck(NONE, seeds, float("nan"))
    if not many:
        if declared is None:
            return Luck(UNMEASURED, 1, float("nan"))
        return Luck(DECLARED, 1, float(np.sqrt(len(sides)) * declared), len(sides) * declared**2)
    if len(sides) == 2 and len(many) == 2 and len(first.values) == len(second.values) > 2:
        return _paired(first, second)
    freedom = sum(len(side.values) - 1.0 for side in many)
    spread, interaction = (
        sum((len(side.values) - 1) * of(side) for side in many) / freedom
        for of in (lambda side: float(np.var(side.values, ddof=1)), CellDraws.interaction)
    )
    means = sum(1 / len(side.values) for side in sides)
    return Luck(MEASURED, seeds, float(np.sqrt(len(sides) * spread)), spread * means, freedom, interaction * means)


def _paired(first: CellDraws, second: CellDraws) -> Luck:
    k = len(first.values)
    change = CellDraws(
        first.draws - second.draws,
        first.n,
        first.units,
        tuple(a - b for a, b in zip(first.values, second.values, strict=True)),
        first.seeds - second.seeds,
    )
    variance = float(np.var(change.values, ddof=1))
    return Luck(MEASURED, k, float(np.sqrt(variance)), variance / k, k - 1.0, change.interaction() / k)


def _total(sentences: float, freedom: float, luck: Luck) -> tuple[float, float]:
    """Variance of a difference with its luck, and degrees of freedom that give its 95 % interval."""
    total = max(sentences - luck.interaction, 0.0) + luck.variance
    by_sentences, by_seeds = quantile((1 + LEVEL) / 2, [freedom, luck.freedom])
    reach = by_sentences + (by_seeds - by_sentences) * (luck.variance / total) ** _WEIGHT
    return total, float(np.interp(reach, _REACH[::-1], _FREEDOM[::-1]))


def declared_spread(spread: float | dict[str, float] | None, metric: str) -> float | None:
    """The spread over seeds that `evaluate.seed_spread` declares for a metric, or None."""
    return spread.get(metric) if isinstance(spread, dict) else spread
