"""A search as one HTML file that needs nothing else: front, curves, importance, every trial."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ialign_ray.config import SearchConfig
from ialign_ray.pages import themed
from ialign_ray.pages.charts import Bars, Figure, styled
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
    best = {row["trial"] for row in front(table)}
    return (
        themed("ialign_ray.search")
        .get_template("page.html.j2")
        .render(
            name=name,
            search=search,
            winner=winner(table, search) if known else None,
            charts=[pareto_chart(table, search), *curves_charts(table, search)] if known else [],
            shares=importance_bars(table, search) if known else [],
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
        "gain": interval(row, "gain").split(" ", 1),
        "forgetting": interval(row, "forgetting").split(" ", 1),
        "feasible": "yes" if row["feasible"] is True else "no",
        "front": row["trial"] in best,
    }


FEWEST = 6
"""Finished trials below which no importance is shown."""
INK, SOFT, ACCENT = "var(--ink)", "var(--soft)", "var(--accent)"
_TIPS = ["trial:N", "settings:N", "budget:Q", "gain:Q", "forgetting:Q"]


def pareto_chart(table: pd.DataFrame, search: SearchConfig) -> Figure:
    """Gain over forgetting of every trial's last validation, with intervals and the tolerance."""
    import altair as alt

    best = {r["trial"] for r in front(table)}
    rows = _drawn_rows(table).groupby("trial").tail(1)
    rows = rows.assign(kind=[_kind(*r, best) for r in zip(rows["trial"], rows["last"], strict=True)])
    kinds = {"front": ACCENT, "finished": INK, "stopped early": SOFT}
    color = alt.Color("kind:N", scale=alt.Scale(domain=list(kinds), range=list(kinds.values())))
    base, x, y = alt.Chart(rows), alt.X("forgetting:Q"), alt.Y("gain:Q")
    bars = base.mark_rule(opacity=0.35).encode(x=x, y="gain_low:Q", y2="gain_high:Q", color=color)
    flat = base.mark_rule(opacity=0.35).encode(x="forgetting_low:Q", x2="forgetting_high:Q", y=y, color=color)
    points = base.mark_point(filled=True, size=55).encode(x=x, y=y, color=color, tooltip=_TIPS)
    limit = alt.Chart(pd.DataFrame({"x": [search.tolerance]})).mark_rule(strokeDash=[5, 4], color="var(--warn)")
    return Figure(
        styled(bars + flat + points + limit.encode(x="x:Q"), 340),
        "The last validation of each trial with its 95 % intervals. Trials right of the dashed line forget more than "
        "the tolerance.",
        "gain over the control, nats/token",
        f"forgetting, nats/token above the {search.against}",
        [(colour, kind) for kind, colour in kinds.items()],
    )


def curves_charts(table: pd.DataFrame, search: SearchConfig) -> list[Figure]:
    """Gain and forgetting at each budget, one line per trial."""
    import altair as alt

    best = {r["trial"] for r in front(table)}
    rows = _drawn_rows(table)
    rows = rows.assign(kind=["front" if t in best else "other" for t in rows["trial"]])
    kinds = {"front": ACCENT, "other": SOFT}
    color = alt.Color("kind:N", scale=alt.Scale(domain=list(kinds), range=list(kinds.values())))
    return [
        Figure(
            styled(
                alt.Chart(rows)
                .mark_line(point=True, opacity=0.7)
                .encode(x="budget:Q", y=f"{name}:Q", detail="trial:N", color=color, tooltip=_TIPS),
                220,
            ),
            "",
            f"{name}, nats/token",
            f"budget, {search.unit}",
            [(colour, kind) for kind, colour in kinds.items()],
            title=f"{name.capitalize()} at each budget",
        )
        for name in ("gain", "forgetting")
    ]


def importance_bars(table: pd.DataFrame, search: SearchConfig) -> list[Bars]:
    """Each field's share in the spread of gain and of forgetting; empty with too few finished trials."""
    found = {target: importances(table, search, target) for target in ("gain", "forgetting")}
    return [
        Bars(target, [(field, [(ACCENT, "", share)]) for field, share in sorted(of.items(), key=lambda x: -x[1])])
        for target, of in found.items()
        if of
    ]


def importances(table: pd.DataFrame, search: SearchConfig, target: str) -> dict[str, float]:
    """Optuna's importances (fANOVA, Hutter et al. 2014) over finished trials; empty with too few of them."""
    import optuna

    rows = finished(table)
    space = {k: d for k, d in search.space.items() if d.bounds or len(d.values or []) > 1}
    if len(rows) < FEWEST or not space or len({r[target] for r in rows}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # a study built from the table: importances need no search, so this works for every searcher
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


def _drawn_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with numbers, and the settings of each in words."""
    rows = table[table["failed"].fillna("") == ""]
    return rows.assign(settings=[settings(json.loads(p)) for p in rows["point"]])


def _kind(trial: str, last: object, best: set[str]) -> str:
    if trial in best:
        return "front"
    return "finished" if last is True else "stopped early"
