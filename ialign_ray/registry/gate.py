"""The gate before an alias: better on the new languages, and not worse on the old ones than the present champion.

Every check reads one *paired* difference with its 95 % interval, turned so that + is better:

===========  ==========================================================================================
better       the whole interval lies above 0 (new languages, on each suite of `better_on`)
not worse    the interval does not lie below 0 as a whole (new languages, on the other suites)
kept         the interval's lower end is at least -tolerance (old languages, each and together; old
             instructions): a larger loss is excluded
===========  ==========================================================================================

A promotion needs every check, so no correction for their number is due: the chance that all pass by luck is
below that of any one (an intersection-union test, Berger 1982). What cannot be judged, because an interval is
unknown or too few sentences are in common, does not pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from ialign_ray.evaluation.metrics.bootstrap import Difference
from ialign_ray.evaluation.metrics.classification import LOWER_IS_BETTER
from ialign_ray.evaluation.metrics.registry import KINDS, Kind

Side = Literal["new", "old"]
NEW: Final[Side] = "new"
OLD: Final[Side] = "old"


@dataclass(frozen=True)
class Rules:
    """The limits, as the candidate's experiment declares them."""

    scorer: str
    """Label scorer of classification suites."""
    old: frozenset[str]
    """Codes of the old languages (L1)."""
    better_on: frozenset[str]
    """Suites on which the new languages must be better."""
    tolerance: float = 0.02
    loss_tolerance: float = 0.1
    min_rows: int = 30


@dataclass(frozen=True)
class Check:
    """One paired difference, judged."""

    side: Side
    passed: bool
    text: str


@dataclass(frozen=True)
class GateDecision:
    """All checks of a candidate; accepted when there are some on both sides and every one passes."""

    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        """Whether the candidate may have the alias."""
        return not self.refusals

    @property
    def refusals(self) -> list[str]:
        """Why not: the checks that fail, and what nothing measures."""
        failed = [check.text for check in self.checks if not check.passed]
        measured = {check.side for check in self.checks}
        if NEW not in measured:
            failed.append("no suite measures a new language (languages.l2); add one and evaluate")
        if OLD not in measured:
            failed.append("no suite measures an old language (languages.l1) or old instructions; add one and evaluate")
        return failed


def judge(pairs: pd.DataFrame, rules: Rules, sides: Collection[Side] = (NEW, OLD)) -> list[Check]:
    """Checks of one comparison, `pairs` as `evaluation.results.compare` makes them (candidate - other)."""
    checks: list[Check] = []
    if not len(pairs):
        return checks
    for suite, part in pairs[pairs["prompt"] == "all"].groupby("suite", sort=True):
        kind = KINDS.get(str(part["kind"].iloc[0]))
        if kind is None:
            continue
        rows = part[(part["metric"] == kind.metric) & (part["scorer"] == kind.scored(rules.scorer))]
        if NEW in sides and not kind.by_source:
            checks += _new(str(suite), kind, rows, rules)
        if OLD in sides:
            checks += _old(str(suite), kind, rows, rules)
    return checks


def _new(suite: str, kind: Kind, rows: pd.DataFrame, rules: Rules) -> Iterator[Check]:
    place, needed = f"new languages ({suite})", suite in rules.better_on
    found = rows[rows["scope"] == "group:L2"].to_dict("records")
    if needed and not found:
        yield Check(NEW, False, f"{place}: promotion.better_on names a suite without a new language (languages.l2)")
    for row in found:
        d = _better(row)
        if unknown := _unknown(d, rules):
            if needed:
                yield Check(NEW, False, f"{place}: {unknown}")
            continue
        outcome = "worse" if d.high < 0 else "better" if d.low > 0 else "not shown better"
        if needed or d.high < 0:
            told = f"{_signed(d)} {_unit(kind)} against {row['against']} (n = {d.n}, p = {d.p:.2g})"
            yield Check(NEW, d.low > 0, f"{place}: {outcome}, {told}")


def _old(suite: str, kind: Kind, rows: pd.DataFrame, rules: Rules) -> Iterator[Check]:
    if (tolerance := _tolerance(kind, rules)) is None:
        return
    for row in _old_rows(kind, rows, rules.old):
        place = _place(str(row["scope"]), suite)
        d = _better(row)
        if unknown := _unknown(d, rules):
            yield Check(OLD, False, f"{place}: {unknown}")
            continue
        unit, rest = _unit(kind), f"against {row['against']} (n = {d.n}, tolerance {tolerance:g})"
        if d.low >= -tolerance:
            yield Check(OLD, True, f"{place}: kept, {_signed(d)} {unit} {rest}")
            continue
        said = (
            f"worse by {-d.value:.3f} [{-d.high:.3f}, {-d.low:.3f}] {unit}"
            if d.high < 0
            else f"may be worse by up to {-d.low:.3f} {unit}, {_signed(d)}"
        )
        yield Check(OLD, False, f"{place}: {said} {rest}")


def _tolerance(kind: Kind, rules: Rules) -> float | None:
    """Of a kind's change on old work, in its metric's unit; None where no limit is declared for such a unit."""
    if kind.old == "score":
        return rules.tolerance
    return rules.loss_tolerance if kind.metric in LOWER_IS_BETTER else None


def _old_rows(kind: Kind, rows: pd.DataFrame, old: frozenset[str]) -> list[dict[Any, Any]]:
    """Each old language, and their mean where it says more; of instructions all sources together."""
    if kind.by_source:
        return rows[rows["scope"] == "all"].to_dict("records")
    each = rows[[_is_old(str(scope), old) for scope in rows["scope"]]]
    together = rows[rows["scope"] == "group:L1"] if len(each) > 1 else rows[:0]
    return pd.concat([together, each]).to_dict("records")


def _is_old(scope: str, old: frozenset[str]) -> bool:
    kind, _, language = scope.partition(":")  # a translation's is its direction, such as eng-ind
    return kind == "language" and set(language.split("-")) <= old


def _place(scope: str, suite: str) -> str:
    known = {"group:L1": "old languages together", "all": "old instructions"}
    return f"{known.get(scope, scope.removeprefix('language:'))} ({suite})"


def _unknown(d: Difference, rules: Rules) -> str | None:
    if d.n < rules.min_rows:
        return f"{d.n} sentences in common decide nothing, promotion.min_rows is {rules.min_rows}; evaluate on more"
    return f"{d.value:+.3f} without an interval (n = {d.n}); evaluate on more sentences" if np.isnan(d.low) else None


def _signed(d: Difference) -> str:
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def _unit(kind: Kind) -> str:
    return kind.shown[0][1]


def _better(row: dict[Any, Any]) -> Difference:
    value, low, high = (float(row[field]) for field in ("value", "low", "high"))
    if row["metric"] in LOWER_IS_BETTER:
        value, low, high = -value, -high, -low
    return Difference(value, low, high, int(row["n"]), float(row["p"]))
