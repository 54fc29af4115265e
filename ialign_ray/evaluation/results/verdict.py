"""Verdict in sentences: gain on new languages, forgetting of old ones, and warnings.

Every claim is about one *paired* difference of two recipes, judged by `evaluation.rules` on the interval that covers
the choice of sentences and the training luck. If an interval of old work is below 0 without a known size, the sentence
says that some loss is shown. Forgetting is a loss against *base*; a deficit against the control may come from what the
control learned.

If nothing is shown, the sentence names the difference that this many sentences would have shown (80 % power), or the
number of sentences needed. Gain is judged against the *control* (same steps, replay only), never against base alone: in
the miniature an undertrained base rose with any training, and a before/after comparison would have claimed a success
that did not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.bootstrap import Difference
from ialign_ray.evaluation.metrics.registry import CHOICE, CLASSIFICATION, in_words
from ialign_ray.evaluation.results.significance import to_show
from ialign_ray.evaluation.results.training_luck import DECLARED, LUCK_UNKNOWN
from ialign_ray.evaluation.rules import (
    EITHER,
    FORGOT,
    GAINED,
    KEPT,
    NOT_SHOWN,
    ONE_RUN,
    UNMEASURED,
    WITHIN,
    Rules,
    forgetting_outcome,
    gain_outcome,
    is_primary,
    judged_rows,
    of_recipe,
    tolerance_of,
    turned,
)
from ialign_ray.evaluation.scoring.suite_kinds import SUITES

BY_ONE_SCORER = "gained by one scorer"
BEHIND = "behind"
"""Outcome of old work against the control: not forgetting, as the control may have learned."""


@dataclass(frozen=True)
class Statement:
    """One sentence about one run: `topic` is primary, gain, forgetting, old (work, against the control) or warning."""

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
    """Statements on every arm: the primary end point, gains, then forgetting, then warnings (these on all runs).

    `results` from `results.summarise`, `comparisons` from `results.compare_all`; arms are the runs other
    than base, control and the baselines; `label_names` names a suite's labels. Scores are means over
    prompts, languages and training seeds. A missing comparison gives no statement, but a missing control
    gives one: then no gain can be shown.
    """
    rules = rules or Rules()
    runs = [str(run) for run in results["run"].unique() if run not in BASELINES]
    arms = [run for run in runs if run not in (rules.base, rules.control)]
    pairs = comparisons[comparisons["prompt"] == "all"] if len(comparisons) else comparisons
    statements = [s for arm in arms for s in _primary(arm, pairs, rules)]
    statements += [s for arm in arms for s in _gains(arm, pairs, rules)]
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
    return statements + _single_seed(results, arms, pairs)


@dataclass(frozen=True)
class _Judged:
    suite: str
    kind: str
    scope: str
    metric: str
    better: Difference
    clusters: int
    seeds: int
    seed_sd: float
    detectable: float
    luck: str
    by_luck: bool
    """Return True if most of the variance is training luck: more sentences would not help."""

    def __str__(self) -> str:
        """Return value, interval, metric and n; p and the spread over seeds where known."""
        name, d = in_words(self.metric), self.better
        n = f"n = {d.n}" + (f" in {self.clusters} clusters" if self.clusters < d.n else "")
        if np.isnan(d.low):
            return f"{d.value:+.3f} {name} (no interval, {n})"
        spread = f", s.d. over {self.seeds} seeds {self.seed_sd:.3f}" if self.seeds > 1 else ""
        declared = f", declared s.d. over seeds {self.seed_sd:.3f}" if self.luck == DECLARED else ""
        return f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] {name} ({n}, p = {d.p:.2g}{spread}{declared})"

    @property
    def place(self) -> str:
        where = "old instructions" if self.scope == "all" else self.scope.partition(":")[2]
        return f"{where} ({self.suite})"

    @property
    def bounds(self) -> str:
        """Return only value and interval."""
        return f"{self.better.value:+.3f} [{self.better.low:+.3f}, {self.better.high:+.3f}]"


def _judged(
    pairs: pd.DataFrame, run: str, against: str, name: str, rules: Rules, metric: str | None = None
) -> Iterator[_Judged]:
    """Differences of a run by group (of all sources for instructions without groups), with signs so that + is better.

    `name` is a kind of suite; `metric` defaults to its chief metric.
    """
    if not len(pairs):
        return
    kind = SUITES[name]
    found = judged_rows(pairs, kind, rules, metric)
    found = found[(found["run"] == run) & (found["against"] == against) & (found["kind"] == name)]
    for _, part in found.groupby("suite", sort=False):
        grouped = part[part["scope"].str.startswith("group:")].sort_values("scope")
        yield from _of_rows(part[part["scope"] == "all"] if grouped.empty and kind.by_source else grouped)


def _of_rows(rows: pd.DataFrame) -> Iterator[_Judged]:
    for row in rows.to_dict("records"):
        about = str(row["suite"]), str(row["kind"]), str(row["scope"]), str(row["metric"])
        spread = int(row["clusters"]), int(row["seeds"]), row["seed_sd"], row["detectable"]
        by_luck = bool(row["error"] > np.sqrt(2) * row["sentence_error"])
        yield _Judged(*about, turned(row), *spread, row["luck"], by_luck)


def _primary(arm: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    if rules.primary is None or not len(pairs):
        return
    for judged in _of_rows(pairs[(pairs["run"] == arm) & is_primary(pairs, rules)]):
        outcome, said = _gain(arm, rules.primary.against, judged, pairs, rules)
        yield Statement(arm, "primary", outcome, f"Primary end point, {said}.")


def _gains(arm: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    for name in (name for name, kind in SUITES.items() if not kind.by_source):
        for judged in _judged(pairs, arm, rules.control, name, rules):
            # old languages are judged by what was forgotten
            if judged.scope == "group:L1":
                continue
            outcome, said = _gain(arm, rules.control, judged, pairs, rules)
            yield Statement(arm, "gain", outcome, f"New languages {said}{_exploratory(rules)}.")


def _exploratory(rules: Rules) -> str:
    """Mark of comparisons other than the declared end point; if no end point is declared, one note covers all."""
    return " (exploratory)" if rules.primary else ""


def _gain(arm: str, against: str, judged: _Judged, pairs: pd.DataFrame, rules: Rules) -> tuple[str, str]:
    """Outcome and sentence of a difference, with what the other scorers of labels show."""
    of_model = gain_outcome(judged.better)
    outcome = of_recipe(of_model, judged.luck)
    others = _other_scorers(arm, against, judged, pairs, rules)
    shown = "".join(f"; by {scorer} scores {gain_outcome(o.better)}, {o.bounds}" for scorer, o in others.items())
    if outcome == NOT_SHOWN:
        return (
            outcome,
            f"{judged.place}: {arm} shows no gain or loss against {against}: {judged}{_unseen(judged)}{shown}",
        )
    if outcome == ONE_RUN:
        side = "above" if of_model == GAINED else "below"
        return outcome, f"{judged.place}: {arm} is {side} {against}: {judged}; {LUCK_UNKNOWN}{shown}"
    if of_model == GAINED and others and all(gain_outcome(o.better) != GAINED for o in others.values()):
        return (
            BY_ONE_SCORER,
            f"{judged.place}: {arm} gained {judged} against {against} by {rules.scorer} scores only{shown}",
        )
    return outcome, f"{judged.place}: {arm} {outcome} {judged} against {against}{shown}"


def _other_scorers(arm: str, against: str, judged: _Judged, pairs: pd.DataFrame, rules: Rules) -> dict[str, _Judged]:
    """The same difference by the label scorers that the experiment did not choose."""
    if SUITES[judged.kind].scorer is not None:
        return {}
    same = (pairs["run"] == arm) & (pairs["against"] == against) & (pairs["suite"] == judged.suite)
    same &= (pairs["scope"] == judged.scope) & (pairs["metric"] == judged.metric)
    return {
        scorer: found
        for scorer in pairs[same]["scorer"].unique()
        if scorer != rules.scorer
        for found in _of_rows(pairs[same & (pairs["scorer"] == scorer)])
    }


def _forgetting(arm: str, pairs: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    for name, kind in SUITES.items():
        tolerance = tolerance_of(kind, rules)
        if kind.old is None or tolerance is None:
            continue
        for against in (rules.base, rules.control):
            for judged in _judged(pairs, arm, against, name, rules):
                if not kind.by_source and judged.scope != "group:L1":
                    continue
                of_model = forgetting_outcome(judged.better, tolerance)
                text = _forgetting_text(arm, against, judged, of_model, tolerance, rules)
                outcome = of_recipe(of_model, judged.luck)
                if against == rules.base:
                    yield Statement(arm, "forgetting", outcome, text)
                else:
                    yield Statement(arm, "old", BEHIND if outcome == FORGOT else outcome, text)


def _forgetting_text(arm: str, against: str, judged: _Judged, of_model: str, tolerance: float, rules: Rules) -> str:
    forgot = (
        f"{arm} forgot more than {tolerance:g} against {against}"
        if against == rules.base
        else f"{arm} is more than {tolerance:g} behind {against}, which may have learned it"
    )
    said = {
        KEPT: f"{arm} kept what {against} could do, within {tolerance:g}",
        WITHIN: f"{arm} lost some of what {against} could do, within the limit of {tolerance:g}",
        FORGOT: forgot,
        EITHER: f"not shown either way whether {arm} kept what {against} could do, within {tolerance:g}",
    }
    some = "; some loss is shown, its size is not" if of_model == EITHER and judged.better.high < 0 else ""
    open_ended = of_model == EITHER and judged.better.high >= 0
    more = to_show(judged.better.n, judged.detectable, tolerance) if open_ended and not judged.by_luck else ""
    seeds = "; most of this is the luck of training: more seeds would show it" if open_ended and judged.by_luck else ""
    alone = f"; {LUCK_UNKNOWN}" if of_recipe(of_model, judged.luck) == ONE_RUN else ""
    old = judged.place.removeprefix("old ")
    return f"Old {old}: {said[of_model]}: {judged}{some}{more}{seeds}{alone}{_exploratory(rules)}."


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
    for kind, baseline in ((CLASSIFICATION, "text length alone"), (CHOICE, "the longest option")):
        for judged in _judged(pairs, run, "length", kind, rules):
            # also true of an unknown interval (NaN)
            if of_recipe(gain_outcome(judged.better), judged.luck) not in (GAINED, ONE_RUN):
                text = f"{run} is not shown to beat {baseline} on {judged.place}: {judged}."
                yield Statement(run, "warning", "not above length", text)


def _wide(run: str, scores: pd.DataFrame, rules: Rules) -> Iterator[Statement]:
    chief = {kind: SUITES[kind].metric for kind in (CLASSIFICATION, CHOICE)}
    found = scores[
        (scores["run"] == run)
        & (scores["scorer"] == rules.scorer)
        & (scores["metric"] == scores["kind"].map(chief))
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
            few = np.isnan(ranking.better.value)
            why = "too few rows for an AUC at fixed length" if few else str(ranking)
            text = f"{run} is above {rules.control} on {judged.place}, but may only have shifted label bias: {why}."
            yield Statement(run, "warning", "ranking not shown", text)


def _single_seed(results: pd.DataFrame, arms: Sequence[str], pairs: pd.DataFrame) -> list[Statement]:
    single = [arm for arm in arms if (results.loc[results["run"] == arm, "seeds"] < 2).any()]
    if not single:
        return []
    lucky = pairs[pairs["run"].isin(single)]["luck"] if len(pairs) else pd.Series(dtype=object)
    said = (
        "the luck of training is the declared evaluate.seed_spread"
        if len(lucky) and not lucky.eq(UNMEASURED).any()
        else "the intervals cover the choice of sentences but not the luck of training"
    )
    text = f"{', '.join(single)}: one training seed, so {said} (F1 moved by up to 0.07 between seeds of the miniature)."
    return [Statement(", ".join(single), "warning", "one seed", text)]
