"""Evidence of a version: its experiment and per-example predictions, and whether two can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from ialign_ray.config import DataSource, Experiment, Suite
from ialign_ray.errors import RegistryError
from ialign_ray.evaluation.metrics.bootstrap import LEVEL
from ialign_ray.evaluation.results.cells import Measured, ResamplingPlan, measure
from ialign_ray.evaluation.results.summary import compare
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.suite_kinds import SUITES
from ialign_ray.registry.attempts import Attempts, sketch
from ialign_ray.registry.gate import NEW, OLD, Check, GateDecision, Side, judge

_FACTS = ("label", "chars", "bytes", "candidates")  # properties of the test sentence only, so equal in every run


MODELS = (False, False)
"""Neither side is a recipe: a promotion compares two fixed models, so training luck is not part of it."""


@dataclass(frozen=True)
class Evidence:
    """One model's predictions."""

    name: str
    """Name in messages, such as `mine/3` or `base`."""
    experiment: Experiment
    """Experiment whose `evaluate` made the predictions."""
    frames: Mapping[str, pd.DataFrame]
    """Suite -> one row per example."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Suite -> hash of the texts that were scored; empty if it was registered before hashes existed."""
    trained: bool = True
    """False for a base model with a context, whose gain cannot come from training on anything."""

    @property
    def rows(self) -> frozenset[str]:
        """Sketch of the test sentences on which a gain must be shown."""
        chosen = rules_of(self.experiment).better_on & self.frames.keys() or self.frames.keys()
        return sketch([self.frames[suite] for suite in sorted(chosen)])

    def measured(self) -> Measured:
        """Draws of every metric, for intervals and paired differences."""
        evaluate = self.experiment.evaluate
        kinds, named = {s.name: s.kind for s in evaluate.suites}, {s.name: s.named_metrics for s in evaluate.suites}
        plan = ResamplingPlan(self.experiment.languages.groups(), kinds, evaluate.resamples, named=named)
        return measure(list(self.frames.values()), plan)


@dataclass(frozen=True)
class GateReferences:
    """Models that a candidate is compared with."""

    base: Evidence
    control: Evidence | None
    """The compute-matched run on old instructions only: any training can lift an undertrained base."""
    champion: Evidence | None = None
    """The current holder of the alias."""
    best: Evidence | None = None
    """The earlier holder that kept old work best, if it is a different one: a tolerance against only the current holder
    would let old work erode by a tolerance at each promotion."""


def decide(candidate: Evidence, others: GateReferences, attempts: Attempts | None = None) -> GateDecision:
    """Judge a candidate against base, control, the current champion and the best one so far.

    New languages must be better than in base, control and champion, at the level of the attempt; old ones are compared
    with base, champion and the best champion so far. Raises RegistryError if two were evaluated differently, if the
    candidate is a replay-only control, or if the alpha of the test sentences is used up.
    """
    rules, attempts = rules_of(candidate.experiment), attempts or Attempts(1)
    if candidate.trained and candidate.experiment.replay.ratio == 1:
        raise RegistryError(IS_CONTROL)
    if attempts.alpha == 0:
        raise RegistryError(used_up(attempts))
    against: list[tuple[Evidence, tuple[Side, ...]]] = [(others.champion, (NEW, OLD))] if others.champion else []
    against += [(others.base, (NEW, OLD)), *([(others.best, (OLD,))] if others.best else [])]
    against += [(others.control, (NEW,))] if others.control else []
    measured, checks = candidate.measured(), []
    said = "" if attempts.number == 1 and attempts.declared is None else f", {attempts}"
    for other, sides in against:
        refuse_incomparable(candidate, other)
        second = other.measured()
        pairs, proof = (
            compare(candidate.name, measured, other.name, second, recipes=MODELS, level=level)
            for level in (LEVEL, 1 - attempts.alpha)
        )
        checks += judge(pairs, rules, sides, proof, said)
    if others.control is None and candidate.trained:
        checks.append(Check(NEW, False, NO_CONTROL))
    return GateDecision(tuple(sorted(checks, key=lambda c: c.side == OLD)))


IS_CONTROL: Final = (
    "replay.ratio is 1: a replay-only control saw no text of the new languages, and is only a reference "
    "for candidates; promote a run that did"
)
NO_CONTROL: Final = (
    "no replay-only control was registered with it, so a gain may come from training on anything; train one "
    "(`ialign compare`, or `ialign align` with replay.ratio 1), evaluate it with `--control` and register again"
)


def used_up(attempts: Attempts) -> str:
    """Describe why nothing more can be shown on these test sentences, with the cure."""
    return (
        f"the alpha of these test sentences is used up: {attempts.declared} attempts were declared "
        f"(promotion.attempts), and {attempts.number} models were scored on them; evaluate on fresh test sentences "
        "(another split or `where`), which have a new alpha"
    )


def refuse_incomparable(first: Evidence, second: Evidence) -> None:
    """Raise RegistryError with the first thing in which two evaluations differ, and the cure."""
    if difference := next(differences(first, second), None):
        raise RegistryError(
            f"{first.name} and {second.name} cannot be compared: {difference}; evaluate the candidate as the other was "
            f"(`ialign evaluate EXPERIMENT --adapter RUN`) and register it again with `--experiment EXPERIMENT`"
        )


def differences(first: Evidence, second: Evidence) -> Iterator[str]:
    """Describe how two evaluations differ; None if they can be compared."""
    one, two = first.experiment, second.experiment
    if one.evaluate.scorer != two.evaluate.scorer:
        yield f"evaluate.scorer is {one.evaluate.scorer!r} and {two.evaluate.scorer!r}"
    if one.evaluate.resamples != two.evaluate.resamples:
        yield f"evaluate.resamples is {one.evaluate.resamples} and {two.evaluate.resamples}"
    if one.languages.groups() != two.languages.groups():
        yield "their languages are in different groups"
    suites, others = ({s.name: s for s in e.evaluate.suites} for e in (one, two))
    for name in sorted(set(suites) ^ set(others)):
        yield f"suite {name!r} was evaluated for {first.name if name in suites else second.name} only"
    for name in sorted(set(suites) & set(others)):
        for choice in _CHOICE:
            values = [getattr(suite[name], choice, None) for suite in (suites, others)]
            if values[0] != values[1]:
                yield f"evaluate.suites.{name}.{choice} is {values[0]!r} and {values[1]!r}"
        if _asked(suites[name]) != _asked(others[name]):
            yield f"suite {name!r} has different settings (prompts, labels, columns or directions)"
        if difference := _other_rows(first, second, name):
            paths = [getattr(suite[name], "origin", name) for suite in (suites, others)]
            where = f" ({paths[0]} and {paths[1]})" if paths[0] != paths[1] else ""
            yield f"suite {name!r} holds other data{where}: {difference}"
        # nats per token of two tokenizers are not a common unit; bits per byte are
        per_token = SUITES[suites[name].kind].metric == "nats_per_token"
        if per_token and (difference := _other_facts(first.frames[name], second.frames[name], ("tokens",))):
            yield f"suite {name!r} is counted in tokens of two tokenizers: {difference}"


_CHOICE = ("where", "split", "limit", "test_limit")
"""Fields of a suite that choose its test sentences."""


def _asked(suite: Suite) -> dict[str, object]:
    """Settings of a suite without its source, which is compared by the rows and their hash."""
    apart = {*DataSource.model_fields, "columns", "cluster", "cluster_optional", "test_limit"}
    apart |= {"include_path", "about", "also", "competency"}  # they change no score
    return suite.model_dump(mode="json", exclude=apart)


def _other_rows(first: Evidence, second: Evidence, suite: str) -> str | None:
    """First difference between the test sentences of two evaluations, or None."""
    frames = first.frames[suite], second.frames[suite]
    ids = [_ids(frame) for frame in frames]
    for language in sorted(ids[0].keys() | ids[1].keys()):
        one, two = (found.get(language, set()) for found in ids)
        if not one or not two:
            return f"only one has {language}"
        if one != two:
            if not one & two:
                return f"they share no sentence id of {language}"
            name, missing = (first.name, two - one) if two - one else (second.name, one - two)
            some = f"{len(missing)} of the {len(one | two)} sentences of {language}"
            return f"{name} lacks {some} (such as {min(missing)!r})"
    if found := _other_facts(*frames, _FACTS):
        return found
    hashes = first.data.get(suite), second.data.get(suite)
    return "its texts have different hashes" if None not in hashes and hashes[0] != hashes[1] else None


def _ids(frame: pd.DataFrame) -> dict[str, set[str]]:
    return {str(code): set(part["id"].astype(str)) for code, part in frame.groupby("language")}


def _other_facts(first: pd.DataFrame, second: pd.DataFrame, among: Sequence[str]) -> str | None:
    """First sentence with a different property, or None."""
    shared = [c for c in first.columns if c in second.columns]
    key: list[str] = [c for c in ("language", "prompt", "id") if c in shared]
    facts: list[str] = [c for c in among if c in shared]
    both = first[key + facts].astype({"id": str}).merge(second[key + facts].astype({"id": str}), on=key)
    for fact in facts:
        apart_rows = both[both[f"{fact}_x"] != both[f"{fact}_y"]]
        if len(apart_rows):
            row = apart_rows.iloc[0]
            return f"{fact} of {row['language']} {row['id']!r} is {row[f'{fact}_x']} and {row[f'{fact}_y']}"
    return None
