"""HTML tables without sideways scrolling: where the columns do not fit, each row becomes a card of named values."""

from __future__ import annotations

import re
from html import unescape

from markupsafe import Markup

STEPS = (*range(20, 93, 6),)
"""Widths of the container, in rem, below which some table becomes cards; `theme.css` has a rule for each."""
_ROW = re.compile(r"<tr([^>]*)>(.*?)</tr>", re.S)
_CELL = re.compile(r"<t[dh]([^>]*)>(.*?)</t[dh]>", re.S)
_BREAKABLE = 24
"""Characters above which a word may be broken: names and paths, never a number."""
_PROSE = 40
"""Characters above which a value takes a card's whole width."""


def html_table(rows: str) -> Markup:
    """Return the table of rows `<tr><th>…</tr><tr><td>…</tr>`, the first of which names the columns.

    A template filter: the texts in `rows` are escaped already. Every cell carries its column's name and each row's
    first cell becomes its heading. The width that the columns need is estimated from their longest words.
    """
    (_, heading), *lines = _ROW.findall(str(rows))
    names = _CELL.findall(heading)
    cells = [_CELL.findall(line) for _, line in lines]
    texts = [[_text(name) for _, name in names], *([_text(body) for _, body in row] for row in cells)]
    needed = sum(max(_wanted(row[k], row is texts[0]) for row in texts if k < len(row)) for k in range(len(names)))
    head = "".join(f'<th scope="col"{a}{_long(_text(body))}>{body}</th>' for a, body in names)
    body = "".join(
        f"<tr{of}>{''.join(_cell(k, attributes, body, texts[0][k]) for k, (attributes, body) in enumerate(row))}</tr>\n"
        for (of, _), row in zip(lines, cells)
    )
    step = next((step for step in STEPS if needed <= step), STEPS[-1])
    kind = f"cards-{step}" if needed <= STEPS[-1] else "cards"
    parts = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
    return Markup(f'<div class="wide"><table class="{kind}">\n{parts}\n</table></div>')


def _cell(place: int, attributes: str, body: str, name: str) -> str:
    tag, scope = ("th", ' scope="row"') if place == 0 else ("td", "")
    text = _text(body)
    prose = " data-prose" if len(text) > _PROSE else ""
    return f'<{tag}{scope}{attributes} data-label="{Markup.escape(name)}"{_long(text)}{prose}>{body}</{tag}>'


def _text(body: str) -> str:
    """Text of a cell; what is in `<small>`, an interval for one, is a single word."""
    body = re.sub(r"<small[^>]*>(.*?)</small>", lambda small: small[1].replace(" ", "\N{NO-BREAK SPACE}"), body)
    return " ".join(unescape(re.sub(r"<[^>]*>", "", body)).split(" ")).strip()


def _words(text: str) -> list[int]:
    return [len(word) for word in re.split(r"[ \n]+", text)]


def _long(text: str) -> str:
    return " data-long" if max(_words(text)) > _BREAKABLE else ""


def _wanted(text: str, heading: bool) -> float:
    """Width in rem: digits and letters are about half as wide as they are high, and each column has its padding."""
    characters = max(min(max(_words(text)), _BREAKABLE), 0 if heading else min(len(text), 14))
    return 0.54 * characters + 1.4
