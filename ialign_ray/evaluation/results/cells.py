"""Bootstrap draws of every metric of a run, by prompt, language and group of a suite.

A run is one frame of predictions per training seed. Within a seed the score of a language is the mean over
its prompts, and the score of a group the mean over its languages; a run's score is the mean over seeds. All
of it is resampled by sentence id, or by the `cluster` that the frames name, so that each measure carries its interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import RESAMPLES, Floats, mean_draws, resample_weights
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, SuiteKind, kind_of
from ialign_ray.evaluation.suites.load import CLUSTER

Floats32 = NDArray[np.float32]
"""Precision of draws that are used only for spreads: half the memory."""
Frames = pd.DataFrame | Sequence[pd.DataFrame]
"""Predictions of one run: one frame per seed, or one frame with an optional `seed` column."""


class Key(NamedTuple):
    """Subject of a record."""

    suite: str
    kind: str
    prompt: str
    scorer: str
    scope: str
    metric: str


class CellDraws(NamedTuple):
    """Draws of one key."""

    draws: Floats
    """Mean over training seeds (resamples + 1,)."""
    n: int
    """Sentence ids."""
    units: int
    """Independent units: clusters of sentences, or the sentences themselves."""
    values: tuple[float, ...]
    """Value for each training seed."""
    seeds: Floats32
    """Draw vectors of the seeds (seeds, resamples + 1)."""

    @property
    def seed_sd(self) -> float:
        """Standard deviation over training seeds; NaN of one."""
        if len(self.values) < 2:
            return float("nan")
        mean = sum(self.values) / len(self.values)  # in plain Python: numpy takes 50 times as long for so few
        return sqrt(sum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1))

    def interaction(self) -> float:
        """Variance from the effect of one seed on single sentences: seeds differ by it on any set of sentences."""
        k = len(self.values)
        if k < 2:
            return 0.0
        apart = (self.seeds - self.seeds.mean(axis=0))[:, 1:]
        defined = apart[:, np.isfinite(apart).all(axis=0)].astype(np.float64)
        # scaled as `bootstrap.estimates` scales the variance that it is part of
        enlarged = (self.units / max(self.units - 2, 1)) ** 2 * k / (k - 1)
        return float(defined.var(axis=1).mean()) * enlarged if defined.size else 0.0


@dataclass(frozen=True)
class ResamplingPlan:
    """Settings of a measurement: equal plans and equal ids make runs comparable draw by draw."""

    groups: Mapping[str, str]
    """Language code to "L1", "L2" or "L3"."""
    kinds: Mapping[str, str] | None = None
    """Suite to kind; where absent, the columns and the shape of `language` ("eng-jav") decide."""
    resamples: int = RESAMPLES
    seed: int = 0
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Suite to the metrics that it names in addition to those of its kind."""


@dataclass(frozen=True)
class Measured:
    """A run with the draws of every metric; reuse it, since `summarise` and `compare` would otherwise draw again."""

    frames: tuple[pd.DataFrame, ...]
    plan: ResamplingPlan
    measures: dict[Key, CellDraws]
    ids: dict[tuple[str, str], frozenset[str]]
    """Sentence ids of each (suite, language)."""
    clusters: dict[str, dict[str, str]]
    """Suite -> cluster of each id, of the suites whose sentences are not independent."""

    def weights(self, suite: str) -> Floats:
        """The resampling weights (units, resamples + 1) of a suite's units."""
        known = self.clusters.get(suite, {})
        ids = frozenset().union(*(found for (name, _), found in self.ids.items() if name == suite))
        return resample_weights(len({known.get(i, i) for i in ids}), self.plan.resamples, self.plan.seed)

    def kind(self, suite: str) -> str:
        """Name of a suite's kind."""
        return next(key.kind for key in self.measures if key.suite == suite)


_Cells = dict[tuple[str, str], dict[str, dict[str, Floats]]]  # (scorer, metric) -> language -> prompt


def measure(frames: Frames, plan: ResamplingPlan) -> Measured:
    """Draw every metric of a run. About 5 ms for each cell (prompt x language x scorer) of 400 rows.

    Raises `DataError` for a missing column, no rows, a duplicate id in a cell, NaN scores, or a language without a
    group.
    """
    seeds = tuple(_seeds(frames))
    rows = pd.concat([seed[["suite", "language", "id"]] for seed in seeds])
    ids = {
        (str(suite), str(language)): frozenset(part["id"])
        for (suite, language), part in rows.groupby(["suite", "language"])
    }
    measures: dict[Key, CellDraws] = {}
    clusters = {}
    for suite in sorted({suite for suite, _ in ids}):
        of_suite = {language: found for (name, language), found in ids.items() if name == suite}
        parts = [part for seed in seeds if not (part := seed[seed["suite"] == suite]).empty]
        if known := clusters_of(parts):
            clusters[suite] = known
        measures |= _measure_suite(suite, parts, of_suite, known, plan)
    return Measured(seeds, plan, measures, ids, clusters)


def clusters_of(frames: Sequence[pd.DataFrame]) -> dict[str, str]:
    """Cluster of each sentence id of one suite's frames; empty if they name no clusters."""
    named = [frame[["id", CLUSTER]] for frame in frames if CLUSTER in frame.columns and frame[CLUSTER].notna().any()]
    if not named:
        return {}
    rows = pd.concat(named).astype({"id": str}).drop_duplicates("id")
    # a sentence without a cluster is a separate unit
    return {i: f"id:{i}" if pd.isna(c) else f"of:{c}" for i, c in zip(rows["id"], rows[CLUSTER])}


def clustered(frames: Sequence[pd.DataFrame], clusters: Mapping[str, Mapping[str, str]]) -> list[pd.DataFrame]:
    """The frames with their clusters replaced by those of each suite's ids."""
    found = []
    for frame in frames:
        for suite in set(frame["suite"]) & clusters.keys():
            known = frame["id"].astype(str).map(clusters[suite])
            own = frame[CLUSTER] if CLUSTER in frame.columns else None
            frame = frame.assign(**{CLUSTER: known.where(frame["suite"] == suite, own)})
        found.append(frame)
    return found


def restricted(measured: Measured, common: Mapping[tuple[str, str], frozenset[str]]) -> Measured:
    """Measure the run only on the given ids of each (suite, language)."""
    shared_suites = {suite for suite, _ in common}
    own = {key: ids for key, ids in measured.ids.items() if key[0] in shared_suites}
    if own == common:  # the usual case: nothing to draw again
        return measured
    frames = []
    for frame in measured.frames:
        kept = [
            part[part["id"].isin(common.get((str(suite), str(language)), frozenset()))]
            for (suite, language), part in frame.groupby(["suite", "language"])
        ]
        frames.append(pd.concat(kept))
    return measure([frame for frame in frames if not frame.empty], measured.plan)


def _seeds(frames: Frames) -> Iterator[pd.DataFrame]:
    for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
        _require(frame, ("suite", "language", "id"), "predictions")
        if frame.empty:
            raise DataError("predictions: no rows; evaluate the run again")
        whole = frame.assign(id=frame["id"].astype(str))
        yield from [part for _, part in whole.groupby("seed")] if "seed" in frame.columns else [whole]


def _require(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{what}: column '{missing[0]}' is missing; evaluate the run again")


def _measure_suite(
    suite: str,
    parts: list[pd.DataFrame],
    ids: Mapping[str, frozenset[str]],
    clusters: Mapping[str, str],
    plan: ResamplingPlan,
) -> dict[Key, CellDraws]:
    name = kind_of(suite, parts[0], plan.kinds)
    kind = SUITES.find(name, f"kind of suite '{suite}'")
    scopes = _scopes(kind, parts, plan.groups)
    every = frozenset().union(*ids.values())
    unit_of = {i: clusters.get(i, i) for i in every}
    units = pd.Index(sorted(set(unit_of.values())))
    # by sorted units and a fixed seed: two runs over the same ids share their resamples, so differences are paired
    weights = resample_weights(len(units), plan.resamples, plan.seed)
    index = pd.Series(units.get_indexer(pd.Index([unit_of[i] for i in sorted(every)])), sorted(every))
    by_key: dict[Key, list[Floats]] = defaultdict(list)
    for part in parts:
        _require(part, kind.columns, f"{name} predictions of suite '{suite}'")
        for (prompt, scorer, scope, metric), draws in _roll_up(
            _cells(part, kind, index, weights, plan.named.get(suite, ())), scopes
        ):
            by_key[Key(suite, name, prompt, scorer, scope, metric)].append(draws)
    within = {scope: frozenset().union(*(ids[name] for name in names)) for scope, names in scopes.items()}
    sizes = {scope: (len(found), len({unit_of[i] for i in found})) for scope, found in within.items()}
    return {
        key: CellDraws(
            mean_draws(draws), *sizes[key.scope], tuple(float(d[0]) for d in draws), np.stack(draws, dtype=np.float32)
        )
        for key, draws in by_key.items()
    }


def _cells(part: pd.DataFrame, kind: SuiteKind, index: pd.Series, weights: Floats, named: Sequence[str]) -> _Cells:
    cells: _Cells = defaultdict(lambda: defaultdict(dict))
    prompted = part if "prompt" in part.columns else part.assign(prompt="all")
    for (prompt, language), rows in prompted.groupby(["prompt", "language"]):
        twice = rows["id"][rows["id"].duplicated()]
        if not twice.empty:
            raise DataError(
                f"predictions: duplicate id '{twice.iloc[0]}' in {rows['suite'].iloc[0]}, {prompt}, "
                f"{language}; give each training seed a separate frame or add a seed column"
            )
        unit = rows["id"].map(index).to_numpy(np.int64)
        for (scorer, metric), draws in kind.draw(rows, unit, weights, named).items():
            cells[scorer, metric][str(language)][str(prompt)] = draws
    return cells


def _roll_up(cells: _Cells, scopes: Mapping[str, list[str]]) -> Iterator[tuple[tuple[str, str, str, str], Floats]]:
    """Mean over prompts, then over a scope's languages, as ((prompt, scorer, scope, metric), draws)."""
    for (scorer, metric), by_language in cells.items():
        by_prompt: dict[str, dict[str, Floats]] = defaultdict(dict)
        for language, drawn in by_language.items():
            by_prompt["all"][language] = mean_draws(list(drawn.values()))
            for prompt, draws in drawn.items():
                by_prompt[prompt][language] = draws
        for prompt, of_prompt in by_prompt.items():
            for scope, languages in scopes.items():
                # a mean over some languages of a group would describe a different group
                if all(language in of_prompt for language in languages):
                    draws = mean_draws([of_prompt[language] for language in languages])
                    yield (prompt, scorer, scope, metric), draws


def _scopes(kind: SuiteKind, parts: Sequence[pd.DataFrame], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Languages of each scope. An instruction source's group is its `group_key`, where it has one."""
    rows = pd.concat([part[[c for c in ("language", "group_key") if c in part.columns]] for part in parts])
    languages = sorted(rows["language"].astype(str).unique())
    scopes = {f"language:{language}": [language] for language in languages}
    for language in languages:
        of_language = rows[rows["language"] == language]
        group = _source_group(of_language) if kind.by_source else _direction_group(language, groups)
        if group:
            scopes.setdefault(f"group:{group}", []).append(language)
    return scopes | {"all": languages}


def _source_group(rows: pd.DataFrame) -> str | None:
    keys = rows["group_key"].dropna() if "group_key" in rows.columns else pd.Series(dtype=object)
    return None if keys.empty else str(keys.iloc[0])


def _direction_group(language: str, groups: Mapping[str, str]) -> str:
    sides = language.split("-")
    unknown = [side for side in sides if side not in groups]
    if unknown:
        raise DataError(f"groups: language '{unknown[0]}' is in no group; put it in L1, L2 or L3")
    return max(groups[side] for side in sides)  # "L3" > "L2" > "L1": the less known side decides
