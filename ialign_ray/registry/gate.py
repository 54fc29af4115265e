"""The gate before an alias: better on the new languages, and not worse on the old ones than any model before.

Every check judges one *paired* difference by the rules of the verdict (`evaluation.rules`):

===========  =========================================================================================================
better       gained by more than `least_gain`, at the level of the attempt (new languages, each suite of `better_on`)
not worse    not lost (new languages, on the other suites)
kept         kept within the tolerance (old languages, each and together; old instructions)
===========  =========================================================================================================

A promotion needs every check to pass, so their number needs no correction: the probability that all pass by chance is
below that of any one (an intersection-union test, Berger 1982). Repeated attempts at the same test sentences do need
one: `registry.attempts` gives the level at which a gain must be shown. A check that cannot be judged, because an
interval is unknown or too few sentences are in common, does not pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from ialign_ray.evaluation.metrics.bootstrap import Difference
from ialign_ray.evaluation.rules import (
    GAINED,
    KEPT,
    LOST,
    NOT_SHOWN,
    WITHIN,
    Rules,
    forgetting_outcome,
    gain_outcome,
    judged_rows,
    tolerance_of,
    turned,
)
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, SuiteKind

Side = Literal["new", "old"]
NEW: Final[Side] = "new"
OLD: Final[Side] = "old"
_WORDS: Final = {GAINED: "better", LOST: "worse", NOT_SHOWN: "not shown better"}


@dataclass(frozen=True)
class Check:
    """Judgement of one paired difference."""

    side: Side
    passed: bool
    text: str


@dataclass(frozen=True)
class GateDecision:
    """All checks of a candidate; it is accepted if both sides have checks and every check passes."""

    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        """True if the candidate may have the alias."""
        return not self.refusals

    @property
    def refusals(self) -> list[str]:
        """Reasons against the candidate: the checks that fail, and properties that no suite measures."""
        failed = [check.text for check in self.checks if not check.passed]
        measured = {check.side for check in self.checks}
        if NEW not in measured:
            failed.append("no suite measures a new language (languages.l2); add one and evaluate")
        if OLD not in measured:
            failed.append("no suite measures an old language (languages.l1) or old instructions; add one and evaluate")
        return failed


def judge(
    pairs: pd.DataFrame,
    rules: Rules,
    sides: Collection[Side] = (NEW, OLD),
    proof: pd.DataFrame | None = None,
    attempt: str = "",
) -> list[Check]:
    """Checks of one comparison; `pairs` come from `evaluation.results.compare` (candidate - other).

    `proof` is the same comparison at the level at which a gain must be shown, and `attempt` describes that level;
    without them the 95 % of `pairs` applies.
    """
    checks: list[Check] = []
    if not len(pairs):
        return checks
    for suite, part in pairs.groupby("suite", sort=True):
        kind = SUITES.get(str(part["kind"].iloc[0]))
        if kind is None:
            continue
        rows = judged_rows(part, kind, rules)
        if NEW in sides and not kind.by_source:
            shown = rows if proof is None else judged_rows(proof[proof["suite"] == suite], kind, rules)
            checks += _new(str(suite), kind, rows, shown, rules, attempt)
        if OLD in sides:
            checks += _old(str(suite), kind, rows, rules)
    return checks


def _new(
    suite: str, kind: SuiteKind, rows: pd.DataFrame, proof: pd.DataFrame, rules: Rules, attempt: str
) -> Iterator[Check]:
    place, needed = f"new languages ({suite})", suite in rules.better_on
    found, shown = (frame[frame["scope"] == "group:L2"].to_dict("records") for frame in (rows, proof))
    least = rules.least_gain.get(suite, 0.0) if isinstance(rules.least_gain, Mapping) else rules.least_gain
    if needed and not found:
        yield Check(NEW, False, f"{place}: promotion.better_on names a suite without a new language (languages.l2)")
    for row, at_level in zip(found, shown, strict=True):
        d, strict = turned(row), turned(at_level)
        if unknown := _unknown(d, rules):
            if needed:
                yield Check(NEW, False, f"{place}: {unknown}")
            continue
        outcome = gain_outcome(d)
        if not needed and outcome != LOST:
            continue
        passed = gain_outcome(strict) == GAINED and strict.low > least
        said = _WORDS[NOT_SHOWN if outcome == GAINED and not passed else outcome]
        limit = f" by more than {least:g}" if least and outcome != LOST else ""
        numbers = f"{_signed(strict)} {kind.title} against {row['against']} (n = {d.n}, p = {d.p:.2g}{attempt})"
        yield Check(NEW, passed, f"{place}: {said}{limit}, {numbers}")


def _old(suite: str, kind: SuiteKind, rows: pd.DataFrame, rules: Rules) -> Iterator[Check]:
    if (tolerance := tolerance_of(kind, rules)) is None:
        return
    for row in _old_rows(kind, rows, rules.old):
        place = _place(str(row["scope"]), suite)
        d = turned(row)
        if unknown := _unknown(d, rules):
            yield Check(OLD, False, f"{place}: {unknown}")
            continue
        unit, rest = kind.title, f"against {row['against']} (n = {d.n}, tolerance {tolerance:g})"
        outcome = forgetting_outcome(d, tolerance)
        if outcome in (KEPT, WITHIN):
            yield Check(OLD, True, f"{place}: {outcome}, {_signed(d)} {unit} {rest}")
            continue
        said = (
            f"worse by {-d.value:.3f} [{-d.high:.3f}, {-d.low:.3f}] {unit}"
            if d.high < 0
            else f"may be worse by up to {-d.low:.3f} {unit}, {_signed(d)}"
        )
        yield Check(OLD, False, f"{place}: {said} {rest}")


def _old_rows(kind: SuiteKind, rows: pd.DataFrame, old: frozenset[str]) -> list[dict[Any, Any]]:
    """Each old language, and their mean if there are several; for instructions, all sources together and each group."""
    if kind.by_source:
        groups = rows[rows["scope"].str.startswith("group:")]
        return pd.concat([rows[rows["scope"] == "all"], groups]).to_dict("records")
    each = rows[[_is_old(str(scope), old) for scope in rows["scope"]]]
    # the mean of one language is that language
    together = rows[rows["scope"] == "group:L1"] if len(each) != 1 else rows[:0]
    return pd.concat([together, each]).to_dict("records")


def _is_old(scope: str, old: frozenset[str]) -> bool:
    kind, _, language = scope.partition(":")  # for a translation, its direction, such as eng-ind
    return kind == "language" and set(language.split("-")) <= old


def _place(scope: str, suite: str) -> str:
    known = {"group:L1": "old languages together", "all": "old instructions"}
    return f"{known.get(scope, scope.partition(':')[2])} ({suite})"


def _unknown(d: Difference, rules: Rules) -> str | None:
    if d.n < rules.min_rows:
        return f"{d.n} sentences in common are too few, promotion.min_rows is {rules.min_rows}; evaluate on more"
    return f"{d.value:+.3f} without an interval (n = {d.n}); evaluate on more sentences" if np.isnan(d.low) else None


def _signed(d: Difference) -> str:
    return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
