"""JSON Lines: one object per line, columns of any type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from ialign_ray.config import InstructionSource
from ialign_ray.corpus.chunks import LINE, ROWS, WHOLE, Chunk, Format, ReadRequest, Rejects, Span, chunks_of
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.formats.text import Reject, TextRecords, chunk_records, scanned, splittable, why_bad
from ialign_ray.corpus.nested import has_column, no_column, path_to
from ialign_ray.errors import DataError

_LONG = re.compile(rb"\d{19}")
"""A whole number that may be beyond 64 bits."""
_TAIL = 1 << 10  # a column's name may be split between two blocks


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of a file, cut at line feeds; a column that never occurs is refused."""
    (path,) = files
    mark = stamp(path)
    if request.whole or not splittable(path, request.source):
        return chunks_of(request, files, file, [WHOLE], request.columns, mark)
    absent, tail, spans, empty = {key for c in request.columns for key in (c, *_parts(c))}, b"", list[Span](), True
    for block, done in scanned(path, request.size):
        spans += done
        empty = empty and not block.strip()
        absent = {c for c in absent if not any(form in block or form in tail + block[:_TAIL] for form in _forms(c))}
        tail = (tail + block)[-_TAIL:]
    chunks = chunks_of(request, files, file, spans, request.columns, mark)
    if empty:
        raise DataError(f"{path} is empty; fill it")
    if first := next(read(chunks[0], Rejects(request.source)), None):
        schema = first.drop_columns(LINE).schema
        for column in request.columns:
            # a later row may have what the first ones lack, unless it is inside another column here
            parts = _parts(column)
            somewhere = column not in absent or (bool(parts) and not absent.intersection(parts))
            if not has_column(schema, column) and (path_to(schema, column) or not somewhere):
                raise no_column(path, schema, column)
    return chunks


def _parts(column: str) -> list[str]:
    """Names of the objects and fields of a path; none for a plain name."""
    return [part for part in column.split(".") if not part.isdigit()] if "." in column else []


def _forms(name: str) -> tuple[bytes, bytes]:
    return json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk, with the columns that occur in any of their rows."""
    reject = partial(rejects, chunk.files[0])
    records = chunk_records(chunk, reject)
    yield from checked((t for r in records for t in tables_of(*_objects(r, chunk, reject), chunk, reject)), chunk)


def checked(tables: Iterable[pa.Table], chunk: Chunk) -> Iterator[pa.Table]:
    """The tables. Raises DataError at the end of a file without a row, or without a wanted column."""
    found, seen = set[str](), pa.schema([])
    for table in tables:
        schema = table.drop_columns(LINE).schema
        found |= {column for column in chunk.names if has_column(schema, column)}
        seen = schema if len(schema) > len(seen) else seen
        yield table
    if (chunk.start[0], chunk.end[0]) != (0, -1):  # a column may be in another chunk
        return
    if not seen.names:
        raise DataError(f"{chunk.files[0]} is empty; fill it")
    for column in chunk.names:
        if column not in found:
            raise no_column(chunk.files[0], seen, column)


def _objects(records: TextRecords, chunk: Chunk, reject: Reject) -> tuple[list[int], list[dict[str, Any]]]:
    lines, rows = [], []
    for k, line in enumerate(records.data.split(b"\n")[:-1]):
        try:
            row = parsed(line)
        except (orjson.JSONDecodeError, RecursionError) as error:
            if line.strip():
                reason = str(error).partition(": line 1 column")[0]
                reject(int(records.lines[k]), why_bad(line, chunk.source) or f"is not JSON: {reason}; fix the line")
            continue
        if isinstance(row, dict):
            lines.append(int(records.lines[k]))
            rows.append(row)
        else:
            reject(int(records.lines[k]), f"is {type(row).__name__}, not an object; write one object per line")
    return lines, rows


def parsed(data: bytes) -> Any:
    """The value of a JSON text, with whole numbers of any size. Raises JSONDecodeError."""
    value = orjson.loads(data)
    # orjson rounds a whole number beyond 64 bits, such as a hash used as an id
    return json.loads(data) if _LONG.search(data) else value


def tables_of(lines: list[int], rows: list[dict[str, Any]], chunk: Chunk, reject: Reject) -> Iterator[pa.Table]:
    """Tables of the objects that begin in these lines."""
    for k in range(0, len(rows), ROWS):
        yield _table(lines[k : k + ROWS], rows[k : k + ROWS], chunk, reject)


def _table(lines: list[int], rows: list[dict[str, Any]], chunk: Chunk, reject: Reject) -> pa.Table:
    # from_pylist alone would take the columns of the first row for those of all
    columns = dict.fromkeys(name for row in rows for name in row)
    columns.pop(LINE, None)
    try:
        turns = isinstance(chunk.source, InstructionSource)
        arrays = {name: _array([row.get(name) for row in rows], turns) for name in columns}
    except (pa.ArrowException, OverflowError, UnicodeError, RecursionError) as error:
        kept = _of_one_type(lines, rows, columns, reject)
        if len(kept) == len(rows):
            said = (str(error).splitlines() or ["mixed types"])[0]
            at = f"{chunk.files[0]}, lines {lines[0]} to {lines[-1]}"
            raise DataError(f"{at} are malformed: {said}") from error
        return _table([lines[k] for k in kept], [rows[k] for k in kept], chunk, reject)
    return pa.table(arrays | {LINE: pa.array(lines, pa.int64())})


def _array(values: list[Any], turns: bool) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if not turns or not all(value is None or isinstance(value, list | dict) for value in values):
            raise
        # a turn's content may be a text or a list of parts, which no Arrow type is; instructions are read from JSON too
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
    except OverflowError:
        if any(value is not None and type(value) is not int for value in values):
            raise
        # beyond Arrow's 64 bits; as text no digit is lost
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _of_one_type(lines: list[int], rows: list[dict[str, Any]], columns: dict[str, None], reject: Reject) -> list[int]:
    """Positions of rows whose values have the type of their column's first value."""
    first: dict[str, type] = {}
    kept = []
    for k, row in enumerate(rows):
        wrong = None
        for name in columns:
            value = row.get(name)
            kind: type = float if isinstance(value, int) and not isinstance(value, bool) else type(value)
            if value is not None and first.setdefault(name, kind) is not kind:
                wrong = name
        if wrong is None:
            kept.append(k)
        else:
            held = f"column {wrong!r} is {type(row[wrong]).__name__} but {first[wrong].__name__} before"
            reject(lines[k], f"is malformed: {held}; write one type")
    return kept


FORMAT = Format(plan, read, suffixes=(".jsonl", ".ndjson"), by_language=True, version=2)
