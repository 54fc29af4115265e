"""Tables of the overview: chance-normalised scores of groups and languages, a column for each run."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ialign_ray.evaluation.report.tables import row_order
from ialign_ray.evaluation.results.overview import EVERY, TOO_FEW, in_order
from ialign_ray.pages import markdown_table
from ialign_ray.terminal import BlockTable

NOTE = (
    "0 is chance and 1 is perfect; every task of a competency, competency of a language and language of a group weighs "
    "equally. Value [95 % interval over sentences], languages above chance, and rank: runs share one if no "
    "paired interval separates them."
)


def overview_rows(table: pd.DataFrame, *, languages: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Runs, and rows with scope, competency, `group` (True for a group) and the cell of each run (None if missing)."""
    if table.empty:
        return [], []
    shown = in_order(table if languages else table[table["level"] == "group"])
    runs = row_order(shown["run"].unique())
    rows = []
    for (scope, competency), part in shown.groupby(["scope", "competency"], sort=False):
        cells = {row["run"]: row for row in part.to_dict("records")}
        name = str(scope).partition(":")[2] or "all languages"
        about = {"scope": name, "competency": competency if competency != EVERY else "all competencies"}
        rows.append(about | {"group": not str(scope).startswith("language:"), "cells": [cells.get(r) for r in runs]})
    return runs, rows


def overview_table(table: pd.DataFrame) -> tuple[str, BlockTable] | None:
    """Groups of an overview as Markdown and for a terminal; None if nothing has a largest score."""
    runs, rows = overview_rows(table, languages=False)
    if not rows:
        return None
    header = ["group", "competency", *runs]
    lines = [[row["scope"], row["competency"], *map(_cell, row["cells"])] for row in rows]
    return markdown_table(header, lines, texts=2), BlockTable(header, lines)


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None or pd.isna(cell["value"]):
        return "–"
    interval = "" if pd.isna(cell["low"]) else f" [{cell['low']:.3f}, {cell['high']:.3f}]"
    above = f", {int(cell['above'])} of {int(cell['languages'])} above chance"
    rank = f", {TOO_FEW}" if cell["rank"] == TOO_FEW else f", rank {cell['rank']}"
    return f"{cell['value']:.3f}{interval}{above}{rank}"
