"""One job of a build: read or load a shard, clean it, measure it, write it atomically. Runs in any process.

A shard is a folder named by the hash of everything that decides its contents: the files it was read from, the
settings of the steps and the declared version of each. So an unchanged step is never computed twice, a killed build
resumes where it stopped, concurrent builds share their work, and an edit that changes no output costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ialign_ray.config import CorpusConfig
from ialign_ray.config.base import Section
from ialign_ray.corpus.chunks import BadRow, Chunk, ReadNotes
from ialign_ray.corpus.cleaning import STEPS
from ialign_ray.corpus.cleaning.step import Mask, Measurement, RowStep, Scope
from ialign_ray.corpus.formats import format_of
from ialign_ray.corpus.leaks import LeakSettings, LeakStep
from ialign_ray.corpus.rows import read_rows
from ialign_ray.corpus.schema import languages
from ialign_ray.corpus.splits import IdentityMeasurement, IdentitySettings
from ialign_ray.storage import MANIFEST, is_intact, json_hash, read_json, whole_folder

PIECE_ROWS = 500_000
"""Approximate rows of one file of a shard: the input of one later job."""
BATCH_ROWS = 50_000
"""Rows in memory at once."""
INCOMPLETE, UNREADABLE = "incomplete", "unreadable"
"""Names, in addition to those of the steps, under which rows without a pair and unreadable rows are counted."""
WHOLE_ROW = "*"
KEPT_BAD_ROWS = 100
VERSION = 1
"""Version of reading and writing shards: raised whenever the same files and settings give different rows. Formats and
steps have separate versions."""

_BUILD_STEPS: dict[type[Section], type[Any]] = {
    **STEPS,
    LeakSettings: LeakStep,
    IdentitySettings: IdentityMeasurement,
}
"""The steps of `cleaning.steps`, followed by those that end every build."""
DROPS = pa.schema(
    [(n, pa.string()) for n in ("id", "step", "language", "text", "pivot")]
    + [("file", pa.int32()), ("line", pa.int64())]
)
"""Schema of a dropped text: its place, the step that dropped it, and the pivot's text."""


@dataclass(frozen=True)
class ShardFile:
    """One file of a shard."""

    key: str
    number: int
    rows: int


@dataclass(frozen=True)
class ShardJob:
    """The origin, steps and measurement of one shard."""

    corpus: CorpusConfig
    origin: Chunk | ShardFile
    steps: tuple[Section, ...] = ()
    """Settings of row steps, in order."""
    decided: str = ""
    """Name of the corpus step whose decision is applied first."""
    decision: str = ""
    """Key of that decision."""
    offset: int = 0
    """Number of the piece's first row in the decision."""
    measure: Section | None = None
    """Settings of the measurement of the remaining rows."""

    @property
    def key(self) -> str:
        """Hash of everything that decides the shard."""
        steps = [versioned(s) for s in [*self.steps, *([self.measure] if self.measure else [])]]
        origin = asdict(self.origin)
        if isinstance(self.origin, Chunk):
            origin["source"] = self.origin.source.model_dump(mode="json")
            # a changed reader reads different rows from the same bytes
            origin["format"] = format_of(self.origin.source).version
        # both are applied to finished shards: a new share must not repeat the cleaning
        corpus = self.corpus.model_dump(mode="json", exclude={"holdout", "share"})
        return json_hash([corpus, origin, steps, self.decided, self.decision, self.offset, VERSION])[:32]


@dataclass
class ShardCounts:
    """Counts of the texts of one job; the sum over jobs is the report."""

    rows_in: int = 0
    rows_out: int = 0
    cells_in: Counter[str] = field(default_factory=Counter)
    """Language -> texts."""
    cells_out: Counter[str] = field(default_factory=Counter)
    """Language -> texts."""
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    """Step -> language -> texts."""
    dropped_rows: Counter[str] = field(default_factory=Counter)
    """Step -> rows that it left without a pair."""
    changed: dict[str, Counter[str]] = field(default_factory=dict)
    """Step -> language -> texts."""
    unreadable: int = 0
    """Rows that could not be read."""
    bad: list[dict[str, Any]] = field(default_factory=list)
    """The first hundred of them: path, line, reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason, in the words of the files -> rows left out: untranslated, fuzzy and the like."""
    odd: list[tuple[str, str, int, int]] = field(default_factory=list)
    """Oddities of the files: (file, message, count, first line)."""
    pieces: list[int] = field(default_factory=list)
    """Rows of each piece written."""
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Split -> rows and, per language, texts of the finished corpus."""

    def plain(self) -> dict[str, Any]:
        """The counts as JSON (`asdict` would count the items of a Counter)."""
        nested = {"dropped", "changed"}
        return {
            name: {k: dict(v) for k, v in value.items()}
            if name in nested
            else dict(value)
            if isinstance(value, Counter)
            else value
            for name, value in vars(self).items()
        }

    def add(self, other: Mapping[str, Any]) -> None:
        """Add the counts of a job, as returned by `plain`."""
        for name in ("rows_in", "rows_out", "unreadable"):
            setattr(self, name, getattr(self, name) + other[name])
        for name in ("cells_in", "cells_out", "dropped_rows", "left_out"):
            getattr(self, name).update(other[name])
        for name in ("dropped", "changed"):
            for step, cells in other[name].items():
                getattr(self, name).setdefault(step, Counter()).update(cells)
        self.odd += map(tuple, other["odd"])
        # cut here too: a file with only bad rows must not fill the report
        self.bad = (self.bad + list(other["bad"]))[:KEPT_BAD_ROWS]


@dataclass(frozen=True)
class ShardStore:
    """The folder of all shards and decisions."""

    folder: Path

    def path(self, key: str) -> Path:
        """Folder of a shard or decision."""
        return self.folder / key[:2] / key

    def has(self, key: str) -> bool:
        """Return True if the shard or decision exists and is complete."""
        return is_intact(self.path(key))

    def meta(self, key: str) -> dict[str, Any]:
        """Counts or findings recorded with a shard or decision."""
        meta: dict[str, Any] = read_json(self.path(key) / MANIFEST)["meta"]
        return meta

    def pieces(self, key: str) -> list[ShardFile]:
        """The pieces of a shard."""
        return [ShardFile(key, number, rows) for number, rows in enumerate(self.meta(key)["pieces"])]

    def file(self, piece: ShardFile, part: str = "rows") -> Path:
        """Parquet file of a piece: `rows` or `measures`."""
        return self.path(piece.key) / f"{part}-{piece.number:05d}.parquet"

    def drops(self, key: str) -> Path:
        """Parquet file of the texts that a shard's steps dropped."""
        return self.path(key) / "drops.parquet"

    def mask(self, decision: str, name: str) -> Path:
        """File of a decision's mask for a language, or for whole rows."""
        return self.path(decision) / f"{'row' if name == WHOLE_ROW else 'lang-' + name}.npy"


def run_job(job: ShardJob, store: ShardStore) -> dict[str, Any]:
    """Make a job's shard unless it exists; return its counts. Raises DataError."""
    key = job.key
    if not store.has(key):
        counts = ShardCounts()
        meta: dict[str, Any] = {}
        with whole_folder(store.path(key), meta) as folder:
            _fill(job, store, folder, counts)
            # inside the block: `whole_folder` writes `meta` when it ends
            meta.update(counts.plain())
    return store.meta(key)


def open_step(settings: Section) -> Any:
    """The RowStep, CorpusStep or Measurement that these settings describe."""
    return _BUILD_STEPS[type(settings)](settings)


def versioned(settings: Section) -> list[Any]:
    """Settings and declared version of a step, as JSON: they determine its outcome on given rows."""
    return [settings.model_dump(mode="json"), _BUILD_STEPS[type(settings)].version]


def name_of(step: Section) -> str:
    """The step's name, under which it is counted."""
    return str(getattr(step, "step"))  # noqa: B009 - Section itself has no such field


def _fill(job: ShardJob, store: ShardStore, folder: Path, counts: ShardCounts) -> None:
    steps: list[tuple[str, RowStep]] = [(name_of(s), open_step(s)) for s in job.steps]
    measure: Measurement | None = open_step(job.measure) if job.measure else None
    scope = Scope(job.corpus.languages, job.corpus.pivots, job.corpus.name)
    pieces = _Pieces(folder, counts)
    bad: list[BadRow] = []
    notes = ReadNotes()
    with pq.ParquetWriter(folder / "drops.parquet", DROPS, compression="zstd") as drops:
        for table, masks in _tables(job, store, bad, notes):
            counts.rows_in += table.num_rows
            counts.cells_in.update(_cells(table))
            table = _settle(table, masks, job.decided or INCOMPLETE, scope, counts, drops)
            for name, step in steps:
                outcome = step(table, scope)
                counts.changed.setdefault(name, Counter()).update(outcome.changed)
                table = _settle(outcome.table, outcome.dropped, name, scope, counts, drops)
            counts.rows_out += table.num_rows
            counts.cells_out.update(_cells(table))
            pieces.write(table, measure.measure(table, scope) if measure else None)
    pieces.close()
    counts.unreadable = len(bad)
    counts.bad = [asdict(b) for b in bad[:KEPT_BAD_ROWS]]
    counts.left_out.update(notes.left_out)
    counts.odd = [(*place, *counted) for place, counted in notes.odd.items()]


def _tables(
    job: ShardJob, store: ShardStore, bad: list[BadRow], notes: ReadNotes
) -> Iterator[tuple[pa.Table, dict[str, Mask]]]:
    """The job's rows in tables of bounded size, each with what the decision drops of it."""
    if isinstance(job.origin, Chunk):
        for table in read_rows(job.corpus, job.origin, bad, notes):
            for start in range(0, table.num_rows, BATCH_ROWS):
                yield table.slice(start, BATCH_ROWS), {}
        return
    names = [WHOLE_ROW, *job.corpus.languages]
    found = {n: store.mask(job.decision, n) for n in names} if job.decision else {}
    # mapped: a mask covers all corpora, and a job needs the rows of one piece
    masks = {n: np.load(path, mmap_mode="r") for n, path in found.items() if path.exists()}
    start = job.offset
    with pq.ParquetFile(store.file(job.origin)) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            yield table, {n: np.asarray(m[start : start + table.num_rows]) for n, m in masks.items()}
            start += table.num_rows


def _settle(
    table: pa.Table, dropped: Mapping[str, Mask], step: str, scope: Scope, counts: ShardCounts, drops: pq.ParquetWriter
) -> pa.Table:
    """Remove dropped cells, then rows without a pair, and record both."""
    present = {c: np.asarray(table[c].is_valid()) for c in scope.languages}
    gone = {c: present[c] & _mask(dropped, c, table.num_rows) for c in scope.languages}
    # the remaining cells decide if the row still has a pivot and another language
    left = {c: present[c] & ~gone[c] for c in scope.languages}
    paired = paired_rows(left, scope, table.num_rows)
    for code in scope.languages:
        if gone[code].any():
            counts.dropped.setdefault(step, Counter())[code] += int(gone[code].sum())
            drops.write_table(drop_table(table, gone[code], code, step, scope))
        if (stranded := left[code] & ~paired).any():
            # the text itself is fine, but has no counterpart left
            counts.dropped.setdefault(INCOMPLETE, Counter())[code] += int(stranded.sum())
            drops.write_table(drop_table(table, stranded, code, INCOMPLETE, scope))
    counts.dropped_rows[step] += int((~paired).sum())
    for code in scope.languages:
        if gone[code].any():
            position = table.column_names.index(code)
            table = table.set_column(position, code, _without(table[code], gone[code]))
    return table if paired.all() else table.filter(pa.array(paired))


def paired_rows(present: Mapping[str, Mask], scope: Scope, rows: int) -> Mask:
    """Mask of rows with a pivot and another language."""
    pivot, other = np.zeros(rows, bool), np.zeros(rows, bool)
    for code, mask in present.items():
        if code in scope.pivots:
            pivot |= mask
        else:
            other |= mask
    return pivot & other


def _mask(dropped: Mapping[str, Mask], code: str, rows: int) -> Mask:
    mask = np.zeros(rows, bool)
    for name in (code, WHOLE_ROW):
        if name in dropped:
            mask = mask | dropped[name]
    return mask


def _without(column: pa.ChunkedArray, gone: Mask) -> pa.ChunkedArray:
    return pc.if_else(pa.array(~gone), column, pa.scalar(None, pa.string()))


def drop_table(table: pa.Table, gone: Mask, code: str, step: str, scope: Scope) -> pa.Table:
    """The texts of a language in the rows marked by `gone`, as a table of DROPS."""
    rows = table.filter(pa.array(gone))
    pivot = next((p for p in scope.pivots if p != code), None)
    none = pa.nulls(rows.num_rows, pa.string())
    columns = {
        "id": rows["id"],
        "step": pa.array([step] * rows.num_rows, pa.string()),
        "language": pa.array([code] * rows.num_rows, pa.string()),
        "text": rows[code],
        "pivot": rows[pivot] if pivot else none,
        "file": rows["file"],
        "line": rows["line"],
    }
    return pa.table(columns, schema=DROPS)


def _cells(table: pa.Table) -> dict[str, int]:
    return {c: table.num_rows - table[c].null_count for c in languages(table)}


class _Pieces:
    """Writes rows and measures into files of about half a million rows."""

    def __init__(self, folder: Path, counts: ShardCounts) -> None:
        self._folder, self._counts = folder, counts
        self._open: dict[str, pq.ParquetWriter] = {}

    def write(self, table: pa.Table, measures: pa.Table | None) -> None:
        parts = {"rows": table} | ({"measures": measures} if measures is not None else {})
        # a table is never cut, so a piece may be longer by one
        if self._open and self._counts.pieces[-1] >= PIECE_ROWS:
            self.close()
        if not self._open:
            number = len(self._counts.pieces)
            for part, first in parts.items():
                path = self._folder / f"{part}-{number:05d}.parquet"
                self._open[part] = pq.ParquetWriter(path, first.schema, compression="zstd")
            self._counts.pieces.append(0)
        for part, piece in parts.items():
            self._open[part].write_table(piece)
        self._counts.pieces[-1] += table.num_rows

    def close(self) -> None:
        for writer in self._open.values():
            writer.close()
        self._open = {}
