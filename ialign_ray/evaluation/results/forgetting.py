"""Retention of old work: every old task against base, backward transfer, and one declared retention number.

The sign of changes is such that + is better. *Backward transfer* is the mean over old tasks of the score after training
less the score before (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, with one later task); an old task is an L1 language
of a suite that is scored right or wrong. *Retention* is the same of what `evaluate.retention` declares, judged by its
tolerance as `evaluation.rules` does: `retained`, `lost, within the limit`, `lost`, `not shown` or `one run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from ialign_ray.config import EvaluateConfig
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.metrics.bootstrap import Difference, estimates, mean_draws
from ialign_ray.evaluation.metrics.registry import in_words, lower_is_better
from ialign_ray.evaluation.results.cells import CellDraws, Key, Measured
from ialign_ray.evaluation.results.significance import to_show
from ialign_ray.evaluation.results.summary import on_common_ids
from ialign_ray.evaluation.results.training_luck import LUCK_UNKNOWN, NONE, declared_spread, with_luck
from ialign_ray.evaluation.rules import (
    EITHER,
    FORGOT,
    KEPT,
    LOST,
    NOT_SHOWN,
    ONE_RUN,
    WITHIN,
    forgetting_outcome,
    of_recipe,
    turned,
)
from ialign_ray.evaluation.scoring.suite_kinds import SUITES

RETAINED = "retained"
OLD: Final = "L1"


@dataclass(frozen=True)
class Retention:
    """The declared number of one run: its change against base, and the outcome."""

    run: str
    what: str
    """Suites, group and metric, as text."""
    change: Difference
    tolerance: float
    detectable: float
    tasks: int
    luck: str = NONE
    """State of the training luck, a word of `training_luck`."""

    @property
    def outcome(self) -> str:
        """`retained`, `lost, within the limit`, `lost`, `not shown` or `one run`."""
        return of_recipe(self._of_model, self.luck)

    @property
    def _of_model(self) -> str:
        found = forgetting_outcome(self.change, self.tolerance)
        return {KEPT: RETAINED, FORGOT: LOST, EITHER: NOT_SHOWN}.get(found, found)

    @property
    def text(self) -> str:
        """One sentence."""
        within = f"within {self.tolerance:g}"
        said = {
            RETAINED: f"{self.run} retained its old work, {within}",
            WITHIN: f"{self.run} lost some of its old work, {within}",
            LOST: f"{self.run} lost more than {self.tolerance:g} of its old work",
            NOT_SHOWN: f"it is not shown whether {self.run} retained its old work, {within}",
        }
        alone = f"; {LUCK_UNKNOWN}" if self.outcome == ONE_RUN else ""
        return f"Retention: {said[self._of_model]}: {self.numbers}{self._more()}{alone}."

    @property
    def numbers(self) -> str:
        """The change with its interval and n."""
        c = self.change
        return f"{c.value:+.3f} [{c.low:+.3f}, {c.high:+.3f}] {self.what} against base (n = {c.n})"

    def _more(self) -> str:
        if self.outcome != NOT_SHOWN or self.change.high < 0:
            return ""
        return to_show(self.change.n, self.detectable, self.tolerance)


def old_tasks(comparisons: pd.DataFrame, groups: dict[str, str], scorer: str, base: str = "base") -> pd.DataFrame:
    """One row per run and old task: its change against base, + is better.

    Columns: run, suite, kind, language (of L1, or a source of instructions), metric, value, low, high, n, p, p_holm,
    detectable.
    """
    if comparisons.empty:
        return pd.DataFrame()
    of_base = comparisons[(comparisons["against"] == base) & (comparisons["prompt"] == "all")]
    rows = []
    for row in of_base.to_dict("records"):
        kind, language = SUITES[row["kind"]], str(row["scope"]).removeprefix("language:")
        old = str(row["scope"]).startswith("language:") and (kind.by_source or _is_old(language, groups))
        if old and kind.old and (row["metric"], row["scorer"]) == (kind.metric, kind.scored(scorer)):
            rows.append(row | vars(turned(row)) | {"language": language})
    names = ["run", "suite", "kind", "language", "metric", "value", "low", "high", "n", "p", "p_holm", "detectable"]
    return pd.DataFrame(rows, columns=names)


def backward_transfer(run: str, after: Measured, base: Measured, settings: EvaluateConfig) -> Retention | None:
    """Mean change over the old tasks that are scored right or wrong; None without such a task."""
    scorer = settings.scorer
    scopes = [f"language:{code}" for code, group in after.plan.groups.items() if group == OLD]
    keys = [k for k in _chief_keys(after, scorer) if k.scope in scopes and SUITES[k.kind].old == "score"]
    return _mean_change(run, after, base, keys, f"backward transfer over {OLD} languages", 0.0, settings.seed_spread)


def retention(run: str, after: Measured, base: Measured, settings: EvaluateConfig) -> Retention | None:
    """The number that `evaluate.retention` declares, or None if the run has no such suite.

    Raises ConfigError for a metric that was not measured.
    """
    declared = settings.retention
    keys = [k for k in _keys(after, settings.scorer, declared.metric) if declared.suite in (None, k.suite)]
    there = declared.suite is None or any(k.suite == declared.suite for k in after.measures)
    if declared.metric and there and not keys:
        raise ConfigError(f"evaluate.retention.metric is {declared.metric!r}, which none of its suites measures")
    scope = f"group:{declared.group}" if declared.group != "all" else "all"
    of_scope = [k for k in keys if k.scope == scope and (declared.suite or SUITES[k.kind].old == "score")]
    tolerance = settings.tolerance if declared.tolerance is None else declared.tolerance
    metrics = " and ".join(sorted({in_words(k.metric) for k in of_scope}))
    what = f"{metrics} on {declared.group} of {', '.join(k.suite for k in of_scope)}"
    return _mean_change(run, after, base, of_scope, what, tolerance, settings.seed_spread)


def _mean_change(
    run: str,
    after: Measured,
    base: Measured,
    keys: Sequence[Key],
    what: str,
    tolerance: float,
    seed_spread: float | dict[str, float] | None,
) -> Retention | None:
    first, second = on_common_ids(run, after, "base", base)
    pairs = [(k, first.measures[k], second.measures[k]) for k in keys if k in second.measures]
    if not pairs:
        return None
    suites = [k.suite for k, _, _ in pairs]
    # signs are aligned before the mean, since suites may have metrics of either direction
    signs = [-1.0 if lower_is_better(k.metric) else 1.0 for k, _, _ in pairs]
    sides = _mean(signs, [a for _, a, _ in pairs], suites), _mean(signs, [b for _, _, b in pairs], suites)
    # over several suites with separate weights, the mean is taken as symmetric
    weights = first.weights(suites[0]) if len(set(suites)) == 1 else None
    sentences = estimates((sides[0].draws - sides[1].draws)[None], [sides[0].units], weights)
    spreads = {declared_spread(seed_spread, k.metric) for k, _, _ in pairs}
    declared = None if None in spreads else max(s for s in spreads if s is not None)
    found, [luck] = with_luck(sentences, [sides], (True, False), [declared])
    low, high = found.bounds()
    change = Difference(float(found.value[0]), float(low[0]), float(high[0]), sides[0].n, float(found.p()[0]))
    return Retention(run, what, change, tolerance, float(found.detectable()[0]), len(pairs), luck.kind)


def _mean(signs: Sequence[float], measures: Sequence[CellDraws], suites: Sequence[str]) -> CellDraws:
    """The mean of measures with aligned signs; each suite's sentences count once, whatever the number of its
    languages."""
    first = dict(zip(suites, measures, strict=True))
    return CellDraws(
        mean_draws([sign * m.draws for sign, m in zip(signs, measures)]),
        sum(m.n for m in first.values()),
        sum(m.units for m in first.values()),
        tuple(np.mean([[sign * v for v in m.values] for sign, m in zip(signs, measures)], axis=0).tolist()),
        np.mean([sign * m.seeds for sign, m in zip(signs, measures)], axis=0, dtype=np.float32),
    )


def _chief_keys(measured: Measured, scorer: str) -> Iterator[Key]:
    yield from _keys(measured, scorer, None)


def _keys(measured: Measured, scorer: str, metric: str | None) -> Iterator[Key]:
    """Keys, in the mean over prompts, of a metric or of the chief metric of each kind."""
    for key in measured.measures:
        kind = SUITES[key.kind]
        if (key.prompt, key.scorer, key.metric) == ("all", kind.scored(scorer), metric or kind.metric):
            yield key


def _is_old(language: str, groups: dict[str, str]) -> bool:
    return all(groups.get(side) == OLD for side in language.split("-"))
