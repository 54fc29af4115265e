"""Decision rules shared by the verdict and the promotion gate, so that the two cannot disagree.

Every rule reads one *paired* difference with its 95 % interval, with its sign so that + is better:

======================  =============================================================================================
gained                  the whole interval is above 0
lost                    the whole interval is below 0
not shown               anything else, an unknown interval included
kept                    the interval's lower end is at least -tolerance: a larger loss is excluded
lost, within the limit  the same, and the whole interval is below 0: a loss is shown, a larger one is excluded
forgot                  the whole interval is below -tolerance: the loss is at least that large
not shown either way    anything else, an unknown interval included
one run                 of a recipe (not of a model): the interval would show one of these, but the luck of training is
                        neither measured by several seeds nor declared by `evaluate.seed_spread`
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from ialign_ray.config import Experiment, LmEvalSuite
from ialign_ray.config.evaluate import PrimaryConfig
from ialign_ray.evaluation.metrics.bootstrap import Difference
from ialign_ray.evaluation.metrics.registry import lower_is_better
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, SuiteKind

GAINED: Final = "gained"
LOST: Final = "lost"
NOT_SHOWN: Final = "not shown"
KEPT: Final = "kept"
WITHIN: Final = "lost, within the limit"
FORGOT: Final = "forgot"
EITHER: Final = "not shown either way"
ONE_RUN: Final = "one run"

UNMEASURED: Final = "unmeasured"
"""Value of a comparison's `luck` if its recipes have one training seed each and no spread is declared."""


@dataclass(frozen=True)
class Rules:
    """Runs and limits that judge an evaluation, declared before anything is measured."""

    base: str = "base"
    control: str = "control"
    scorer: str = "sum"
    """Label scorer of classification suites."""
    tolerance: float = 0.02
    """Largest acceptable loss of a score on old languages."""
    loss_tolerance: float = 0.1
    """Largest acceptable rise of loss on old work: nats/token of old instructions, bits/byte of old translations."""
    old: frozenset[str] = frozenset()
    """Codes of the old languages (L1)."""
    better_on: frozenset[str] = frozenset()
    """Suites on which a candidate must be better on the new languages."""
    least_gain: float | Mapping[str, float] = 0.0
    """The smallest gain that is worth a promotion, one or by suite."""
    min_rows: int = 30
    """Fewest sentences in common for a promotion."""
    collapse_share: float = 0.8
    """Share of a language's predictions above which a label is a collapse."""
    half_width: float = 0.05
    """Widest interval that needs no warning; a wider one needs more sentences."""
    primary: PrimaryConfig | None = None
    """The one comparison that was declared before anything was measured."""


def rules_of(experiment: Experiment) -> Rules:
    """Return rules with the limits that an experiment declares."""
    promotion, evaluate = experiment.promotion, experiment.evaluate
    return Rules(
        scorer=evaluate.scorer,
        tolerance=evaluate.tolerance,
        loss_tolerance=promotion.loss_tolerance,
        old=frozenset(experiment.languages.l1),
        better_on=frozenset(promotion.better_on or _default_suites(experiment)),
        least_gain=promotion.least_gain,
        min_rows=promotion.min_rows,
        primary=evaluate.primary,
    )


def turned(row: Mapping[Any, Any]) -> Difference:
    """Paired difference of one row of `summary.compare`, with its sign so that + is better."""
    value, low, high = (float(row[field]) for field in ("value", "low", "high"))
    if lower_is_better(row["metric"]):
        # turning the sign swaps the ends of the interval
        value, low, high = -value, -high, -low
    return Difference(value, low, high, int(row["n"]), float(row["p"]))


def gain_outcome(better: Difference) -> str:
    """Return `gained`, `lost` or `not shown` for a difference in which + is better."""
    if better.low > 0:
        return GAINED
    return LOST if better.high < 0 else NOT_SHOWN


def forgetting_outcome(better: Difference, tolerance: float) -> str:
    """Return `kept`, `lost, within the limit`, `forgot` or `not shown either way`; + is better."""
    if better.low >= -tolerance:
        return WITHIN if better.high < 0 else KEPT
    return FORGOT if better.high < -tolerance else EITHER


def of_recipe(outcome: str, luck: str) -> str:
    """Outcome for a recipe: `one run` if something is shown only for a model whose training luck is unknown."""
    return ONE_RUN if luck == UNMEASURED and outcome not in (NOT_SHOWN, EITHER) else outcome


def tolerance_of(kind: SuiteKind, rules: Rules) -> float | None:
    """Tolerance of a kind's change on old work, in its metric's unit; None if no limit has such a unit."""
    if kind.old == "score":
        return rules.tolerance
    return rules.loss_tolerance if lower_is_better(kind.metric) else None


def judged_rows(pairs: pd.DataFrame, kind: SuiteKind, rules: Rules, metric: str | None = None) -> pd.DataFrame:
    """Rows of `summary.compare` in the mean over prompts, of the chosen scorer and the chief metric of a kind."""
    wanted = (pairs["metric"] == (metric or kind.metric)) & (pairs["scorer"] == kind.scored(rules.scorer))
    return pairs[wanted & (pairs["prompt"] == "all")]


def is_primary(comparisons: pd.DataFrame, rules: Rules) -> pd.Series:
    """Mask of the rows of `summary.compare` that are the declared primary end point, one per arm."""
    declared = rules.primary
    if declared is None:
        return pd.Series(False, comparisons.index)
    kinds = comparisons["kind"].map(SUITES)
    metric = declared.metric or kinds.map(lambda kind: kind.metric)
    scorer = kinds.map(lambda kind: kind.scored(rules.scorer))
    scope = declared.group if declared.group == "all" else f"group:{declared.group}"
    return (
        (comparisons["suite"] == declared.suite)
        & (comparisons["metric"] == metric)
        & (comparisons["scorer"] == scorer)
        & (comparisons["scope"] == scope)
        & (comparisons["prompt"] == "all")
        & (comparisons["against"] == {"control": rules.control, "base": rules.base}[declared.against])
    )


def _default_suites(experiment: Experiment) -> list[str]:
    new = set(experiment.languages.l2)
    by_proof: dict[int, list[str]] = {}
    for suite in experiment.evaluate.suites:
        proof = SUITES[suite.kind].proof
        measured = (
            suite.languages_in(experiment.languages.groups())
            if isinstance(suite, LmEvalSuite)
            else getattr(suite, "measured", ())
        )
        if proof is not None and new & set(measured):
            by_proof.setdefault(proof, []).append(suite.name)
    return by_proof[min(by_proof)] if by_proof else []
