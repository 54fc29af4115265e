"""JSON Lines: one object per line, columns of any type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from ialign_ray.corpus.chunks import LINE, ROWS, WHOLE, Chunk, Format, ReadRequest, Rejects, Span, chunks_of
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.formats.text import Reject, TextRecords, chunk_records, scanned, splittable, why_bad
from ialign_ray.errors import DataError

_TAIL = 1 << 10  # a column's name may be split between two blocks


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of a file, cut at line feeds; a column that never occurs is refused."""
    (path,) = files
    mark = stamp(path)
    if request.whole or not splittable(path, request.source):
        return chunks_of(request, files, file, [WHOLE], request.columns, mark)
    absent, tail, spans, empty = list(request.columns), b"", list[Span](), True
    for block, done in scanned(path, request.size):
        spans += done
        empty = empty and not block.strip()
        absent = [c for c in absent if not any(form in block or form in tail + block[:_TAIL] for form in _forms(c))]
        tail = (tail + block)[-_TAIL:]
    chunks = chunks_of(request, files, file, spans, request.columns, mark)
    if empty:
        raise DataError(f"{path} is empty; fill it")
    if absent:
        first = next(read(chunks[0], Rejects(request.source)), None)
        raise _no_column(path, absent[0], first.column_names if first else [])
    return chunks


def _forms(name: str) -> tuple[bytes, bytes]:
    return json.dumps(name).encode(), json.dumps(name, ensure_ascii=False).encode("utf-8", "replace")


def _no_column(path: str, name: str, known: Sequence[str]) -> DataError:
    return DataError(f"{path} has no column {name!r}; it has {', '.join(k for k in known if k != LINE)}")


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk, with the columns that occur in any of their rows."""
    path, seen = chunk.files[0], dict[str, None]()
    for records in chunk_records(chunk, partial(rejects, path)):
        lines, rows = _objects(records, chunk, partial(rejects, path))
        for k in range(0, len(rows), ROWS):
            table = _table(lines[k : k + ROWS], rows[k : k + ROWS], path, partial(rejects, path))
            seen |= dict.fromkeys(table.column_names)
            yield table
    if (chunk.start[0], chunk.end[0]) == (0, -1):  # absent from every other chunk too
        if len(seen) < 2:
            raise DataError(f"{path} is empty; fill it")
        for column in chunk.names:
            if column not in seen:
                raise _no_column(path, column, list(seen))


def _objects(records: TextRecords, chunk: Chunk, reject: Reject) -> tuple[list[int], list[dict[str, Any]]]:
    lines, rows = [], []
    for k, line in enumerate(records.data.split(b"\n")[:-1]):
        try:
            row = orjson.loads(line)
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


def _table(lines: list[int], rows: list[dict[str, Any]], path: str, reject: Reject) -> pa.Table:
    # from_pylist alone would take the columns of the first row for those of all
    columns = dict.fromkeys(name for row in rows for name in row)
    columns.pop(LINE, None)
    try:
        arrays = {name: pa.array([row.get(name) for row in rows]) for name in columns}
    except (pa.ArrowException, OverflowError, UnicodeError, RecursionError) as error:
        kept = _of_one_type(lines, rows, columns, reject)
        if len(kept) == len(rows):
            said = (str(error).splitlines() or ["mixed types"])[0]
            raise DataError(f"{path}, lines {lines[0]} to {lines[-1]} are malformed: {said}") from error
        return _table([lines[k] for k in kept], [rows[k] for k in kept], path, reject)
    return pa.table(arrays | {LINE: pa.array(lines, pa.int64())})


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


FORMAT = Format(plan, read, suffixes=(".jsonl", ".ndjson"))
