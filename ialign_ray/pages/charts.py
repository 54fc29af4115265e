"""Charts of the pages: Vega-Lite, drawn by a script in the page. Titles and keys are HTML, which wraps; SVG cuts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from markupsafe import Markup

COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#7570B3")
"""Okabe and Ito's colours, distinct to the colour-blind, without those that vanish on white or black."""
SHAPES: Final = {"circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆"}
"""Vega's name of each point shape -> its symbol in the legend."""
_DRAW = """
for (const figure of document.querySelectorAll('[data-chart]')) {
  const spec = JSON.parse(figure.querySelector('script').textContent);
  vegaEmbed(figure.querySelector('.canvas'), spec, {renderer: 'svg', actions: false});
}
"""


@dataclass(frozen=True)
class Figure:
    """One chart with its words."""

    spec: dict[str, Any]
    """Vega-Lite, as from `styled`."""
    caption: str
    up: str
    """Title of the vertical axis."""
    across: str
    """Title of the horizontal axis."""
    key: Sequence[tuple[str, str]] = ()
    """(CSS colour, meaning)."""
    shapes: Sequence[tuple[str, str]] = ()
    """(sign, meaning)."""
    title: str = ""


@dataclass(frozen=True)
class Bars:
    """Horizontal bars of shares that are drawn by CSS: a row for each name, its parts from left to right."""

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, str, float]]]]
    """(name, parts as (CSS colour, meaning, share between 0 and 1))."""


def colours(names: Iterable[str]) -> dict[str, str]:
    """Name -> its colour; a name has the same one in all charts that are given the same names."""
    return {str(name): COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}


def styled(chart: Any, height: int) -> dict[str, Any]:
    """Vega-Lite of an Altair chart as wide as its column, without axis titles and keys, which `Figure` has.

    Colours of text and grid are the page's variables, so they follow light and dark.
    """
    sized = chart.properties(width="container", height=height).configure(
        background="transparent", font="system-ui, sans-serif"
    )
    axes: dict[str, Any] = {"gridColor": "var(--line)", "domainColor": "var(--soft)", "tickColor": "var(--soft)"}
    axes |= {
        "labelColor": "var(--soft)",
        "labelFontSize": 12,
        "title": None,
        "labelOverlap": True,
        "labelSeparation": 8,
    }
    spec: dict[str, Any] = (
        sized.configure_view(stroke=None).configure_axis(**axes).configure_legend(disable=True).to_dict()
    )
    return spec


@cache
def draw_script() -> tuple[Markup, str]:
    """Script that draws a page's figures, and its SHA-256 as the page's security policy names it.

    Vega, Vega-Lite and vega-embed: 0.9 MB, two seconds to make.
    """
    import vl_convert

    # an end tag inside the script would end it
    script = str(vl_convert.javascript_bundle(_DRAW)).replace("</script", "<\\/script")
    return Markup(script), base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
