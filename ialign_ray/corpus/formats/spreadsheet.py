"""Spreadsheets: one sheet of an Excel or OpenDocument file, one of its rows the names of the columns."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import python_calamine as calamine

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE, ROWS, WHOLE, Chunk, Format, ReadRequest, Rejects, chunks_of
from ialign_ray.corpus.formats.files import first_line, raw, stamp
from ialign_ray.corpus.formats.headers import check_names, numbered, unique
from ialign_ray.errors import DataError

_BROKEN = (calamine.CalamineError, calamine.XmlError, calamine.ZipError, calamine.PasswordError, OSError, ValueError)
_SAMPLE = 20
"""Rows below the header in which the names of missing columns are searched for."""


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk: a sheet has at most a million rows, and its file cannot be cut."""
    (path,) = files
    _header(path, request.source, _rows(path, request.source, most=_SAMPLE), request.columns)
    return chunks_of(request, files, file, [WHOLE], request.names, stamp(path))


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of the rows under the header; every cell is text, with whole numbers as the sheet shows them, null if
    empty."""
    path = chunk.files[0]
    rows = _rows(path, chunk.source)
    header, first = _header(path, chunk.source, rows, ())
    wanted = list(dict.fromkeys(chunk.names)) or header
    for start in range(first, len(rows), ROWS):
        part = [(k, row) for k, row in enumerate(rows[start : start + ROWS], start=start + 1) if any(map(_text, row))]
        columns = {n: pa.array([_text(row[header.index(n)]) for _, row in part], pa.string()) for n in wanted}
        yield pa.table(columns | {LINE: pa.array([k for k, _ in part], pa.int64())})


def _rows(path: str, source: DataSource, most: int = 0) -> list[list[Any]]:
    """The first rows of the sheet that the source names, at least to `most` below its header; all if 0."""
    with raw(path) as file:
        data = file.read()
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        names = book.sheet_names
        if isinstance(source.sheet, str) and source.sheet in names:
            sheet = book.get_sheet_by_name(source.sheet)
        elif isinstance(source.sheet, int) and 0 < source.sheet <= len(names):
            sheet = book.get_sheet_by_index(source.sheet - 1)
        else:
            numbered_names = ", ".join(f"{k} {name!r}" for k, name in enumerate(names, start=1))
            raise DataError(f"{path} has no sheet {source.sheet!r}; it has {numbered_names}")
        nrows = most + (source.header if isinstance(source.header, int) else 0) if most else None
        return sheet.to_python(nrows=nrows, skip_empty_area=False)
    except _BROKEN as error:
        raise DataError(f"{path} is empty or malformed: {first_line(error)}; save it again as .xlsx") from error


def _header(path: str, source: DataSource, rows: list[list[Any]], wanted: Sequence[str]) -> tuple[list[str], int]:
    """Names of the columns, and the number of rows above the first row of data."""
    if source.header == "none":
        names, above = numbered(len(rows[0]) if rows else 0), 0
    else:
        names, above = _names(rows[source.header - 1 :]), source.header
    if not any(names):
        raise DataError(f"{path} is empty; its row {source.header} must name the columns, or set `header`")
    below = ((k, _names(rows[k - 1 :])) for k in range(above + 1, min(len(rows), above + _SAMPLE) + 1))
    check_names(path, wanted, names, source.header, below)
    return unique(path, names), above


def _names(rows: list[list[Any]]) -> list[str]:
    return [(_text(cell) or "").strip() for cell in rows[0]] if rows else []


def _text(cell: Any) -> str | None:
    # a sheet stores every number as a float, and shows 7 for 7.0
    whole = isinstance(cell, float) and cell.is_integer()
    return (str(int(cell)) if whole else str(cell)) or None


FORMAT = Format(
    plan, read, suffixes=(".xlsx", ".xls", ".ods"), by_language=True, settings=frozenset({"header", "sheet"})
)
