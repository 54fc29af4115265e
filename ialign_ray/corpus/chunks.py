"""Formats, the chunks that they cut a source into for different workers, and the treatment of bad rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa

from ialign_ray.config import DataSource
from ialign_ray.errors import DataError

LINE = "__line"
"""Column of raw tables: the record's first line, or its row number in a format without lines; from 1."""
BLOCK = 4 << 20
"""Bytes to read at a time: large enough for numpy, small enough for eight workers on a laptop."""
LONGEST = 64 << 20
"""Longest line (or record, or tag) in bytes; a longer one is a bad row: it is not text, and would grow without
bound."""
ROWS = 50_000
"""Most rows of a raw table."""

Stamp = tuple[str | int, ...]
Span = tuple[int, int, int]
"""First byte, one past the last (-1: to the end), and the line number of the first."""
WHOLE: Span = (0, -1, 1)
SETTINGS = ("delimiter", "quote", "header", "sheet", "links")
"""Fields of a source that only some formats have a use for."""


@dataclass(frozen=True)
class Chunk:
    """A part of a source that is read on its own; small and picklable."""

    source: DataSource
    """The whole source, with its format named."""
    files: tuple[str, ...]
    """Absolute paths or URLs: one, or one per language for aligned text files; all files if one chunk covers all."""
    names: tuple[str, ...]
    """Raw columns wanted, () for all; for aligned files the language part of each file, in the order of `files`."""
    file: int
    """Number of the (first) file, or aligned set of files, in the source, from 1."""
    start: tuple[int, ...]
    """First byte (text) or first row group or row (columnar), of each file."""
    end: tuple[int, ...]
    """One past the last; -1 is to the end."""
    line: int
    """Line or row number, from 1, at `start`."""
    stamp: tuple[Stamp, ...]
    """Marks that change with a file: size and mtime for local files, the file system's marks for remote ones."""
    by_language: bool = False
    """True if each file is one language's, in a format with columns."""


@dataclass(frozen=True)
class BadRow:
    """A row that was dropped because it is malformed."""

    path: str
    line: int
    reason: str


@dataclass
class ReadNotes:
    """Counts of a read besides its rows: those left out by the file's own word, and oddities worth a warning."""

    left_out: Counter[str] = field(default_factory=Counter)
    """Reason, such as "fuzzy" -> rows."""
    odd: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(file, message with the slots {count} and {line}) -> count, and the first line."""

    def add(self, path: str, message: str, count: int, line: int) -> None:
        """Count an oddity of a file."""
        before, first = self.odd.get((path, message), (0, line))
        self.odd[path, message] = before + count, min(first, line)

    def warnings(self) -> list[str]:
        """One sentence for each file and kind of oddity."""
        return [f"{path}: {m.format(count=f'{n:,}', line=f'{at:,}')}" for (path, m), (n, at) in self.odd.items()]


@dataclass(frozen=True)
class ReadRequest:
    """A source to plan, and the columns to read of it."""

    source: DataSource
    columns: tuple[str, ...]
    """Columns that must exist."""
    project: bool
    """True if other columns are skipped, if the format can do so."""
    size: int
    """Approximate bytes of a chunk."""
    whole: bool = False
    """True if one chunk must contain everything."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns to name in a chunk: `columns` if others are skipped, otherwise () for all."""
        return self.columns if self.project else ()


@dataclass
class Rejects:
    """Treatment of bad rows: raise an error at the first, or drop and list all."""

    source: DataSource
    bad: list[BadRow] = field(default_factory=list)
    notes: ReadNotes = field(default_factory=ReadNotes)

    def __call__(self, path: str, line: int, reason: str) -> None:
        """Refuse or list a row; `reason` continues the sentence "<file>, line <n> "."""
        if self.source.bad_rows == "refuse":
            raise DataError(f"{path}, line {line} {reason}")
        self.bad.append(BadRow(path, line, reason))


@dataclass(frozen=True)
class Format:
    """A file format, as `FORMATS` of `ialign_ray.corpus.formats` lists it by name."""

    plan: Callable[[ReadRequest, tuple[str, ...], int], list[Chunk]]
    """Cuts the source into chunks that can be read independently. Takes the request, the files (one, or one per
    language for an aligned set) and their number in the source, from 1. Raises DataError for a source without the
    wanted columns."""
    read: Callable[[Chunk, Rejects], Iterator[pa.Table]]
    """Tables of one chunk, with the columns that it names and `LINE`; a malformed row is passed to the rejects."""
    suffixes: tuple[str, ...] = ()
    """Endings, in lower case and with the dot, of the files that `format: auto` reads in this format."""
    settings: frozenset[str] = frozenset()
    """Names of the fields of `SETTINGS` that its files can be read with."""
    by_language: bool = False
    """True if several files, each with the text of one language in a column, can be joined."""
    version: int = 1
    """Raised whenever the same files give different tables: it is part of the key of what is built from them."""
    layout: Literal["file", "aligned", "folder", "together"] = "file"
    """One source is a file (or a pattern of files), a set of files of one language each, a folder or hub data set,
    which `plan` itself watches for changes, or all files of a pattern at once."""


def chunks_of(
    request: ReadRequest, files: Sequence[str], file: int, spans: Sequence[Span], names: Sequence[str], stamp: Stamp
) -> list[Chunk]:
    """One chunk per span of a single file."""
    return [
        Chunk(request.source, tuple(files), tuple(names), file, (start,), (end,), line, (stamp,))
        for start, end, line in spans
    ]


def joined(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Join chunks of whole files (or aligned sets) into one."""
    if not chunks:
        return []
    return [
        replace(
            chunks[0],
            files=tuple(f for c in chunks for f in c.files),
            start=tuple(s for c in chunks for s in c.start),
            end=tuple(e for c in chunks for e in c.end),
            stamp=tuple(s for c in chunks for s in c.stamp),
        )
    ]


def parts(chunk: Chunk, width: int) -> list[Chunk]:
    """The inverse of `joined`: one chunk per file, or per set of `width` aligned files."""
    cuts = [slice(k, k + width) for k in range(0, len(chunk.files), width)]
    return [
        replace(
            chunk,
            files=chunk.files[cut],
            start=chunk.start[cut],
            end=chunk.end[cut],
            stamp=chunk.stamp[cut],
            file=chunk.file + k,
        )
        for k, cut in enumerate(cuts)
    ]
