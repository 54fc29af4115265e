"""Overview of a model over many tasks: chance-normalised scores, averaged over tasks, competencies and languages.

A score becomes (score - chance) / (maximum - chance): 0 is chance, 1 is perfect, and tasks with different numbers of
options can be averaged, as in SEA-HELM (arXiv 2502.14301). Every mean is over equal weights: the tasks of a competency
in one language, the competencies of a language, the languages of a group. It is formed draw by draw, so that it has the
interval of its sentences; tasks of different suites are independent. Scores without a maximum (bits per byte, nats) are
left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import pandas as pd

from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.bootstrap import Floats, estimates, mean_draws
from ialign_ray.evaluation.metrics.registry import limits_of, lower_is_better
from ialign_ray.evaluation.results.cells import CellDraws, Key, Measured
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, SuiteKind

EVERY: Final = "all"
"""All competencies, or all groups."""
TOO_FEW: Final = "too few rows"
"""Rank in a cell whose sentences are too few, or whose interval is unknown."""
COLUMNS: Final = (
    *("run", "level", "scope", "competency", "suite", "value", "low", "high", "n", "clusters", "tasks", "languages"),
    *("above", "rank", "difference", "difference_low", "difference_high"),
)


@dataclass(frozen=True)
class _Score:
    """A normalised score of one task, or the mean of several."""

    draws: Floats
    cells: frozenset[tuple[str, str]]
    """Suite and language or direction of each cell that it is made of."""

    @staticmethod
    def mean(scores: Iterable[_Score]) -> _Score:
        parts = list(scores)
        return _Score(mean_draws([s.draws for s in parts]), frozenset().union(*(s.cells for s in parts)))


_Place = tuple[str, str, str, str]  # level, scope, competency, suite


def overview(
    measured: Mapping[str, Measured],
    groups: Mapping[str, str],
    scorer: str,
    competencies: Mapping[str, str],
    *,
    min_rows: int = 30,
    base: str = "base",
) -> pd.DataFrame:
    """Tidy table of all runs but the baselines: one row per run, level, scope and competency; columns `COLUMNS`.

    `level` is task (`scope` "language:jav", one `suite`), competency ("language:jav", the mean of its tasks), language
    ("language:jav", the mean of its competencies) or group ("group:L2" or "all", each competency and their mean).
    `value` is normalised, 0 at chance; low and high are its 95 % interval. `languages` is the number of languages of a
    group, `above` that of those whose interval is above chance. `rank` is 1 + the number of runs that are shown to be
    better by a paired interval, so that runs without a shown difference share a rank; `too few rows` under `min_rows`
    sentences. `difference` is the paired difference from `base`.

    `competencies` holds the competency of each suite; `groups` the group of each language; `scorer` the experiment's
    label scorer.
    """
    scores = {
        run: _placed(_tasks(run, measured, groups, scorer, competencies), groups, competencies)
        for run in measured
        if run not in BASELINES
    }
    places = list(dict.fromkeys(chain.from_iterable(scores.values())))
    rows = []
    for place in places:
        runs = {run: found[place] for run, found in scores.items() if place in found}
        own = _estimated(measured, runs, [(run, None) for run in runs])
        pairs = _estimated(measured, runs, [(a, b) for a in runs for b in runs if a != b])
        sizes = {run: _size(measured[run], score) for run, score in runs.items()}
        few = any(n < min_rows for n, _ in sizes.values()) or any(np.isnan(low) for _, low, _ in own.values())
        for run, score in runs.items():
            better = sum(pairs[other, run][1] > 0 for other in runs if (other, run) in pairs)
            value, low, high = own[run, None]
            difference, difference_low, difference_high = pairs.get((run, base), (np.nan,) * 3)
            n, clusters = sizes[run]
            tasks = len({suite for suite, _ in score.cells})
            rank = TOO_FEW if few else str(1 + better)
            about = (run, *place, value, low, high, n, clusters, tasks, np.nan, np.nan)
            rows.append((*about, rank, difference, difference_low, difference_high))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return _counted(table, groups)


def _tasks(
    run: str,
    measured: Mapping[str, Measured],
    groups: Mapping[str, str],
    scorer: str,
    competencies: Mapping[str, str],
) -> dict[tuple[str, str], _Score]:
    """Language and suite -> normalised score; a language's directions are averaged."""
    found: dict[tuple[str, str], list[_Score]] = defaultdict(list)
    for key, cell in measured[run].measures.items():
        kind = SUITES[key.kind]
        chosen = (key.prompt, key.scorer, key.metric) == ("all", kind.scored(scorer), kind.overview_metric)
        highest = limits_of(key.metric)[1]
        if not (chosen and key.scope.startswith("language:") and key.suite in competencies and np.isfinite(highest)):
            continue
        if kind.by_source or lower_is_better(key.metric):
            continue
        tongue = key.scope.removeprefix("language:")
        chance = _chance(key, cell, kind, run, measured)
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.where(highest > chance, (cell.draws - chance) / (highest - chance), np.nan)
        found[_measured_language(tongue, groups), key.suite].append(_Score(draws, frozenset({(key.suite, tongue)})))
    return {place: _Score.mean(parts) for place, parts in found.items()}


def _chance(key: Key, cell: CellDraws, kind: SuiteKind, run: str, measured: Mapping[str, Measured]) -> Floats:
    """Draws of the score without any knowledge of the language."""
    if kind.chance is not None:
        own = measured[run].measures.get(key._replace(metric=kind.chance))
        return np.zeros_like(cell.draws) if own is None else own.draws
    # the better of a uniform guess and the most frequent label: a model that always says one label is not above chance
    blind = [
        found for name in ("random", "majority") if name in measured for found in [measured[name].measures.get(key)]
    ]
    known = [b for b in blind if b is not None and b.n == cell.n]
    if known:
        return max(known, key=lambda b: float(b.draws[0])).draws
    shares = [k for k in measured[run].measures if k == key._replace(metric=k.metric) and k.metric.startswith("share_")]
    return np.full_like(cell.draws, 1 / len(shares) if shares else 0.0)


def _measured_language(language: str, groups: Mapping[str, str]) -> str:
    """The language of a cell; of a direction the less known side, the target if both are of one group."""
    return max(language.split("-")[::-1], key=lambda side: groups.get(side, ""))


def _placed(
    tasks: Mapping[tuple[str, str], _Score], groups: Mapping[str, str], competencies: Mapping[str, str]
) -> dict[_Place, _Score]:
    """Scores of tasks and all their means."""
    found: dict[_Place, _Score] = {}
    able: dict[tuple[str, str], list[_Score]] = defaultdict(list)
    for (language, suite), score in tasks.items():
        found["task", f"language:{language}", competencies[suite], suite] = score
        able[language, competencies[suite]].append(score)
    by_language: dict[str, dict[str, _Score]] = defaultdict(dict)
    for (language, competency), scores in able.items():
        by_language[language][competency] = _Score.mean(scores)
    for language, own in by_language.items():
        found |= {("competency", f"language:{language}", name, ""): score for name, score in own.items()}
        own[EVERY] = found["language", f"language:{language}", EVERY, ""] = _Score.mean(list(own.values()))
    for scope, languages in _groups(by_language, groups):
        for competency in dict.fromkeys(name for code in languages for name in by_language[code]):
            able_in = [by_language[code][competency] for code in languages if competency in by_language[code]]
            found["group", scope, competency, ""] = _Score.mean(able_in)
    return found


def _groups(languages: Iterable[str], groups: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    known = sorted(languages)
    for group in sorted({groups.get(code, "") for code in known} - {""}):
        yield f"group:{group}", [code for code in known if groups.get(code) == group]
    yield EVERY, known


def _estimated(
    measured: Mapping[str, Measured], scores: Mapping[str, _Score], pairs: Sequence[tuple[str, str | None]]
) -> dict[tuple[str, str | None], tuple[float, float, float]]:
    """Value and interval of runs (run, None), or paired differences of two runs; without pairs that were measured on
    different sentences."""
    pairs = [(a, b) for a, b in pairs if b is None or _same_rows(measured[a], scores[a], measured[b], scores[b])]
    if not pairs:
        return {}
    draws = np.stack([scores[a].draws if b is None else scores[a].draws - scores[b].draws for a, b in pairs])
    units = [_size(measured[a], scores[a])[1] for a, _ in pairs]
    suites = {suite for a, _ in pairs for suite, _ in scores[a].cells}
    weights = [measured[a].weights(next(iter(suites))) for a, _ in pairs] if len(suites) == 1 else []
    # over several suites, which have separate weights, a mean is taken as symmetric
    found = estimates(draws, units, weights[0] if weights and len({len(w) for w in weights}) == 1 else None)
    low, high = found.bounds()
    return dict(zip(pairs, zip(found.value.tolist(), low.tolist(), high.tolist(), strict=True), strict=True))


def _same_rows(one: Measured, score: _Score, two: Measured, other: _Score) -> bool:
    return score.cells == other.cells and all(
        one.ids[cell] == two.ids[cell] and one.clusters.get(cell[0]) == two.clusters.get(cell[0])
        for cell in score.cells
    )


def _size(measured: Measured, score: _Score) -> tuple[int, int]:
    """Sentences, and independent units among them; a sentence counts once for all of its languages."""
    ids, units = 0, 0
    for suite in {suite for suite, _ in score.cells}:
        every = frozenset().union(*(measured.ids[cell] for cell in score.cells if cell[0] == suite))
        clusters = measured.clusters.get(suite, {})
        ids, units = ids + len(every), units + len({clusters.get(i, i) for i in every})
    return ids, units


def _counted(table: pd.DataFrame, groups: Mapping[str, str]) -> pd.DataFrame:
    """The table with the languages of each group, and those above chance."""
    lines = table[table["level"].isin(["competency", "language"])]
    code = lines["scope"].str.removeprefix("language:")
    for row in table.index[table["level"] == "group"]:
        run, scope, competency = table.loc[row, ["run", "scope", "competency"]]
        inside = (code.map(groups) == str(scope).removeprefix("group:")) | (scope == EVERY)
        own = lines[inside & (lines["run"] == run) & (lines["competency"] == competency)]
        table.loc[row, ["languages", "above"]] = len(own), int((own["low"] > 0).sum())
    return table


def in_order(table: pd.DataFrame, groups: Sequence[str] = ("L1", "L2", "L3")) -> pd.DataFrame:
    """Rows of groups, then of languages, for tables: without tasks, and without means of a single competency."""
    shown = table[table["level"] != "task"]
    single = shown.groupby("scope")["competency"].transform("nunique") == 2  # one, and the mean
    shown = shown[~(single & (shown["competency"] == EVERY))]
    places = [*(f"group:{group}" for group in groups), EVERY]
    order = shown["scope"].map(lambda scope: places.index(scope) if scope in places else len(places))
    return shown.assign(_order=order).sort_values(["_order", "scope"], kind="stable").drop(columns="_order")
