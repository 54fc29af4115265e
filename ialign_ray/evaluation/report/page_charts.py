"""Charts of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from ialign_ray.pages.charts import SHAPES, Bars, Figure, colours, styled


def gain_against_forgetting(
    points: pd.DataFrame, tolerance: float, gain: str, runs: Sequence[str], words: Mapping[str, str]
) -> Figure:
    """Columns run, group, x, x_low, x_high, y, y_low, y_high, said: one point per run and group, + is better.

    `words`: title and caption of the figure, and what x is.
    """
    shapes = dict(zip(sorted(points["group"].unique()), SHAPES))
    base = alt.Chart(points)
    x = alt.X("x:Q", axis=alt.Axis(tickCount=8), scale=alt.Scale(zero=True, padding=20))
    y = alt.Y("y:Q", scale=alt.Scale(zero=True, padding=20))
    colour = _by("run", runs)
    across = base.mark_rule().encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y, color=colour)
    upward = base.mark_rule().encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q", color=colour)
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        shape=alt.Shape("group:N", scale=alt.Scale(domain=list(shapes), range=list(shapes.values()))),
        tooltip=[alt.Tooltip("said:N", title=" ")],
    )
    limit = alt.Chart(pd.DataFrame({"x": [-tolerance]})).mark_rule(strokeDash=[6, 4], color="var(--ink)")
    zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(color="var(--soft)").encode(y="y:Q")
    return Figure(
        styled(alt.layer(zero, limit.encode(x="x:Q"), across, upward, dots), 340),
        words["caption"],
        f"gain on new languages: {gain}",
        f"kept old work: {words['kept']}",
        _key(points, runs),
        [(SHAPES[shape], group) for group, shape in shapes.items()],
        words["title"],
    )


def transfer(gains: pd.DataFrame, runs: Sequence[str], title: str, caption: str) -> Figure:
    """Columns run, seed, L2, L3: one point per trained run."""
    chart = alt.Chart(gains).mark_point(filled=True, size=100, opacity=1)
    tips = ["run:N", "seed:Q", alt.Tooltip("L2:Q", format="+.3f"), alt.Tooltip("L3:Q", format="+.3f")]
    drawn = chart.encode(
        x=alt.X("L2:Q", axis=alt.Axis(tickCount=8), scale=alt.Scale(padding=20)),
        y=alt.Y("L3:Q", scale=alt.Scale(padding=20)),
        color=_by("run", runs),
        tooltip=tips,
    )
    axes = ("gain on L3 over base", "gain on L2 over base")
    return Figure(styled(drawn, 280), caption, *axes, _key(gains, runs), title=title)


def curves(losses: pd.DataFrame, runs: Sequence[str]) -> list[Figure]:
    """Columns run, seed, source, step, loss (nats per token): one line per run, one chart per source, no key."""
    found = []
    for source, part in losses.groupby("source", sort=False):
        drawn = (
            alt.Chart(part)
            .mark_line(strokeWidth=1.6, clip=True, point=bool(part.groupby(["run", "seed"]).size().min() == 1))
            .encode(
                x=alt.X("step:Q", axis=alt.Axis(tickCount=5)),
                y=alt.Y("loss:Q", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5)),
                color=_by("run", runs),
                detail="seed:N",
                tooltip=["run:N", "seed:N", "step:Q", alt.Tooltip("loss:Q", format=".3f")],
            )
        )
        found.append(Figure(styled(drawn, 150), "", "loss, nats per token", "step", title=str(source)))
    return found


def label_shares(shares: pd.DataFrame, labels: Sequence[str], runs: Sequence[str]) -> list[Bars]:
    """Columns run, language, label, share: one bar per run, one chart per language."""
    painted = colours(labels)
    found = []
    for language, part in shares.groupby("language", sort=False):
        of = {(row["run"], row["label"]): float(row["share"]) for row in part.to_dict("records")}
        rows = [
            (run, [(painted[label], label, of[run, label]) for label in labels if (run, label) in of]) for run in runs
        ]
        found.append(Bars(str(language), [row for row in rows if row[1]]))
    return found


def _by(field: str, names: Sequence[str]) -> Any:
    painted = colours(names)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(painted), range=list(painted.values())))


def _key(rows: pd.DataFrame, runs: Sequence[str]) -> list[tuple[str, str]]:
    """(colour, run) of the runs that are drawn."""
    return [(colour, run) for run, colour in colours(runs).items() if run in set(rows["run"])]
