"""Training luck: the spread over training seeds as part of a difference's standard error.

A difference between two *recipes* is uncertain for two reasons: other test sentences, and other training seeds. Its
variance is estimated as in an analysis of variance of seeds crossed with sentences (Searle, Casella and McCulloch,
Variance Components, 1992): that of the sentences without what a seed does to single sentences, plus that of the mean
over the seeds' own differences, which holds the latter.

- Both recipes have the same three or more seeds: paired by seed, as data order and initialisation are shared. Seeds
  and sentences are weighed after Cochran and Cox (1957); so are several seeds against a model without luck (the base).
- Other numbers of seeds, or two: the two recipes' variances are added (Welch-Satterthwaite). Two pairs would leave one
  degree of freedom, which shows nothing below 12.7 standard errors.
- Only one of the two has several seeds: the other's luck is taken to be as large.
- Neither has: the declared spread (`evaluate.seed_spread`), or none. Then luck is `unmeasured`, the interval covers the
  choice of sentences alone, and no verdict about a recipe follows from it.

Two equal recipes are told apart in .02 to .065 of simulations (nominal .05) for 2, 3 and 5 seeds, whatever the share of
luck (docs/evaluation.md); without counting it in up to .34.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from ialign_ray.evaluation.metrics.bootstrap import LEVEL, Estimates, quantile
from ialign_ray.evaluation.results.cells import CellDraws
from ialign_ray.evaluation.rules import UNMEASURED

NONE: Final = "none"
"""Both are given models, not recipes: there is no luck to count."""
MEASURED: Final = "measured"
DECLARED: Final = "declared"
LUCK_UNKNOWN: Final = "one training run: cannot be told from luck (train more seeds, or declare evaluate.seed_spread)"

_FREEDOM: Final = np.geomspace(1.0, 1e5, 2000)
_REACH: Final = quantile((1 + LEVEL) / 2, _FREEDOM)  # falls


class Luck(NamedTuple):
    """What training seeds add to one difference."""

    kind: str
    seeds: int
    """Training seeds of the recipes compared, the smaller number."""
    seed_sd: float
    """Standard deviation of the difference over seeds; NaN where it is not measured."""
    parts: tuple[tuple[float, float], ...]
    """Variance and degrees of freedom of each independent part, of the mean over seeds."""
    interaction: float
    """Variance that the parts share with the sentences': what a seed does to single sentences."""


def with_luck(
    found: Estimates,
    pairs: Sequence[tuple[CellDraws, CellDraws]],
    recipes: tuple[bool, bool],
    declared: Sequence[float | None],
) -> tuple[Estimates, list[Luck]]:
    """Differences of `pairs` over sentences (`found`) with the luck of training, and what is known of that luck.

    `recipes`: True for each side whose training is part of the claim; False for a model as it is (base, baseline, a
    registered version). `declared`: the spread over seeds that the experiment declares for each pair's metric.
    """
    lucks = [luck_of(first, second, recipes, known) for (first, second), known in zip(pairs, declared, strict=True)]
    variance, freedom = found.error**2, found.freedom.copy()
    for row, luck in enumerate(lucks):
        if luck.parts and np.isfinite(variance[row]):
            variance[row], freedom[row] = _total(float(variance[row]), float(freedom[row]), luck)
    return found.with_variance(variance, freedom), lucks


def luck_of(first: CellDraws, second: CellDraws, recipes: tuple[bool, bool], declared: float | None) -> Luck:
    """What is known of the training luck in `first - second`."""
    sides = [side for side, recipe in zip((first, second), recipes) if recipe]
    seeds = min((len(side.values) for side in sides), default=1)
    many = [side for side in sides if len(side.values) > 1]
    if not sides:
        return Luck(NONE, seeds, float("nan"), (), 0.0)
    if not many:
        if declared is None:
            return Luck(UNMEASURED, 1, float("nan"), (), 0.0)
        variance = len(sides) * declared**2
        return Luck(DECLARED, 1, float(np.sqrt(variance)), ((variance, np.inf),), 0.0)
    if len(sides) == 2 and len(many) == 2 and len(first.values) == len(second.values) > 2:
        return _paired(first, second)
    # where one side has a single seed, the other's luck stands in for its own
    known = [(many[0] if len(side.values) == 1 else side, len(side.values)) for side in sides]
    spreads = [(float(np.var(side.values, ddof=1)), side.interaction(), k) for side, k in known]
    interaction = sum(shared / k for _, shared, k in spreads)
    sd = float(np.sqrt(sum(variance for variance, _, _ in spreads)))
    parts = [(variance / k, len(side.values) - 1.0) for (variance, _, k), (side, _) in zip(spreads, known)]
    if len(many) < len(sides):  # one estimate, used twice
        parts = [(sum(variance for variance, _ in parts), parts[0][1])]
    return Luck(MEASURED, max(seeds, 1), sd, tuple(parts), interaction)


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
    return Luck(MEASURED, k, float(np.sqrt(variance)), ((variance / k, k - 1.0),), change.interaction() / k)


def _total(sentences: float, freedom: float, luck: Luck) -> tuple[float, float]:
    """Variance of a difference with its luck, and degrees of freedom that give its 95 % interval."""
    alone = max(sentences - luck.interaction, 0.0)
    trained = sum(variance for variance, _ in luck.parts)
    total = alone + trained
    if not trained > 0:
        return sentences, freedom
    if len(luck.parts) == 1:
        share, own = trained / total, luck.parts[0][1]
        by_sentences, by_seeds = quantile((1 + LEVEL) / 2, [freedom, own])
        reach = (1 - share) * by_sentences + share * by_seeds
        return total, float(np.interp(reach, _REACH[::-1], _FREEDOM[::-1]))
    squares = alone**2 / freedom + sum(variance**2 / own for variance, own in luck.parts)
    return total, total**2 / squares


def declared_spread(spread: float | dict[str, float] | None, metric: str) -> float | None:
    """The spread over seeds that `evaluate.seed_spread` declares for a metric, or None."""
    return spread.get(metric) if isinstance(spread, dict) else spread
