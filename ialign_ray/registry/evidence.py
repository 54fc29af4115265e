"""Evidence of a version: its experiment and per-example predictions, and whether two can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ialign_ray.config import DataSource, Experiment, Suite
from ialign_ray.errors import RegistryError
from ialign_ray.evaluation.results.cells import Measured, ResamplingPlan, measure
from ialign_ray.evaluation.results.summary import compare
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.suite_kinds import SUITES
from ialign_ray.registry.gate import NEW, OLD, GateDecision, judge

_FACTS = ("label", "chars", "bytes", "candidates")  # of the test sentence alone, so equal in every run


MODELS = (False, False)
"""A promotion is about two models as they are, not about their recipes: the luck of training is no part of it."""


@dataclass(frozen=True)
class Evidence:
    """One model's predictions."""

    name: str
    """Name in messages, such as `mine/3` or `base`."""
    experiment: Experiment
    """Experiment whose `evaluate` made the predictions."""
    frames: Mapping[str, pd.DataFrame]
    """Suite -> a row for each example."""

    def measured(self) -> Measured:
        """Every metric drawn, for intervals and paired differences."""
        evaluate = self.experiment.evaluate
        kinds = {s.name: s.kind for s in evaluate.suites}
        plan = ResamplingPlan(self.experiment.languages.groups(), kinds, resamples=evaluate.resamples)
        return measure(list(self.frames.values()), plan)


def over_champion(candidate: Evidence, champion: Evidence) -> GateDecision:
    """Judge a candidate against the present champion. Raises RegistryError when they were evaluated differently."""
    refuse_incomparable(candidate, champion)
    measured = candidate.measured(), champion.measured()
    pairs = compare(candidate.name, measured[0], champion.name, measured[1], recipes=MODELS)
    return GateDecision(tuple(judge(pairs, rules_of(candidate.experiment))))


def over_references(candidate: Evidence, base: Evidence, control: Evidence | None) -> GateDecision:
    """Judge the first champion: better on the new languages than base and control, the old ones kept as in the base.

    The control is the compute-matched run on old instructions only: any training can lift an undertrained base.
    """
    rules, measured = rules_of(candidate.experiment), candidate.measured()
    checks = judge(compare(candidate.name, measured, base.name, base.measured(), recipes=MODELS), rules)
    if control is not None:
        checks += judge(
            compare(candidate.name, measured, control.name, control.measured(), recipes=MODELS), rules, (NEW,)
        )
    return GateDecision(tuple(sorted(checks, key=lambda c: c.side == OLD)))


def refuse_incomparable(first: Evidence, second: Evidence) -> None:
    """Raise RegistryError with the first thing in which two evaluations differ, and the cure."""
    if difference := next(_differences(first, second), None):
        raise RegistryError(
            f"{first.name} and {second.name} cannot be compared: {difference}; evaluate the candidate as the other was "
            f"(`ialign evaluate EXPERIMENT --adapter RUN`) and register it again with `--experiment EXPERIMENT`"
        )


def _differences(first: Evidence, second: Evidence) -> Iterator[str]:
    one, two = first.experiment, second.experiment
    if one.evaluate.scorer != two.evaluate.scorer:
        yield f"evaluate.scorer is {one.evaluate.scorer!r} and {two.evaluate.scorer!r}"
    if one.evaluate.resamples != two.evaluate.resamples:
        yield f"evaluate.resamples is {one.evaluate.resamples} and {two.evaluate.resamples}"
    if one.languages.groups() != two.languages.groups():
        yield "their languages stand in different groups"
    suites, others = ({s.name: s for s in e.evaluate.suites} for e in (one, two))
    for name in sorted(set(suites) ^ set(others)):
        yield f"suite {name!r} was evaluated for {first.name if name in suites else second.name} only"
    for name in sorted(set(suites) & set(others)):
        if _asked(suites[name]) != _asked(others[name]):
            yield f"suite {name!r} asks differently (prompts, labels, columns or directions)"
        if difference := _other_rows(first.frames[name], second.frames[name]):
            yield f"suite {name!r} holds other data: {difference}"
        # nats per token of two tokenizers are no common unit; bits per byte are
        per_token = SUITES[suites[name].kind].metric == "nats_per_token"
        if per_token and (difference := _other_rows(first.frames[name], second.frames[name], ("tokens",))):
            yield f"suite {name!r} is counted in tokens of two tokenizers: {difference}"


def _asked(suite: Suite) -> dict[str, object]:
    """Settings of a suite without its source: the rows themselves are compared."""
    return suite.model_dump(mode="json", exclude={*DataSource.model_fields, "columns"})


def _other_rows(first: pd.DataFrame, second: pd.DataFrame, among: Sequence[str] = _FACTS) -> str | None:
    """First difference between the test sentences that two evaluations share, or None."""
    languages = [set(frame["language"].astype(str)) for frame in (first, second)]
    if apart := sorted(languages[0] ^ languages[1]):
        return f"only one has {apart[0]}"
    shared = [c for c in first.columns if c in second.columns]
    key: list[str] = [c for c in ("language", "prompt", "id") if c in shared]
    facts: list[str] = [c for c in among if c in shared]
    both = first[key + facts].astype({"id": str}).merge(second[key + facts].astype({"id": str}), on=key)
    if both.empty:
        return "they share no sentence id"
    for fact in facts:
        apart_rows = both[both[f"{fact}_x"] != both[f"{fact}_y"]]
        if len(apart_rows):
            row = apart_rows.iloc[0]
            return f"{fact} of {row['language']} {row['id']!r} is {row[f'{fact}_x']} and {row[f'{fact}_y']}"
    return None
