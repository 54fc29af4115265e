"""A search as one HTML file that needs nothing else: front, curves, importance, every trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ialign_ray.config import SearchConfig
from ialign_ray.search.charts import curves_chart, front_chart, importance_chart
from ialign_ray.search.live import interval, settings
from ialign_ray.search.results import TABLE, ends, front, winner
from ialign_ray.storage import write_text


def write_page(folder: Path, search: SearchConfig, path: Path) -> Path:
    """Write the page of a search from its table."""
    write_text(path, render_page(pd.read_parquet(folder / TABLE), search, folder.parent.name))
    return path


def render_page(table: pd.DataFrame, search: SearchConfig, name: str) -> str:
    """The page as HTML; a search without a single result has words alone."""
    environment = Environment(
        loader=PackageLoader("ialign_ray.search", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    known = not table.empty and "gain" in table and table["gain"].notna().any()
    drawn = [front_chart(table, search), curves_chart(table, search), importance_chart(table, search)] if known else []
    return environment.get_template("page.html.j2").render(
        name=name,
        search=search,
        winner=winner(table, search) if known else None,
        charts=[Markup(svg) for svg in drawn if svg],  # drawn by vl-convert, which escapes what it is given
        rows=[line(r, {f["trial"] for f in front(table)}) for r in ordered_rows(table)] if known else [],
        failed=[(r["trial"], r["failed"]) for r in ends(table) if r.get("failed")],
    )


def ordered_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The last row of each trial that has numbers: the furthest first, then by gain."""
    rows = [r for r in ends(table) if not r.get("failed")]
    return sorted(rows, key=lambda r: (-r["budget"], -r["gain"]))


def line(row: dict[str, Any], best: set[str]) -> dict[str, Any]:
    """A row of the page's table."""
    return {
        "trial": row["trial"],
        "settings": settings(json.loads(row["point"])),
        "budget": int(row["budget"]),
        "tokens": int(row["tokens"]),
        "gain": interval(row, "gain"),
        "forgetting": interval(row, "forgetting"),
        "feasible": "yes" if row["feasible"] is True else "no",
        "front": "front" if row["trial"] in best else "",
    }
