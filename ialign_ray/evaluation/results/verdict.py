"""Verdict in sentences: gain on new languages, forgetting of old ones, and warnings.

Every claim is about one *paired* difference, judged by `evaluation.rules`. If an interval of old work is below 0
without a shown size, the sentence says that some loss is shown.

What is not shown comes with the difference that this many sentences would have shown (80 % power), or with how many
it would take. Gain is judged against the *control* (same steps, replay only), never against base alone: in the
miniature an undertrained base rose with any training, and a before/after would have claimed a success not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.bootstrap import Difference
from ialign_ray.evaluation.metrics.registry import CLASSIFICATION, in_words
from ialign_ray.evaluation.results.significance import to_show
from ialign_ray.evaluation.rules import (
    EITHER,
    FORGOT,
    GAINED,
    KEPT,
    NOT_SHOWN,
    Rules,
    forgetting_outcome,
    gain_outcome,
    judged_rows,
    tolerance_of,
    turned,
)
from ialign_ray.evaluation.scoring.suite_kinds import SUITES


@dataclass(frozen=True)
class Statement:
    """One sentence about one run: `topic` is gain, forgetting or warning; `outcome` its word."""

    run: str
    topic: str
    outcome: str
    text: str


def verdict(
    results: pd.DataFrame,
    comparisons: pd.DataFrame,
    rules: Rules | None = None,
    label_names: Mapping[str, Sequence[str]] | None = None,
) -> list[Statement]:
    """Statements on every arm: gains, then forgetting, then warnings (these on base and control too).

    `results` from `results.summarise`, `comparisons` from `results.compare_all`; arms are the runs other
    than base, control and the baselines; `label_names` names a suite's labels. Scores are means over
    prompts, languages and training seeds. A missing comparison gives no statement, but a missing control
    gives one: then no gain can be shown.
    """
    rules = rules or Rules()
    runs = [str(run) for run in results["run"].unique() if run not in BASELINES]
    arms = [run for run in runs if run not in (rules.base, rules.control)]
    pairs = comparisons[comparisons["prompt"] == "all"] if len(comparisons) else comparisons
    statements = [s for arm in arms for s in _gains(arm, pairs, rules)]
    if arms and rules.control not in runs:
        text = f"No gain can be shown: there is no compute-matched control run '{rules.control}'."
        statements.append(Statement(rules.control, "gain", NOT_SHOWN, text))
    statements += [s for arm in arms for s in _forgetting(arm, pairs, rules)]
    scores = results[results["prompt"] == "all"]
    for run in runs:
        statements += _collapses(run, scores, rules, label_names or {})
        statements += _below_length(run, pairs, rules)
        statements += _wide(run, scores, rules)
        statements += _calibration_only(run, pairs, rules)
    return statements + _single_seed(results, arms)


@dataclass(frozen=True)
class _Judged:
    suite: str
    scope: str
    metric: str
    better: Difference
    seeds: int
    seed_sd: float
    detectable: float

    def __str__(self) -> str:
        """Return value, interval, metric and n; p and the spread over seeds where known."""
        name, d = in_words(self.metric), self.better
        if np.isnan(d.low):
            return f"{d.value:+.3f} {name} (no interval, n = {d.n})"
        spread = f", s.d. over {self.seeds} seeds {self.seed_sd:.3f}" if self.seeds > 1 else ""
        return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] {name} (n = {d.n}, p = {d.p:.2g}{spread})"

    @property
    def place(self) -> str:
        where = "old instructions" if self.scope == "all" else self.scope.partition(":")[2]
        return f"{where} ({self.suite})"


def _judged(
    pairs: pd.DataFrame, run: str, against: str, name: str, rules: Rules, metric: str | None = None
) -> Iterator[_Judged]:
    """Differences of a run by group (of all sources for instructions without groups), turned so that + is better.

    `name` is a kind of suite, `metric` the one that it is judged by where left out.
    """
    if not len(pairs):
        return
    kind = SUITES[name]
    found = judged_rows(pairs, kind, rules, metric)
    found = found[(found["run"] == run) & (found["against"] == against) & (found["kind"] == name)]
    for suite, part in found.groupby("suite", sort=False):
        grouped = part[part["scope"].str.startswith("group:")].sort_values("scope")
        chosen = part[part["scope"] == "all"] if grouped.empty and kind.by_source else grouped
        for row in chosen.to_dict("records"):
            spread = int(row["seeds"]), row["seed_sd"], row["detectable"]
            yield _Judged(str(suite), row["scope"], row["metric"], turned(row), *spread)


def _gains(arm: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    for name in (name for name, kind in SUITES.items() if not kind.by_source):
        for judged in _judged(pairs, arm, rules.control, name, rules):
            # old languages are judged by what was forgotten
            if judged.scope == "group:L1":
                continue
            outcome = gain_outcome(judged.better)
            said = (
                f"{judged.place}: {arm} shows no gain or loss against {rules.control}: {judged}{_unseen(judged)}"
                if outcome == NOT_SHOWN
                else f"{judged.place}: {arm} {outcome} {judged} against {rules.control}"
            )
            yield Statement(arm, "gain", outcome, f"New languages {said}.")


def _forgetting(arm: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    for name, kind in SUITES.items():
        tolerance = tolerance_of(kind, rules)
        if kind.old is None or tolerance is None:
            continue
        for against in (rules.base, rules.control):
            for judged in _judged(pairs, arm, against, name, rules):
                if not kind.by_source and judged.scope != "group:L1":
                    continue
                outcome = forgetting_outcome(judged.better, tolerance)
                text = _forgetting_text(arm, against, judged, outcome, tolerance)
                yield Statement(arm, "forgetting", outcome, text)


def _forgetting_text(arm: str, against: str, judged: _Judged, outcome: str, tolerance: float) -> str:
    said = {
        KEPT: f"{arm} kept what {against} could do, within {tolerance:g}",
        FORGOT: f"{arm} forgot more than {tolerance:g} against {against}",
        EITHER: f"not shown either way whether {arm} kept what {against} could do, within {tolerance:g}",
    }
    some = "; some loss is shown, its size is not" if outcome == EITHER and judged.better.high < 0 else ""
    open_ended = outcome == EITHER and judged.better.high >= 0
    more = to_show(judged.better.n, judged.detectable, tolerance) if open_ended else ""
    return f"Old {judged.place.removeprefix('old ')}: {said[outcome]}: {judged}{some}{more}."


def _unseen(judged: _Judged) -> str:
    """The power note of what was not shown."""
    if np.isnan(judged.detectable):
        return ""
    return f"; with this n a difference under {judged.detectable:.3f} would mostly go unseen"


def _collapses(run: str, scores: pd.DataFrame, rules: Rules, names: Mapping[str, Sequence[str]]) -> Iterator[Statement]:
    found = scores[
        (scores["run"] == run)
        & (scores["scorer"] == rules.scorer)
        & scores["metric"].str.startswith("share_")
        & scores["scope"].str.startswith("language:")
        & (scores["value"] > rules.collapse_share)
    ]
    for (suite, metric), part in found.groupby(["suite", "metric"], sort=True):
        label = int(str(metric).removeprefix("share_"))
        known = names.get(str(suite), ())
        name = f"'{known[label]}'" if label < len(known) else f"label {label}"
        shares = ", ".join(
            f"{scope.partition(':')[2]} {value:.0%}" for scope, value in zip(part["scope"], part["value"])
        )
        text = f"{run} collapses to {name} in {suite} (share of predictions: {shares})."
        yield Statement(run, "warning", "collapse", text)


def _below_length(run: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    for judged in _judged(pairs, run, "length", CLASSIFICATION, rules):
        # also true of an unknown interval (NaN)
        if not judged.better.low > 0:
            text = f"{run} is not shown to beat text length alone on {judged.place}: {judged}."
            yield Statement(run, "warning", "not above length", text)


def _wide(run: str, scores: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    found = scores[
        (scores["run"] == run)
        & (scores["scorer"] == rules.scorer)
        & (scores["metric"] == SUITES[CLASSIFICATION].metric)
        & scores["scope"].str.startswith("group:")
        & ~((scores["high"] - scores["low"]) / 2 <= rules.half_width)  # an unknown interval is too wide
    ]
    for suite, part in found.groupby("suite", sort=False):
        widths = ", ".join(
            f"{row['scope'].partition(':')[2]} ±{(row['high'] - row['low']) / 2:.3f} with n = {row['n']}"
            for row in part.to_dict("records")
        ).replace("±nan", "unknown")
        text = f"{run} has too few sentences in {suite} for an interval within ±{rules.half_width:g}: {widths}."
        yield Statement(run, "warning", "too few", text)


def _calibration_only(run: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    ranked = {
        (j.suite, j.scope): j for j in _judged(pairs, run, rules.control, CLASSIFICATION, rules, "auc_length_fixed")
    }
    for judged in _judged(pairs, run, rules.control, CLASSIFICATION, rules):
        ranking = ranked.get((judged.suite, judged.scope))
        # AUC ranks by margins: a bias towards a label moves F1, but not it
        if ranking and gain_outcome(judged.better) == GAINED and gain_outcome(ranking.better) != GAINED:
            text = f"{run} gained on {judged.place}, but may only have shifted label bias: {ranking}."
            yield Statement(run, "warning", "ranking not shown", text)


def _single_seed(results: pd.DataFrame, arms: Sequence[str]) -> list[Statement]:
    single = [arm for arm in arms if (results.loc[results["run"] == arm, "seeds"] < 2).any()]
    if not single:
        return []
    text = (
        f"{', '.join(single)}: one training seed, so the intervals cover the choice of sentences but not the "
        "luck of training (F1 moved by up to 0.07 between seeds of the miniature)."
    )
    return [Statement(", ".join(single), "warning", "one seed", text)]
