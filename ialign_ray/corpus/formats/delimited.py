"""CSV and TSV, every column as text: pyarrow parses, and each row keeps the number of its first line.

By default fields divided by tabs are not quoted (IANA's text/tab-separated-values), so a quotation mark is part of its
text; others are quoted as RFC 4180 has it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE, WHOLE, Chunk, Format, ReadRequest, Rejects, Span, chunks_of
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.formats.headers import check_names, numbered, unique
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
_SAMPLE = 20
"""First rows that the delimiter is detected by, and in which a header row is searched for."""
_MARKS = (b",", b";", b"\t")
_MANY = 10
"""At least one field in this many begins and ends with a quotation mark: the file looks quoted."""
_DOUBLED = r'(?s)^"(?:[^"]|"")*""(?:[^"]|"")*"$'
_OVER_LINES = (
    "a quoted field goes over a line end in {count} of the rows (the first in line {line}); if these are several rows "
    "that were merged, set `quote: none`, and if not, `quote: '%s'`"
)
_QUOTED_TEXT = (
    "{count} of the fields begin and end with a quotation mark, which is read as part of the text (the first in line "
    "{line} or below); if the file was written with quoting, set `quote: '\"'`, and if not, `quote: none`"
)


@dataclass(frozen=True)
class Dialect:
    """Marks that divide the fields of a file."""

    mark: bytes
    quote: bytes | None

    @cached_property
    def quoted(self) -> re.Pattern[bytes]:
        """A quoted field: as in pyarrow, a quote opens one only at a field's start and is a character elsewhere."""
        q, mark = re.escape(self.quote or b""), re.escape(self.mark)
        return re.compile(rb"(?<![^%b\n\r])%b[^%b]*(?:%b%b[^%b]*)*(?:%b|\Z)" % (mark, q, q, q, q, q, q))

    def outside_quotes(self, data: bytes, feeds: Longs) -> Longs:
        """Positions of the line feeds outside quoted fields."""
        every = np.arange(len(feeds))
        if self.quote is None or self.quote not in data:
            return every
        view = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(view == self.quote[0])
        # While every second quote opens a field, a line feed is outside when an even number of quotes is before it: no
        # regular expression is needed.
        before = np.where(quotes[::2] > 0, view[quotes[::2] - 1], 10)
        if np.isin(before, np.frombuffer(self.mark + b"\n\r" + self.quote, np.uint8)).all():
            even: Longs = every[np.searchsorted(quotes, feeds) % 2 == 0]
            return even
        # a quote inside an unquoted field, as in 5" disk: counting would go wrong from there on
        free: Longs = every[~self.inside(feeds, data)]
        return free

    def inside(self, positions: Longs, data: bytes) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Mask of the positions inside quoted fields."""
        spans = [m.span() for m in self.quoted.finditer(data)] if self.quote else []
        found = np.array(spans, np.int64).reshape(-1, 2)
        nearest = np.searchsorted(found[:, 0], positions, side="right") - 1
        ends = np.concatenate([found[:, 1], [0]])  # position -1 is before every quoted field
        inside: np.ndarray[tuple[int], np.dtype[np.bool_]] = positions < ends[nearest]
        return inside

    def fields(self, text: str) -> list[str]:
        """The fields of one row."""
        # the default refuses fields of more than 131,072 characters
        csv.field_size_limit(1 << 30)
        # without a quoting character csv would still take `"` for one
        style: dict[str, Any] = {"quotechar": self.quote.decode()} if self.quote else {"quoting": csv.QUOTE_NONE}
        try:
            return next(csv.reader([text], delimiter=self.mark.decode(), **style), [])
        except csv.Error:  # a CR, which is refused where the row is read
            return [text]


@dataclass(frozen=True)
class HeaderRow:
    """Dialect and column names of a file, found in its first rows."""

    dialect: Dialect
    names: list[str]
    line: int
    """Line of the header row; 0 in a file without one."""


def plan(tabs: bool, request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of a CSV or TSV (`tabs`) file, cut between rows."""
    (path,) = files
    head = head_of(path, request.source, tabs, request.columns)
    spans: list[Span] = [WHOLE]
    if not request.whole and splittable(path, request.source):
        spans = [s for _, done in scanned(path, request.size, head.dialect.outside_quotes) for s in done]
    return chunks_of(request, files, file, spans, request.names, stamp(path))


def read(tabs: bool, chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk; a row with too few or too many fields is a bad row."""
    path, reject = chunk.files[0], partial(rejects, chunk.files[0])
    head = head_of(path, chunk.source, tabs)
    for records in chunk_records(chunk, reject, head.dialect.outside_quotes):
        kept = _filled(records)
        if len(kept) and kept.lines[0] <= head.line:
            kept = kept.keep(kept.lines > head.line)
        kept = sound(kept, chunk.source, reject)
        if len(kept):
            table = _table(kept, path, head, reject)
            _note(kept, table, path, head.dialect, rejects)
            yield table


def head_of(path: str, source: DataSource, tabs: bool, wanted: Sequence[str] = ()) -> HeaderRow:
    """Dialect and column names of a file.

    Raises DataError if the file is empty, a name occurs twice, or a wanted column is missing.
    """

    def refuse(line: int, reason: str) -> None:
        raise DataError(f"{path}, line {line} {reason}")

    dialect = _dialect(path, source, tabs)
    found = next(_rows(path, source, dialect, refuse), None)
    if found is None:
        at = "is empty" if source.header in {1, "none"} else f"has no row in line {source.header} or below"
        raise DataError(f"{path} {at}; fill it, or correct `header`")
    line, text = found
    if "\r" in text.rstrip("\r"):
        raise DataError(f"{path} ends its lines with CR only; save it with LF or CR LF line ends")
    names = dialect.fields(text)
    if source.header == "none":
        names, line = numbered(len(names)), 0
    if dialect.quote is None and (bare := {n.strip('"') for n in names} - set(names)) and bare & set(wanted):
        raise DataError(f"{path} has its column names in quotation marks; set `quote: '\"'`")
    below = ((n, dialect.fields(t)) for n, t in islice(_rows(path, source, dialect, _ignore), 1, _SAMPLE))
    check_names(path, wanted, names, source.header, below)
    return HeaderRow(dialect, unique(path, names), line)


def _ignore(line: int, reason: str) -> None:
    """Skip a bad row of the sample: it is refused when it is read."""


def _dialect(path: str, source: DataSource, tabs: bool) -> Dialect:
    mark = source.delimiter.encode() if source.delimiter else b"\t" if tabs else _detected(path, source)
    if source.quote == "auto":
        return Dialect(mark, None if tabs or mark == b"\t" else b'"')
    return Dialect(mark, None if source.quote == "none" else source.quote.encode())


def _detected(path: str, source: DataSource) -> bytes:
    """The mark that divides the first rows: into equal numbers of fields; or all but a title; or at least the first."""
    found = []
    for rank, mark in enumerate(_MARKS):
        dialect = _dialect(path, source.model_copy(update={"delimiter": mark.decode()}), False)
        counts = [len(dialect.fields(t)) for _, t in islice(_rows(path, source, dialect, _ignore), _SAMPLE)]
        divided = [set(counts), set(counts[1:]), set(counts[:1])]
        found += [(fit, rank, mark) for fit, n in enumerate(divided) if len(n) == 1 and n != {1}]
    return min(found)[2] if found else b","


def _rows(path: str, source: DataSource, dialect: Dialect, reject: Reject) -> Iterator[tuple[int, str]]:
    """Line and text of each row, from the header row on."""
    first = 1 if source.header == "none" else source.header
    for records in records_of(texts(path, source, block=_HEAD), 1, dialect.outside_quotes, reject):
        kept = _filled(records)
        for k in np.flatnonzero(kept.lines >= first):
            row = sound(kept.keep(np.arange(len(kept)) == k), source, reject)
            if len(row):
                yield int(row.lines[0]), row[0].decode().removesuffix("\r")


def _filled(records: TextRecords) -> TextRecords:
    """Records without blank lines, which pyarrow skips."""
    size = records.ends - records.starts
    view = np.frombuffer(records.data, np.uint8)
    blank = (size == 0) | ((size == 1) & (view[np.minimum(records.starts, len(view) - 1)] == 13))
    return records.keep(~blank) if blank.any() else records


def _note(records: TextRecords, table: pa.Table, path: str, dialect: Dialect, rejects: Rejects) -> None:
    """Note signs that text was read as quotes, or the reverse; a `quote` of the user's settles it."""
    if rejects.source.quote != "auto":
        return
    if dialect.quote:
        feeds = np.flatnonzero(np.frombuffer(records.data, np.uint8) == 10)
        over = np.searchsorted(feeds, records.ends) > np.searchsorted(feeds, records.starts)
        if over.any():
            message = _OVER_LINES % dialect.quote.decode()
            rejects.notes.add(path, message, int(over.sum()), int(records.lines[over][0]))
        return
    if b'"' not in records.data:
        return
    quoted, filled, certain = 0, 0, False
    for name in table.column_names[:-1]:
        column = table[name].drop_null()
        around = column.filter(pc.and_(pc.starts_with(column, '"'), pc.ends_with(column, '"')))
        around = around.filter(pc.greater(pc.utf8_length(around), 1))
        quoted, filled = quoted + len(around), filled + len(column)
        # a mark that is doubled inside is quoting for certain
        certain = certain or bool(pc.any(pc.match_substring_regex(around, _DOUBLED)).as_py())
    if quoted and (certain or quoted * _MANY >= filled):
        rejects.notes.add(path, _QUOTED_TEXT, quoted, int(records.lines[0]))


def _table(records: TextRecords, path: str, head: HeaderRow, reject: Reject) -> pa.Table:
    table = _parsed(records, head)
    if table is None:
        # only now: counting fields costs a scan that valid files do not need
        records = _even(records, head, reject)
        table = _parsed(records, head)
    if table is None:
        last = int(records.lines[-1])
        raise DataError(f"{path}, lines {records.lines[0]} to {last} cannot be read; check their quotes")
    kept = [n for n in head.names if n != LINE]
    return table.select(kept).append_column(LINE, pa.array(records.lines, pa.int64()))


def _parsed(records: TextRecords, head: HeaderRow) -> pa.Table | None:
    """The records as pyarrow reads them; None if it finds another number of rows."""
    if not len(records):
        return pa.table({n: pa.array([], pa.string()) for n in head.names})
    quote = head.dialect.quote
    csv_options = pyarrow.csv.ParseOptions(
        delimiter=head.dialect.mark.decode(),
        quote_char=quote.decode() if quote else False,
        newlines_in_values=quote is not None,
    )
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(records.data),
            read_options=pyarrow.csv.ReadOptions(
                # one block, since pyarrow refuses a row that reaches over two
                column_names=head.names,
                use_threads=False,
                block_size=len(records.data) + 1,
            ),
            parse_options=csv_options,
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={n: pa.string() for n in head.names}, strings_can_be_null=True, null_values=[""]
            ),
        )
    except pa.ArrowInvalid:
        return None
    # line numbers are given by position, so every record must be a row
    return table if table.num_rows == len(records) else None


def _even(records: TextRecords, head: HeaderRow, reject: Reject) -> TextRecords:
    """Records with the header's number of fields, and no line end except their last."""
    view, width, dialect = np.frombuffer(records.data, np.uint8), len(head.names), head.dialect
    fields = 1 + _count(np.flatnonzero(view == dialect.mark[0]), records, dialect)
    returns = np.flatnonzero(view == 13)
    alone = _count(returns[~np.isin(returns + 1, records.ends)], records, dialect)
    cure = f"quote fields that contain {dialect.mark.decode()!r}"
    if dialect.quote is None:
        cure = "a field of a file without quoting has no tab and no line end; if the file is quoted, set `quote: '\"'`"
    for k in np.flatnonzero((fields != width) | (alone > 0)):
        line = int(records.lines[k])
        if alone[k]:
            reject(line, "holds a CR outside quotes; end lines with LF or CR LF, or quote the field")
        else:
            reject(line, f"is malformed: Expected {width} columns, got {fields[k]}; {cure}")
    return records.keep((fields == width) & (alone == 0))


def _count(positions: Longs, records: TextRecords, dialect: Dialect) -> Longs:
    """Number of these positions, outside quotes, in each record."""
    free = positions[~dialect.inside(positions, records.data)]
    counts: Longs = np.bincount(np.searchsorted(records.ends, free), minlength=len(records))[: len(records)]
    return counts


_COMMON: dict[str, Any] = {
    "settings": frozenset({"delimiter", "quote", "header"}),
    "by_language": True,
    "version": 2,
}
CSV = Format(partial(plan, False), partial(read, False), suffixes=(".csv",), **_COMMON)
TSV = Format(partial(plan, True), partial(read, True), suffixes=(".tsv", ".tab"), **_COMMON)
