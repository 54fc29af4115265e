"""Printing: own lines as they are, tables that fit the terminal's width, and no chatter of heavy libraries."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def prepare_process() -> None:
    """Quiet the heavy libraries, before they are imported; what the user has set stays."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, no highlighting, and no wrapping of paths and commands."""
    console.print(*lines, sep="\n", soft_wrap=True, highlight=False, markup=False)


_GAP = "  "
_INTERVAL = re.compile(r"\[[-+\d.,%– ]*\]")
_WORD = re.compile(rf"{_INTERVAL.pattern}|\S+")
"""A word; an interval such as `[0.401, 0.623]` is one."""
_ATOM = re.compile(r"\d[\d.,]*|.")
"""A number, or one other character: where a word that is too long may be broken."""
_NUMBER = re.compile(r"[-+~]?[\d–]|-$")
_NAME = 12
"""Width at which a name may be broken."""


@dataclass(frozen=True)
class BlockTable:
    """A table that fits the width it is printed in, without cutting a number.

    Texts are wrapped. If the columns still do not fit side by side, they are printed in several blocks, one below
    the other, each with the first column. Rich's own tables end cells with an ellipsis instead.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    total: bool = False
    """The last row is a sum, and bold."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        if self.title:
            yield Text("\n".join(_wrapped(self.title, options.max_width)), style="bold")
        for number, (columns, widths) in enumerate(self._blocks(options.max_width)):
            if number:
                yield Text("")
            head = [self.header[k] for k in columns]
            yield self._lines(head, columns, widths, "bold")
            yield Text(_GAP.join("─" * width for width in widths), no_wrap=True, overflow="ignore")
            for row in self.rows:
                last = self.total and row is self.rows[-1]
                yield self._lines([row[k] for k in columns], columns, widths, "bold" if last else "")

    def _lines(self, cells: Sequence[str], columns: Sequence[int], widths: Sequence[int], style: str) -> Text:
        wrapped = [_wrapped(cell, width) for cell, width in zip(cells, widths)]
        lines = []
        for at in range(max(map(len, wrapped))):
            parts = [lines_of[at] if at < len(lines_of) else "" for lines_of in wrapped]
            padded = [_padded(part, w, self._numeric(k)) for part, w, k in zip(parts, widths, columns)]
            lines.append(_GAP.join(padded).rstrip())
        return Text("\n".join(lines), style=style, no_wrap=True, overflow="ignore")

    def _numeric(self, column: int) -> bool:
        cells = [row[column] for row in self.rows if row[column].strip()]
        return column > 0 and bool(cells) and all(_NUMBER.match(cell) for cell in cells)

    def _blocks(self, width: int) -> Iterator[tuple[list[int], list[int]]]:
        """Yield (columns, their widths) of each block."""
        fair = [max(_fair(cell) for cell in self._cells(k)) for k in range(len(self.header))]
        if _total(fair) > width:
            fair[0] = min(fair[0], max(_least(cell) for cell in self._cells(0)))
        taken = [0]
        for column in range(1, len(self.header)):
            if len(taken) > 1 and _total([fair[k] for k in [*taken, column]]) > width:
                yield taken, self._fitted(taken, fair, width)
                taken = [0]
            taken.append(column)
        yield taken, self._fitted(taken, fair, width)

    def _fitted(self, columns: list[int], fair: list[int], width: int) -> list[int]:
        """Widths of one block's columns: the column that lacks most gets the next character until all are used."""
        wanted = [
            max([fair[k], *(cell_len(line) for c in self._cells(k)[1:] for line in c.split("\n"))]) for k in columns
        ]
        widths = [fair[k] for k in columns]
        if _total(widths) > width:
            widths = [max(_least(cell) for cell in self._cells(k)) for k in columns]
        for _ in range(width - _total(widths)):
            lacking = [want - has for want, has in zip(wanted, widths)]
            if max(lacking) <= 0:
                break
            widths[lacking.index(max(lacking))] += 1
        return widths

    def _cells(self, column: int) -> list[str]:
        return [self.header[column], *(row[column] for row in self.rows)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fair(text: str) -> int:
    """Width below which a text moves to another block instead of wrapping, so a score stays with its interval."""
    scores = [cell_len(line) for line in text.split("\n") if _INTERVAL.search(line)]
    return max([_least(text), *scores])


def _least(text: str) -> int:
    """The least width of a text: a name is broken above `_NAME` characters; a number, an interval or bars never are."""
    if not re.search(r"\w", text):
        return max(1, cell_len(text))
    return max((_least_of_word(word) for word in _WORD.findall(text)), default=1)


def _least_of_word(word: str) -> int:
    if not re.search(r"[^\W\d]", word):
        return cell_len(word)
    return max(min(cell_len(word), _NAME), *(cell_len(atom) for atom in _ATOM.findall(word)))


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells: broken at spaces, in a long name after a sign such as `-`, last inside it."""
    lines: list[str] = []
    for line in text.split("\n"):
        if cell_len(line) <= width or not re.search(r"\w", line):
            lines.append(line)
            continue
        now = ""
        for word in _WORD.findall(line):
            if now and cell_len(f"{now} {word}") <= width:
                now = f"{now} {word}"
                continue
            lines += [now] if now else []
            *full, now = _broken(word, width)
            lines += full
        lines.append(now)
    return lines


def _broken(word: str, width: int) -> list[str]:
    if cell_len(word) <= width:
        return [word]
    parts = [""]
    for piece in re.findall(r"[^-_/=:]*[-_/=:]+|[^-_/=:]+", word):
        atoms = [piece] if cell_len(piece) <= width else _ATOM.findall(piece)
        for atom in atoms:
            if parts[-1] and cell_len(parts[-1] + atom) > width:
                parts.append("")
            parts[-1] += atom
    return parts
