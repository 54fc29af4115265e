"""CSV and TSV, every column as text: pyarrow parses, and each row keeps the number of its first line."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE, WHOLE, Chunk, Format, ReadRequest, Rejects, Span, chunks_of
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.formats.text import (
    Longs,
    Reject,
    TextRecords,
    chunk_records,
    records_of,
    scanned,
    sound,
    splittable,
    texts,
)
from ialign_ray.errors import DataError

_HEAD = 64 << 10
_QUOTED = {mark: re.compile(rb'(?<![^%b\n\r])"[^"]*(?:""[^"]*)*(?:"|\Z)' % mark) for mark in (b",", b"\t")}
"""A quoted field: as in pyarrow, a quote opens one only at a field's start and is a character anywhere else."""


def plan(mark: bytes, request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of a CSV (mark b",") or TSV (mark tab) file, cut between rows."""
    (path,) = files
    known = header(path, request.source, mark)
    for column in request.columns:
        if column not in known:
            raise DataError(f"{path} has no column {column!r}; it has {', '.join(known)}")
    spans: list[Span] = [WHOLE]
    if not request.whole and splittable(path, request.source):
        spans = [s for _, done in scanned(path, request.size, partial(outside_quotes, mark)) for s in done]
    return chunks_of(request, files, file, spans, request.names, stamp(path))


def read(mark: bytes, chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk; a row with too few or too many fields is a bad row."""
    path, reject = chunk.files[0], partial(rejects, chunk.files[0])
    names = header(path, chunk.source, mark)
    head = chunk.start[0] == 0
    for records in chunk_records(chunk, reject, partial(outside_quotes, mark)):
        kept = _filled(records)
        if head and len(kept):
            kept, head = kept.keep(np.arange(len(kept)) > 0), False
        kept = sound(kept, chunk.source, reject)
        if len(kept):
            yield _table(kept, path, names, mark, reject)


def header(path: str, source: DataSource, mark: bytes) -> list[str]:
    """Column names in a file's first row. Raises DataError if the file is empty, or a name occurs twice."""

    def refuse(line: int, reason: str) -> None:
        raise DataError(f"{path}, line {line} {reason}")

    blocks = texts(path, source, block=_HEAD)
    for records in records_of(blocks, 1, partial(outside_quotes, mark), refuse):
        kept = _filled(records)
        if len(kept):
            first = sound(kept.keep(np.arange(len(kept)) == 0), source, refuse)
            return _names(first[0].decode(), path, mark)
    raise DataError(f"{path} is empty; fill it")


def _names(text: str, path: str, mark: bytes) -> list[str]:
    if "\r" in text.rstrip("\r"):
        raise DataError(f"{path} ends its lines with CR only; save it with LF or CR LF line ends")
    # the default refuses fields of more than 131,072 characters
    csv.field_size_limit(1 << 30)
    try:
        names = next(csv.reader([text], delimiter=mark.decode()), [])
    except csv.Error as error:
        raise DataError(f"{path} has a malformed header: {error}; fix it") from error
    if twice := [n for k, n in enumerate(names) if n in names[:k]]:
        raise DataError(f"{path} has two columns {twice[0]!r}; rename one")
    return names


def outside_quotes(mark: bytes, data: bytes, feeds: Longs) -> Longs:
    """Positions of the line feeds outside quoted fields."""
    every = np.arange(len(feeds))
    if b'"' not in data:
        return every
    view = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(view == 34)
    # While every second quote opens a field, a line feed is outside when an even number of quotes is before it: no
    # regular expression is needed.
    before = np.where(quotes[::2] > 0, view[quotes[::2] - 1], 10)
    if np.isin(before, np.frombuffer(mark + b'\n\r"', np.uint8)).all():
        even: Longs = every[np.searchsorted(quotes, feeds) % 2 == 0]
        return even
    # a quote inside an unquoted field, as in 5" disk: counting would go wrong from there on
    free: Longs = every[~_inside(feeds, data, mark)]
    return free


def _inside(positions: Longs, data: bytes, mark: bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found = np.array([m.span() for m in _QUOTED[mark].finditer(data)], np.int64).reshape(-1, 2)
    nearest = np.searchsorted(found[:, 0], positions, side="right") - 1
    ends = np.concatenate([found[:, 1], [0]])  # position -1 is before every quoted field
    inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = positions < ends[nearest]
    return inside


def _filled(records: TextRecords) -> TextRecords:
    """Records without blank lines, which pyarrow skips."""
    size = records.ends - records.starts
    view = np.frombuffer(records.data, np.uint8)
    blank = (size == 0) | ((size == 1) & (view[np.minimum(records.starts, len(view) - 1)] == 13))
    return records.keep(~blank) if blank.any() else records


def _table(records: TextRecords, path: str, names: list[str], mark: bytes, reject: Reject) -> pa.Table:
    table = _parsed(records, names, mark)
    if table is None:
        # only now: counting fields costs a scan that valid files do not need
        records = _even(records, len(names), mark, reject)
        table = _parsed(records, names, mark)
    if table is None:
        last = int(records.lines[-1])
        raise DataError(f"{path}, lines {records.lines[0]} to {last} cannot be read; check their quotes")
    kept = [n for n in names if n != LINE]
    return table.select(kept).append_column(LINE, pa.array(records.lines, pa.int64()))


def _parsed(records: TextRecords, names: list[str], mark: bytes) -> pa.Table | None:
    """The records as pyarrow reads them; None if it finds another number of rows."""
    if not len(records):
        return pa.table({n: pa.array([], pa.string()) for n in names})
    csv_options = pyarrow.csv.ParseOptions(delimiter=mark.decode(), newlines_in_values=True)
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(records.data),
            read_options=pyarrow.csv.ReadOptions(
                # one block, since pyarrow refuses a row that reaches over two
                column_names=names,
                use_threads=False,
                block_size=len(records.data) + 1,
            ),
            parse_options=csv_options,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={n: pa.string() for n in names}, strings_can_be_null=True, null_values=[""]
            ),
        )
    except pa.ArrowInvalid:
        return None
    # line numbers are given by position, so every record must be a row
    return table if table.num_rows == len(records) else None


def _even(records: TextRecords, width: int, mark: bytes, reject: Reject) -> TextRecords:
    """Records with the header's number of fields, and no line end except their last."""
    view = np.frombuffer(records.data, np.uint8)
    fields = 1 + _count(np.flatnonzero(view == mark[0]), records, mark)
    returns = np.flatnonzero(view == 13)
    alone = _count(returns[~np.isin(returns + 1, records.ends)], records, mark)
    for k in np.flatnonzero((fields != width) | (alone > 0)):
        line = int(records.lines[k])
        if alone[k]:
            reject(line, "holds a CR outside quotes; end lines with LF or CR LF, or quote the field")
        else:
            reject(
                line,
                f"is malformed: Expected {width} columns, got {fields[k]}; quote fields that contain {mark.decode()!r}",
            )
    return records.keep((fields == width) & (alone == 0))


def _count(positions: Longs, records: TextRecords, mark: bytes) -> Longs:
    """Number of these positions, outside quotes, in each record."""
    free = positions[~_inside(positions, records.data, mark)]
    counts: Longs = np.bincount(np.searchsorted(records.ends, free), minlength=len(records))[: len(records)]
    return counts


CSV = Format(partial(plan, b","), partial(read, b","), suffixes=(".csv",))
TSV = Format(partial(plan, b"\t"), partial(read, b"\t"), suffixes=(".tsv", ".tab"))
