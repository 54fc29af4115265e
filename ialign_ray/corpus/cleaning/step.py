"""Kinds of cleaning steps: one sees a table at a time, the other learns from all of them first.

Steps work on columns (arrow and numpy), never row by row in Python where avoidable: they must handle ten million
pairs. A cell is one language of one row; a step drops cells, and a row left with fewer than two languages is dropped as
a whole. The two sides of a pair are a pivot and one other language; if a pair is bad, the cell of the other language is
dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scope:
    """The part of a corpus' settings that a step may use."""

    languages: Sequence[str]
    """Language columns."""
    pivots: Sequence[str]
    """Languages that the others are paired with."""
    corpus: str = ""
    """Name of the corpus."""

    def pairs(self) -> list[tuple[str, str]]:
        """(pivot, other language) of every pair that is trained on."""
        return [(p, c) for p in self.pivots for c in self.languages if c not in self.pivots]


@dataclass
class Outcome:
    """Result of a step on a table of n rows."""

    table: pa.Table
    """The same n rows, texts perhaps changed."""
    dropped: dict[str, Mask] = field(default_factory=dict)
    """Language -> cells to drop, length n; a language that loses none may be absent, null cells are False."""
    changed: dict[str, int] = field(default_factory=dict)
    """Language -> number of cells that were changed."""


class RowStep(Protocol):
    """A step that judges each row on its own."""

    version: int
    """Raised whenever the same rows and settings give a different outcome: it is part of the key of what was built."""

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge a table with the schema of `ialign_ray.corpus.schema`."""


class Measures(Protocol):
    """Measures of all rows of all corpora, taken by a `Measurement`, in a fixed order."""

    @property
    def rows(self) -> int:
        """Rows of all tables together."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the measures; a corpus that lacks one has NaN, or 0 for integers."""

    def column(self, name: str) -> npt.NDArray[Any]:
        """One measure of all rows."""

    def texts(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """The rows with these numbers (ascending), with the language columns of all corpora."""


@dataclass
class StepDecision:
    """Decision of a `CorpusStep`."""

    dropped: Mapping[str, Mask]
    """Language -> cells to drop, of all rows; the name `*` drops whole rows."""
    learned: dict[str, Any] = field(default_factory=dict)
    """Learned thresholds and counts, as JSON, for the report."""
    warnings: list[str] = field(default_factory=list)
    """Warnings for the user, one sentence each."""


class Measurement(Protocol):
    """Measures of each row, taken from one table at a time for a later decision about all rows."""

    version: int
    """Raised whenever the same rows and settings give different measures: it is part of the key of what was built."""

    def measure(self, table: pa.Table, scope: Scope) -> pa.Table:
        """Measures of the table's rows: one row each, of a few bytes."""


class CorpusStep(Measurement, Protocol):
    """A step that measures every table first and then decides about all rows at once."""

    def decide(self, measures: Measures) -> StepDecision:
        """Choose the cells and rows to drop."""
