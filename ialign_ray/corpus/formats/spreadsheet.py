"""Spreadsheets: the first sheet of an Excel or OpenDocument file, its first row the names of the columns."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import python_calamine as calamine

from ialign_ray.corpus.chunks import LINE, ROWS, WHOLE, Chunk, Format, ReadRequest, Rejects, chunks_of
from ialign_ray.corpus.formats.files import first_line, raw, stamp
from ialign_ray.errors import DataError

_BROKEN = (calamine.CalamineError, calamine.XmlError, calamine.ZipError, calamine.PasswordError, OSError, ValueError)


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk: a sheet has at most a million rows, and its file cannot be cut."""
    (path,) = files
    known = _header(path, _sheet(path).to_python(nrows=1, skip_empty_area=False))
    for column in request.columns:
        if column not in known:
            raise DataError(f"{path} has no column {column!r}; it has {', '.join(known)}")
    return chunks_of(request, files, file, [WHOLE], request.names, stamp(path))


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of the rows under the header; every cell is text, with whole numbers as the sheet shows them, null if
    empty."""
    path = chunk.files[0]
    rows = _sheet(path).to_python(skip_empty_area=False)
    header = _header(path, rows[:1])
    wanted = list(dict.fromkeys(chunk.names)) or header
    for start in range(1, len(rows), ROWS):
        part = [(k, row) for k, row in enumerate(rows[start : start + ROWS], start=start + 1) if any(map(_text, row))]
        columns = {n: pa.array([_text(row[header.index(n)]) for _, row in part], pa.string()) for n in wanted}
        yield pa.table(columns | {LINE: pa.array([k for k, _ in part], pa.int64())})


def _sheet(path: str) -> calamine.CalamineSheet:
    with raw(path) as file:
        data = file.read()
    try:
        return calamine.CalamineWorkbook.from_filelike(io.BytesIO(data)).get_sheet_by_index(0)
    except _BROKEN as error:
        raise DataError(f"{path} is empty or malformed: {first_line(error)}; save it again as .xlsx") from error


def _header(path: str, rows: list[list[Any]]) -> list[str]:
    names = [str(cell).strip() for cell in rows[0]] if rows else []
    if not any(names):
        raise DataError(f"{path} is empty; its first row must name the columns")
    if twice := [n for n in names if n and names.count(n) > 1]:
        raise DataError(f"{path} has two columns {twice[0]!r}; rename one")
    return names


def _text(cell: Any) -> str | None:
    # a sheet stores every number as a float, and shows 7 for 7.0
    whole = isinstance(cell, float) and cell.is_integer()
    return (str(int(cell)) if whole else str(cell)) or None


FORMAT = Format(plan, read, suffixes=(".xlsx", ".xls", ".ods"))
