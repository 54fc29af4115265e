"""Charts of the report as Vega-Lite. Colours of text and grid are the page's variables: they follow light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import altair as alt
import pandas as pd

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7570B3")
"""Okabe and Ito's colours, distinct to the colour-blind, without those that vanish on white or black.
`runs` of a chart gives every run the same one in all charts."""
Spec = dict[str, Any]


def gain_against_forgetting(points: pd.DataFrame, tolerance: float, gain: str, kept: str, runs: Sequence[str]) -> Spec:
    """Columns run, group, x, x_low, x_high, y, y_low, y_high, said: a point a run and group, + is better."""
    base = alt.Chart(points)
    x = alt.X("x:Q", title=f"kept old work: {kept}", axis=alt.Axis(tickCount=8), scale=alt.Scale(zero=True, padding=20))
    y = alt.Y("y:Q", title=f"gain on new languages: {gain}", scale=alt.Scale(zero=True, padding=20))
    colour = _by("run", runs)
    across = base.mark_rule().encode(x=alt.X("x_low:Q", title=x["title"]), x2="x_high:Q", y=y, color=colour)
    upward = base.mark_rule().encode(x=x, y=alt.Y("y_low:Q", title=y["title"]), y2="y_high:Q", color=colour)
    dots = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x,
        y=y,
        color=colour,
        shape=alt.Shape("group:N", title="languages"),
        tooltip=[alt.Tooltip("said:N", title=" ")],
    )
    limit = alt.Chart(pd.DataFrame({"x": [-tolerance]})).mark_rule(strokeDash=[6, 4], color="var(--ink)")
    zero = alt.Chart(pd.DataFrame({"y": [0.0]})).mark_rule(color="var(--soft)").encode(y="y:Q")
    return _spec(alt.layer(zero, limit.encode(x="x:Q"), across, upward, dots), 340)


def transfer(gains: pd.DataFrame, runs: Sequence[str]) -> Spec:
    """Columns run, seed, L2, L3: a point a trained run."""
    chart = alt.Chart(gains).mark_point(filled=True, size=100, opacity=1)
    tips = ["run:N", "seed:Q", alt.Tooltip("L2:Q", format="+.3f"), alt.Tooltip("L3:Q", format="+.3f")]
    return _spec(
        chart.encode(
            x=alt.X("L2:Q", title="gain on L2 over base", axis=alt.Axis(tickCount=8), scale=alt.Scale(padding=20)),
            y=alt.Y("L3:Q", title="gain on L3 over base", scale=alt.Scale(padding=20)),
            color=_by("run", runs),
            tooltip=tips,
        ),
        280,
    )


def curves(losses: pd.DataFrame, y: str, runs: Sequence[str]) -> Spec:
    """Columns run, seed, source, step, loss: a line a trained run, one small chart a source."""
    chart = alt.Chart(losses).mark_line(strokeWidth=1.6, clip=True)
    panel = chart.encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y("loss:Q", title=y, scale=alt.Scale(zero=False)),
        color=_by("run", runs),
        detail="seed:N",
        tooltip=["run:N", "seed:N", "source:N", "step:Q", alt.Tooltip("loss:Q", format=".3f")],
    ).properties(width=215, height=140)
    return _finished(panel.facet(facet=alt.Facet("source:N", title=None), columns=3).resolve_scale(y="independent"))


def label_shares(shares: pd.DataFrame, labels: Sequence[str], runs: Sequence[str]) -> Spec:
    """Columns run, language, label, share: a bar a run, one small chart a language."""
    order = {label: number for number, label in enumerate(labels)}
    panel = (
        alt.Chart(shares.assign(order=shares["label"].map(order)))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title=None, stack="zero", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("run:N", title=None, sort=list(runs)),
            color=_by("label", labels),
            order="order:Q",
            tooltip=["language:N", "run:N", "label:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width=185, height=alt.Step(18))
    )
    return _finished(panel.facet(facet=alt.Facet("language:N", title=None), columns=3))


def _by(field: str, names: Iterable[str]) -> alt.Color:
    domain = [str(name) for name in names]
    colours = [COLOURS[k % len(COLOURS)] for k in range(len(domain))]
    legend = alt.Legend(orient="top", title=None, labelLimit=240, columns=4)
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)


def _spec(chart: alt.LayerChart | alt.Chart, height: int) -> Spec:
    return _finished(chart.properties(width="container", height=height))


def _finished(chart: Any) -> Spec:
    words = {"labelColor": "var(--soft)", "titleColor": "var(--ink)", "labelFontSize": 12, "titleFontSize": 12}
    styled = chart.configure(background="transparent", font="system-ui, sans-serif").configure_view(stroke=None)
    styled = styled.configure_axis(gridColor="var(--line)", domainColor="var(--soft)", tickColor="var(--soft)", **words)
    styled = styled.configure_legend(symbolBaseFillColor="var(--soft)", **words).configure_header(**words)
    spec: Spec = styled.to_dict()
    return spec
