"""A search as one HTML file that needs nothing else: front, curves, importance, every trial."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from ialign_ray.config import SearchConfig
from ialign_ray.pages import themed
from ialign_ray.search.progress import interval, settings
from ialign_ray.search.results import TABLE, ends, finished, front, winner
from ialign_ray.search.searchers import distributions, ordered
from ialign_ray.storage import write_text


def write_page(folder: Path, search: SearchConfig, path: Path) -> Path:
    """Write the page of a search from its table."""
    write_text(path, render_page(pd.read_parquet(folder / TABLE), search, folder.parent.name))
    return path


def render_page(table: pd.DataFrame, search: SearchConfig, name: str) -> str:
    """The page as HTML; a search without a single result has words alone."""
    known = not table.empty and "gain" in table and table["gain"].notna().any()
    drawn = [pareto_chart(table, search), curves_chart(table, search), importance_chart(table, search)] if known else []
    best = {row["trial"] for row in front(table)}
    return (
        themed("ialign_ray.search")
        .get_template("page.html.j2")
        .render(
            name=name,
            search=search,
            winner=winner(table, search) if known else None,
            charts=[Markup(svg) for svg in drawn if svg],  # drawn by vl-convert, which escapes what it is given
            rows=[line(r, best) for r in ordered_rows(table)] if known else [],
            failed=[(r["trial"], r["failed"]) for r in ends(table) if r.get("failed")],
        )
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


FEWEST = 6
"""Finished trials below which no importance is shown."""
INK, SOFT, ACCENT, WARN = "#30363d", "#8a929b", "#1f6f8b", "#b4552d"


def pareto_chart(table: pd.DataFrame, search: SearchConfig) -> str:
    """Gain over forgetting of every trial's last validation, with intervals and the tolerance."""
    import altair as alt

    rows = _last(table)
    best = {r["trial"] for r in front(table)}
    rows["kind"] = [_kind(*r, best) for r in zip(rows["trial"], rows["last"], strict=True)]
    across, up = f"forgetting, nats/token above the {search.against}", "gain over the control, nats/token"
    x, y = alt.X("forgetting:Q", title=across), alt.Y("gain:Q", title=up)
    color = alt.Color(
        "kind:N", title=None, scale=alt.Scale(domain=["front", "finished", "stopped early"], range=[ACCENT, INK, SOFT])
    )
    base = alt.Chart(rows)
    bars = base.mark_rule(opacity=0.35).encode(x=x, y=alt.Y("gain_low:Q", title=up), y2="gain_high:Q", color=color)
    flat = base.mark_rule(opacity=0.35).encode(
        x=alt.X("forgetting_low:Q", title=across), x2="forgetting_high:Q", y=y, color=color
    )
    points = base.mark_point(filled=True, size=55).encode(x=x, y=y, color=color)
    limit = alt.Chart(pd.DataFrame({"x": [search.tolerance]})).mark_rule(strokeDash=[5, 4], color=WARN).encode(x="x:Q")
    return _svg(
        bars + flat + points + limit, "Each trial's last validation; right of the dashed line too much is forgotten"
    )


def curves_chart(table: pd.DataFrame, search: SearchConfig) -> str:
    """Gain and forgetting at each budget, one line a trial."""
    import altair as alt

    rows = table[table["failed"].fillna("") == ""]
    best = {r["trial"] for r in front(table)}
    rows = rows.assign(kind=["front" if t in best else "other" for t in rows["trial"]])
    color = alt.Color("kind:N", title=None, scale=alt.Scale(domain=["front", "other"], range=[ACCENT, SOFT]))
    charts = [
        alt.Chart(rows).mark_line(point=True, opacity=0.7).encode(
            x=alt.X("budget:Q", title=f"budget, {search.unit}"), y=alt.Y(f"{name}:Q", title=f"{name}, nats/token"),
            detail="trial:N", color=color,
        ).properties(width=300, height=220)
        for name in ("gain", "forgetting")
    ]  # fmt: skip
    return _svg(alt.hconcat(*charts), "Validation at each budget")


def importance_chart(table: pd.DataFrame, search: SearchConfig) -> str | None:
    """Chart of each field's share in the spread of gain and forgetting; None with too few finished trials."""
    import altair as alt

    rows = [
        {"field": field, "share": share, "of": target}
        for target in ("gain", "forgetting")
        for field, share in importances(table, search, target).items()
    ]
    if not rows:
        return None
    chart = alt.Chart(pd.DataFrame(rows)).mark_bar(color=ACCENT).encode(
        x=alt.X("share:Q", title="share", axis=alt.Axis(format="%")), y=alt.Y("field:N", title=None, sort="-x"),
        column=alt.Column("of:N", title=None),
    ).properties(width=260)  # fmt: skip
    return _svg(chart, "What explains the differences between finished trials")


def importances(table: pd.DataFrame, search: SearchConfig, target: str) -> dict[str, float]:
    """Optuna's importances (fANOVA, Hutter et al. 2014) over finished trials; empty with too few of them."""
    import optuna

    rows = finished(table)
    space = {k: d for k, d in search.space.items() if d.bounds or len(d.values or []) > 1}
    if len(rows) < FEWEST or not space or len({r[target] for r in rows}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # a study of our own rows: importances need no search, and so serve every searcher
    study = optuna.create_study()
    known = distributions(space)
    for row in rows:
        point = json.loads(row["point"])
        drawn = {k: _drawn(point[k], ordered(space[k]), known[k]) for k in space}
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=known, value=row[target]))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {k: float(v) for k, v in found.items() if math.isfinite(v)}


def _drawn(value: Any, known: list[Any] | None, distribution: Any) -> Any:
    """Value in Optuna's terms for a value of a point."""
    if known is None:
        return min(max(value, distribution.low), distribution.high)
    return json.dumps(value) if hasattr(distribution, "choices") else known.index(value)


def _last(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["failed"].fillna("") == ""].groupby("trial").tail(1).copy()
    rows["settings"] = [settings(json.loads(p)) for p in rows["point"]]
    return rows


def _kind(trial: str, last: object, best: set[str]) -> str:
    if trial in best:
        return "front"
    return "finished" if last is True else "stopped early"


def _svg(chart: Any, title: str) -> str:
    """One SVG, drawn without a browser; it scales with the page and shows on dark paper."""
    import vl_convert

    drawn = chart.properties(title=title).configure(background="white", font="sans-serif")
    return str(vl_convert.vegalite_to_svg(drawn.to_json()))
