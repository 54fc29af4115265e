"""How far an evaluation is: a bar with the time left on a terminal, lines in a job's log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines of a log."""


class Tell(Protocol):
    """Called after each shard with what it was of and its number of rows."""

    def __call__(self, what: str, rows: int) -> None:
        """Count the rows."""


@contextmanager
def told(console: Console, total: int) -> Iterator[Tell]:
    """Show progress over `total` rows."""
    if console.is_terminal:
        shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*shown, console=console, transient=True) as bar:
            task = bar.add_task("scoring", total=total)
            yield lambda what, rows: bar.update(task, advance=rows, description=what)
    else:
        yield _Lines(console, total)


class _Lines:
    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0
        self._began = self._said = time.monotonic()

    def __call__(self, what: str, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if self._done < self._total and now - self._said < EVERY:
            return
        self._said = now
        left = (now - self._began) / self._done * (self._total - self._done)
        ending = f", about {left:,.0f} s left" if self._done < self._total else f" in {now - self._began:,.0f} s"
        self._console.print(f"{what}: scored {self._done:,} of {self._total:,} rows{ending}", highlight=False)
