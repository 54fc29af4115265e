"""A survey as one HTML file that needs nothing else: plots, and a table to search and sort."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import langcodes
import pandas as pd

from ialign_ray.pages import themed
from ialign_ray.pages.charts import COLOURS, Figure, styled
from ialign_ray.storage import write_text
from ialign_ray.survey import advice
from ialign_ray.survey.texts import FEWEST

DIGITS: Final = {"broken": 3, "unknown": 3, "tokens_per_byte": 3}
"""Decimals of columns with small numbers; the others have two."""
OTHERS: Final = "other scripts"
_TICKS = [0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32]


@dataclass(frozen=True)
class SurveyedWith:
    """Arguments of a survey, for its page."""

    model: str
    data: str
    pivot: str
    limit: int
    longest: int | None


def write_page(table: pd.DataFrame, path: Path, about: SurveyedWith) -> Path:
    """Write the page of a table (`table.survey_table`); the file is there whole or not at all."""
    write_text(path, render_page(table, about))
    return path


def render_page(table: pd.DataFrame, about: SurveyedWith) -> str:
    """The page as HTML. Whatever comes from the data is escaped."""
    rows = table.to_dict("records")
    others = table[table["known"] != advice.PIVOT.kind]
    return (
        themed("ialign_ray.survey")
        .get_template("page.html.j2")
        .render(
            about=about,
            rows=rows,
            pivot=table["name"].iloc[0],
            kinds=[(kind, int((others["known"] == kind.kind).sum())) for kind in advice.KINDS],
            charts=charts(table.assign(script=[script_name(code) for code in table["script"]])),
            cell=cell,
            sortable=lambda value: "" if pd.isna(value) else f"{value:.6g}",
            script_name=script_name,
            fewest=FEWEST,
            lines=advice,
        )
    )


def cell(row: Mapping[Any, Any], name: str) -> tuple[str, str]:
    """Text of a number and of its interval; what is missing is said in words."""
    digits = DIGITS.get(name, 2)
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if pd.isna(value):
        few = row["units"] < FEWEST or (row["read"] < FEWEST and name not in {"premium", "tokens_per_character"})
        return ("too few" if few else "-", "")
    return (_plain(value, digits), "" if pd.isna(low) else f"[{_plain(low, digits)}, {_plain(high, digits)}]")


def _plain(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def script_name(code: str) -> str:
    """English name of a script, without what is in brackets in CLDR."""
    if not code:
        return "none"
    name = str(langcodes.Language.make(script=code).script_name("en"))
    return code if name.startswith("Unknown") else name.partition(" (")[0]


def charts(table: pd.DataFrame) -> list[Figure]:
    """Fertility against bits per byte, and parity against retrieval; empty without numbers. `script` holds names."""
    painted = _painted(table["script"])
    drawn = table.assign(group=[name if name in painted else OTHERS for name in table["script"]])
    key = [(colour, name) for name, colour in painted.items() if name in set(drawn["group"])]
    pairs = [
        _points(
            drawn, painted, key, ("premium", "bits_per_byte"), "log",
            "One point per language. Both depend on the script: a letter takes one byte in Latin, two in Cyrillic and "
            "Arabic, three in most others.",
            ("bits per byte", "premium: tokens, as a multiple of the pivot's for the same texts"),
            "Fertility against bits per byte",
        ),
        _points(
            drawn, painted, key, ("parity", "retrieval"), "linear",
            "Parity is the pivot's bits over the bits of the translation. Languages to the right are better known; the "
            "hidden states of those further up resemble the pivot's.",
            ("share of texts whose translation is found", "parity"),
            "What is known, and what is shared with the pivot",
        ),
    ]  # fmt: skip
    return [figure for figure in pairs if figure is not None]


def _painted(scripts: pd.Series) -> dict[str, str]:
    """Script -> colour: the most frequent ones, and one colour for all others."""
    frequent = list(scripts.value_counts().index[: len(COLOURS) - 1])
    painted = dict(zip(frequent, COLOURS))
    return painted | ({OTHERS: COLOURS[len(COLOURS) - 1]} if scripts.nunique() > len(frequent) else {})


def _points(
    table: pd.DataFrame,
    painted: Mapping[str, str],
    key: list[tuple[str, str]],
    columns: tuple[str, str],
    scale: str,
    caption: str,
    axes: tuple[str, str],
    title: str,
) -> Figure | None:
    import altair as alt

    across, up = columns
    shown = ["name", "code", "script", "group", "bits_per_byte", "parity", "premium", "retrieval"]
    rows = table[table[across].notna() & table[up].notna()][shown]
    if rows.empty:
        return None
    tips = [alt.Tooltip("name:N", title="language"), "code:N", "script:N"]
    tips += [
        alt.Tooltip(f"{n}:Q", title=n.replace("_", " "), format=".2f") for n in dict.fromkeys((*columns, "parity"))
    ]
    colour = alt.Color("group:N", scale=alt.Scale(domain=list(painted), range=list(painted.values())))
    # Vega's own ticks of a logarithm cover whole powers of ten
    ticks = alt.Axis(values=_TICKS, grid=True) if scale == "log" else alt.Axis(tickCount=6)
    room = {"nice": False} if scale == "log" else {"zero": False}
    x = alt.X(f"{across}:Q", scale=alt.Scale(type=scale, padding=14, **room), axis=ticks)
    points = alt.Chart(rows).mark_point(filled=True, size=55, opacity=0.7)
    y = alt.Y(f"{up}:Q", scale=alt.Scale(zero=False, padding=12))
    return Figure(styled(points.encode(x=x, y=y, color=colour, tooltip=tips), 380), caption, *axes, key, title=title)
