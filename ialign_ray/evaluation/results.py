"""From per-example predictions of runs to tidy records, paired differences and the printed table.

A run is one frame of predictions per training seed. Within a seed the score of a language is the mean over
its prompts, and the score of a group the mean over its languages; a run's score is the mean over seeds. All
of it is resampled by sentence id, so each record carries its interval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from rich.table import Table

from ialign_ray.errors import DataError
from ialign_ray.evaluation.baselines import BASELINES
from ialign_ray.evaluation.metrics import SCORERS, Floats, Ints, gold_labels, score_matrix
from ialign_ray.evaluation.statistics import (
    RESAMPLES,
    classification_draws,
    difference,
    interval,
    likelihood_draws,
    mean_draws,
    resample_weights,
)

Frames = pd.DataFrame | Sequence[pd.DataFrame]
"""Predictions of one run: one frame per seed, or one frame with an optional `seed` column."""

CLASSIFICATION, TRANSLATION, INSTRUCTIONS = "classification", "translation", "instructions"
LIKELIHOOD: Final = "likelihood"  # stands in the scorer column of the other two kinds
_COLUMNS: Final = {
    CLASSIFICATION: ("suite", "prompt", "language", "id", "label", "chars"),
    LIKELIHOOD: ("suite", "language", "id", "nats", "tokens", "bytes"),
}


class Key(NamedTuple):
    """What a record is about."""

    suite: str
    kind: str
    prompt: str
    scorer: str
    scope: str
    metric: str


class Measure(NamedTuple):
    """A key's draw vector, its number of sentence ids, its training seeds and their standard deviation."""

    draws: Floats
    n: int
    seeds: int
    seed_sd: float


@dataclass(frozen=True)
class Plan:
    """How to measure: equal plans and equal ids make runs comparable draw by draw."""

    groups: Mapping[str, str]
    """Language code to "L1", "L2" or "L3"."""
    kinds: Mapping[str, str] | None = None
    """Suite to kind; where absent, the columns and the shape of `language` ("eng-jav") decide."""
    scorers: tuple[str, ...] = SCORERS
    resamples: int = RESAMPLES
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """A run with every metric drawn: reuse it, as `summarise` and `compare` would otherwise draw again."""

    frames: tuple[pd.DataFrame, ...]
    plan: Plan
    measures: dict[Key, Measure]
    ids: dict[tuple[str, str], frozenset[str]]
    """Sentence ids of each (suite, language)."""


_Cells = dict[tuple[str, str], dict[str, dict[str, Floats]]]  # (scorer, metric) -> language -> prompt


def measure(frames: Frames, plan: Plan) -> Measured:
    """Draw every metric of a run. About 5 ms for each cell (prompt x language x scorer) of 400 rows.

    Raises `DataError` for a missing column, no rows, an id twice in a cell, NaN scores, or a language that
    has no group.
    """
    seeds = tuple(_seeds(frames))
    rows = pd.concat([seed[["suite", "language", "id"]] for seed in seeds])
    ids = {
        (str(suite), str(language)): frozenset(part["id"])
        for (suite, language), part in rows.groupby(["suite", "language"])
    }
    measures: dict[Key, Measure] = {}
    for suite in sorted({suite for suite, _ in ids}):
        of_suite = {language: found for (name, language), found in ids.items() if name == suite}
        measures |= _measure_suite(suite, [seed[seed["suite"] == suite] for seed in seeds], of_suite, plan)
    return Measured(seeds, plan, measures, ids)


def summarise(
    predictions_by_run: Mapping[str, Frames | Measured],
    groups: Mapping[str, str],
    *,
    kinds: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Tidy records of all runs, a row for each run, suite, prompt, scorer, scope and metric.

    Columns: run, suite, kind, prompt ("all" = mean over prompts), scorer, scope ("language:jav",
    "group:L2", "all"), metric, value, low, high (95 %), n (sentence ids), seeds, seed_sd. A translation
    direction belongs to the group of its less known side. Raises `DataError` as `measure` does.
    """
    plan = Plan(groups, kinds, resamples=resamples, seed=seed)
    records = []
    for run, given in predictions_by_run.items():
        measured = given if isinstance(given, Measured) else measure(given, plan)
        records += [
            {"run": run, **key._asdict(), **asdict(interval(m.draws, m.n)), **_spread(m)}
            for key, m in measured.measures.items()
        ]
    return pd.DataFrame(records)


def compare(run: str, first: Measured, against: str, second: Measured) -> pd.DataFrame:
    """Paired differences `run - against` on the ids both have, for each key both have.

    Columns of `summarise`, with `against` and the two-sided p; seed_sd is that of the difference,
    seeds taken as independent. Raises `DataError` if the two were measured by different plans or share no id.
    """
    if first.plan != second.plan:
        raise DataError(f"compare: '{run}' and '{against}' were measured by different plans; use one plan")
    first, second = _on_common_ids(run, first, against, second)
    records = []
    for key, a in first.measures.items():
        if (b := second.measures.get(key)) is None:
            continue
        d = asdict(difference(a.draws, b.draws, a.n))
        spread = {"seeds": min(a.seeds, b.seeds), "seed_sd": float(np.hypot(a.seed_sd, b.seed_sd))}
        records.append({"run": run, "against": against, **key._asdict(), **d, **spread})
    return pd.DataFrame(records)


def compare_all(runs: Mapping[str, Measured], *, base: str = "base", control: str = "control") -> pd.DataFrame:
    """Every comparison that `verdict.verdict` reads, one frame.

    Each run that is no baseline against base, control and the length-only baseline, where those exist.
    """
    pairs = [
        (run, against)
        for run in runs
        if run not in BASELINES
        for against in (base, control, "length")
        if against in runs and against != run and not (run == base and against == control)
    ]
    frames = [compare(run, runs[run], against, runs[against]) for run, against in pairs]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _spread(m: Measure) -> dict[str, float]:
    return {"seeds": m.seeds, "seed_sd": m.seed_sd}


def _seeds(frames: Frames) -> Iterator[pd.DataFrame]:
    for frame in [frames] if isinstance(frames, pd.DataFrame) else frames:
        kind = CLASSIFICATION if "label" in frame.columns else LIKELIHOOD
        missing = [column for column in _COLUMNS[kind] if column not in frame.columns]
        if missing:
            raise DataError(f"{kind} predictions: column '{missing[0]}' is missing; evaluate the run again")
        if frame.empty:
            raise DataError(f"{kind} predictions: no rows; evaluate the run again")
        whole = frame.assign(id=frame["id"].astype(str))
        yield from [part for _, part in whole.groupby("seed")] if "seed" in frame.columns else [whole]


def _measure_suite(
    suite: str, seeds: list[pd.DataFrame], ids: Mapping[str, frozenset[str]], plan: Plan
) -> dict[Key, Measure]:
    parts = [seed for seed in seeds if not seed.empty]
    kind = _kind(suite, parts[0], plan)
    scopes = _scopes(kind, parts, plan.groups)
    index = pd.Index(sorted(frozenset().union(*ids.values())))
    weights = resample_weights(len(index), plan.resamples, plan.seed)
    by_key: dict[Key, list[Floats]] = defaultdict(list)
    for part in parts:
        cells = _cells(part, kind, index, weights, plan)
        for (prompt, scorer, scope, metric), draws in _roll_up(cells, scopes):
            by_key[Key(suite, kind, prompt, scorer, scope, metric)].append(draws)
    sizes = {scope: len(frozenset().union(*(ids[name] for name in names))) for scope, names in scopes.items()}
    return {key: _pool(draws, sizes[key.scope]) for key, draws in by_key.items()}


def _pool(draws: list[Floats], n: int) -> Measure:
    values = [float(vector[0]) for vector in draws]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Measure(mean_draws(draws), n, len(draws), spread)


def _cells(part: pd.DataFrame, kind: str, index: pd.Index, weights: Floats, plan: Plan) -> _Cells:
    cells: _Cells = defaultdict(lambda: defaultdict(dict))
    prompted = part if kind == CLASSIFICATION else part.assign(prompt="all")
    for (prompt, language), rows in prompted.groupby(["prompt", "language"]):
        twice = rows["id"][rows["id"].duplicated()]
        if not twice.empty:
            raise DataError(
                f"predictions: id '{twice.iloc[0]}' stands twice for {rows['suite'].iloc[0]}, {prompt}, "
                f"{language}; give each training seed its own frame or a seed column"
            )
        unit = index.get_indexer(pd.Index(rows["id"])).astype(np.int64)
        drawn = (
            _classification(rows, unit, weights, plan)
            if kind == CLASSIFICATION
            else (_likelihood(rows, unit, weights, kind))
        )
        for (scorer, metric), draws in drawn.items():
            cells[scorer, metric][str(language)][str(prompt)] = draws
    return cells


def _classification(rows: pd.DataFrame, unit: Ints, weights: Floats, plan: Plan) -> dict[tuple[str, str], Floats]:
    where = "/".join(str(rows[column].iloc[0]) for column in ("suite", "prompt", "language"))
    scorers = [name for name in plan.scorers if name in rows.columns and rows[name].notna().any()]
    if not scorers:
        raise DataError(f"predictions of {where}: no column of scores; give one of {', '.join(plan.scorers)}")
    drawn: dict[tuple[str, str], Floats] = {}
    for scorer in scorers:
        scores = score_matrix(rows[scorer], f"{where}, scorer '{scorer}'")
        gold = gold_labels(rows["label"], scores.shape[1], len(scores))
        metrics = classification_draws(weights, unit, gold, scores, rows["chars"].to_numpy())
        drawn |= {(scorer, metric): draws for metric, draws in metrics.items()}
    return drawn


def _likelihood(rows: pd.DataFrame, unit: Ints, weights: Floats, kind: str) -> dict[tuple[str, str], Floats]:
    nats, tokens, sizes = (rows[name].to_numpy(np.float64) for name in ("nats", "tokens", "bytes"))
    if not np.isfinite(nats).all():
        bad = rows["id"][~np.isfinite(nats)].iloc[0]
        raise DataError(f"predictions of {rows['suite'].iloc[0]}: nats of id '{bad}' is NaN or infinite")
    if kind == INSTRUCTIONS:
        return {(LIKELIHOOD, "nats_per_token"): likelihood_draws(weights, unit, nats, tokens)}
    drawn = {(LIKELIHOOD, "bits_per_byte"): likelihood_draws(weights, unit, nats, sizes) / np.log(2)}
    if "mismatched_nats" in rows.columns:
        wrong = rows["mismatched_nats"].to_numpy(np.float64)
        saved = likelihood_draws(weights, unit, nats, sizes, wrong)
        drawn[LIKELIHOOD, "source_use"] = saved / np.log(2)
    return drawn


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
                if all(language in of_prompt for language in languages):
                    draws = mean_draws([of_prompt[language] for language in languages])
                    yield (prompt, scorer, scope, metric), draws


def _kind(suite: str, part: pd.DataFrame, plan: Plan) -> str:
    if "label" in part.columns:
        return CLASSIFICATION
    if plan.kinds and suite in plan.kinds:
        return plan.kinds[suite]
    directions = part["language"].astype(str).str.fullmatch(r"[a-z]{2,3}-[a-z]{2,3}")
    return TRANSLATION if directions.all() else INSTRUCTIONS


def _scopes(kind: str, parts: Sequence[pd.DataFrame], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Languages of each scope. An instruction source's group is its `group_key`, where it has one."""
    rows = pd.concat([part[[c for c in ("language", "group_key") if c in part.columns]] for part in parts])
    languages = sorted(rows["language"].astype(str).unique())
    scopes = {f"language:{language}": [language] for language in languages}
    for language in languages:
        of_language = rows[rows["language"] == language]
        group = _source_group(of_language) if kind == INSTRUCTIONS else _direction_group(language, groups)
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


def _on_common_ids(run: str, first: Measured, against: str, second: Measured) -> tuple[Measured, Measured]:
    common = {key: ids & second.ids[key] for key, ids in first.ids.items() if key in second.ids}
    if not any(common.values()):
        raise DataError(f"compare: '{run}' and '{against}' share no sentence id; evaluate both on one suite")
    return _restricted(first, common), _restricted(second, common)


def _restricted(measured: Measured, common: Mapping[tuple[str, str], frozenset[str]]) -> Measured:
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


class Column(NamedTuple):
    """One column of the printed table."""

    title: str
    suite: str
    scope: str
    metric: str
    scorer: str


def default_columns(results: pd.DataFrame, metric: str = "f1_weighted", scorer: str = "sum") -> list[Column]:
    """New languages first (`metric` for each group but L1), then retention: L1 and old instruction loss."""
    found = results[(results["metric"] == metric) & (results["scorer"] == scorer)]
    cells = {(str(suite), str(scope)) for suite, scope in zip(found["suite"], found["scope"])}
    groups = sorted((scope.removeprefix("group:"), suite) for suite, scope in cells if scope[:6] == "group:")
    columns = [
        Column(f"{'kept' if old else 'new'} {group} {metric} ({suite})", suite, f"group:{group}", metric, scorer)
        for old in (False, True)
        for group, suite in groups
        if (group == "L1") == old
    ]
    instructions = results[results["kind"] == INSTRUCTIONS]["suite"].unique()
    return columns + [
        Column(f"old instruction loss ({suite})", suite, "all", "nats_per_token", LIKELIHOOD) for suite in instructions
    ]


def table(results: pd.DataFrame, columns: Sequence[Column] | None = None) -> tuple[str, Table]:
    """The same table as Markdown and for a terminal: a row a run, `value [low, high]` a cell.

    `results` as from `summarise`, mean over prompts. Rows: baselines, base, control, then the other runs
    in order. Each header carries n, the number of sentence ids. A dash stands for a score or bound that
    does not exist. Raises `DataError` if no column can be shown.
    """
    chosen = list(columns) if columns is not None else default_columns(results)
    if not chosen:
        raise DataError("table: the results hold no such metric and scorer; name columns that they hold")
    found = [_column_cells(results, column) for column in chosen]
    header = ["run", *(_title(column, cells) for column, cells in zip(chosen, found))]
    rows = [[run, *(_cell(cells, run) for cells in found)] for run in _row_order(results["run"].unique())]
    lines = [header, ["---"] + ["---:"] * len(chosen), *rows]
    rich_table = Table(*header)
    for row in rows:
        rich_table.add_row(*(cell.replace("[", r"\[") for cell in row))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", rich_table


def _column_cells(results: pd.DataFrame, column: Column) -> pd.DataFrame:
    wanted = results["prompt"] == "all"
    for field in ("suite", "scope", "metric", "scorer"):
        wanted &= results[field] == getattr(column, field)
    return results[wanted].set_index("run")


def _title(column: Column, cells: pd.DataFrame) -> str:
    sizes = sorted(set(cells["n"]))
    return f"{column.title}, n={'-'.join(str(size) for size in dict.fromkeys(sizes[:1] + sizes[-1:]))}"


def _cell(cells: pd.DataFrame, run: str) -> str:
    if run not in cells.index:
        return "–"
    value, low, high = (_number(float(cells[field][run])) for field in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def _row_order(runs: Iterable[str]) -> list[str]:
    first = (*BASELINES, "base", "control")
    return sorted(runs, key=lambda run: first.index(run) if run in first else len(first))
