"""Results as a table with one row per run, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ialign_ray.config import ChoiceSuite, ClassificationSuite, Suite
from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.cell import LIKELIHOOD
from ialign_ray.evaluation.metrics.classification import LENGTH_FIXED
from ialign_ray.evaluation.metrics.registry import INSTRUCTIONS
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, label_names
from ialign_ray.pages import markdown_table
from ialign_ray.terminal import BlockTable


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


def suite_columns(suite: Suite, results: pd.DataFrame, scorer: str) -> list[Column]:
    """Columns of a suite: its own metric first, then those of its kind, for each group of languages.

    `scorer` is the experiment's. A metric that the results do not hold (say, of text where none was generated) has no
    column; a suite of instructions is shown over all of its sources.
    """
    kind = SUITES[suite.kind]
    titles = kind.titles(suite.named_metrics)
    chief = kind.chief(suite)
    found = results[results["suite"] == suite.name]
    scopes = sorted(scope for scope in found["scope"].unique() if scope.startswith("group:"))
    return [
        Column(
            f"{suite.name} {scope.removeprefix('group:')} {titles.get(metric, metric)}".replace(" all ", " "),
            suite.name,
            scope,
            metric,
            kind.scored(scorer),
        )
        for metric in dict.fromkeys([chief, *titles])
        for scope in (["all"] if kind.by_source else scopes)
        if ((found["metric"] == metric) & (found["scope"] == scope)).any()
    ]


def bias_table(suite: ClassificationSuite | ChoiceSuite, results: pd.DataFrame) -> str:
    """Raw and calibrated scores with predicted shares, as Markdown: one row per run, group and scorer.

    A gain that is there with one scorer alone, or goes with a shift of the predicted shares, is a shift of label bias
    before it is anything else. Baselines but the majority are left out; columns: the suite's metric, calibration error
    and the share of the predictions that each label gets.
    """
    held = set(results[results["suite"] == suite.name]["metric"])
    shares = {f"share_{k}": f"says {name}" for k, name in enumerate(label_names(suite)) if f"share_{k}" in held}
    metrics = [suite.metric, "calibration_error", *shares]
    found = results[(results["suite"] == suite.name) & (results["prompt"] == "all") & results["metric"].isin(metrics)]
    found = found[found["scope"].str.startswith("group:") & ~found["run"].isin({*BASELINES} - {"majority"})]
    values = found.pivot_table(index=["run", "scope", "scorer"], columns="metric", values="value", sort=False)
    header = ["run", "group", "scorer", suite.metric, "calibration error", *shares.values()]
    lines = []
    for run in row_order(found["run"].unique()):
        for row in values.loc[[run]].reset_index().to_dict("records"):
            if run not in BASELINES or row["scorer"] == "sum":  # a baseline's scores are the same under each name
                cells = [_number(float(row[metric])) for metric in metrics]
                lines.append([run, str(row["scope"]).removeprefix("group:"), str(row["scorer"]), *cells])
    return markdown_table(header, lines, texts=3)


def table(results: pd.DataFrame, columns: Sequence[Column] | None = None) -> tuple[str, BlockTable]:
    """The same table as Markdown and for a terminal: one row per run, `value [low, high]` in each cell.

    `results` as from `summarise`, mean over prompts. Rows: baselines, base, control, then the other runs
    in order. Each header carries n, the number of sentence ids, and of clusters where those are the units. A dash is a
    score or bound that does not exist. Raises `DataError` if no column can be shown.
    """
    chosen = list(columns) if columns is not None else default_columns(results)
    if not chosen:
        raise DataError("table: the results hold no such metric and scorer; name columns that they hold")
    found = [_column_cells(results, column) for column in chosen]
    header = ["run", *(_title(column, cells) for column, cells in zip(chosen, found))]
    rows = [[run, *(_cell(cells, run) for cells in found)] for run in row_order(results["run"].unique())]
    return markdown_table(header, rows), BlockTable(header, rows)


def _column_cells(results: pd.DataFrame, column: Column) -> pd.DataFrame:
    wanted = results["prompt"] == "all"
    for field in ("suite", "scope", "metric", "scorer"):
        wanted &= results[field] == getattr(column, field)
    return results[wanted].set_index("run")


def _title(column: Column, cells: pd.DataFrame) -> str:
    clusters = cells["clusters"] if (cells["clusters"] < cells["n"]).any() else None
    units = "" if clusters is None else f" in {_range(clusters)} clusters"
    return f"{column.title}, n={_range(cells['n'])}{units}"


def _range(sizes: pd.Series) -> str:
    found = sorted(set(sizes))
    return "-".join(str(size) for size in dict.fromkeys(found[:1] + found[-1:]))


def _cell(cells: pd.DataFrame, run: str) -> str:
    if run not in cells.index:
        return "–"
    value, low, high = (_number(float(cells[field][run])) for field in ("value", "low", "high"))
    if value == "–" and cells["metric"][run] in LENGTH_FIXED:
        return "too few rows"
    return f"{value} [{low}, {high}]"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


def row_order(runs: Iterable[str]) -> list[str]:
    """Baselines, base, control, then the other runs in their order."""
    first = (*BASELINES, "base", "control")
    return sorted(runs, key=lambda run: first.index(run) if run in first else len(first))
