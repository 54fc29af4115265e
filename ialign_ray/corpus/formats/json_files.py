"""JSON files: an array of objects, an object with one list of objects in it, or JSON Lines under this suffix."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from ialign_ray.corpus.chunks import WHOLE, Chunk, Format, ReadRequest, Rejects, chunks_of
from ialign_ray.corpus.formats import jsonl
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.formats.text import texts, why_bad
from ialign_ray.errors import DataError

MOST = 1 << 30
"""Largest array in bytes: it is held in memory as a whole."""


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks as of JSON Lines, or one: an array cannot be cut before it is read."""
    (path,) = files
    if _is_lines(path, request):
        return jsonl.plan(request, files, file)
    return chunks_of(request, files, file, [WHOLE], request.columns, stamp(path))


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of the objects of a file; the "line" of one is its number."""
    path, reject = chunk.files[0], partial(rejects, chunk.files[0])
    if chunk.start[0] or _is_lines(path, chunk):
        yield from jsonl.read(chunk, rejects)
        return
    numbers, rows = [], []
    for number, row in enumerate(_objects(path, chunk), start=1):
        if isinstance(row, dict):
            numbers.append(number)
            rows.append(row)
        else:
            reject(number, f"(counted by objects) is {type(row).__name__}, not an object; remove it")
    yield from jsonl.checked(jsonl.tables_of(numbers, rows, chunk, reject), chunk)


def _is_lines(path: str, source: ReadRequest | Chunk) -> bool:
    """Return True if the first line is an object, and a row rather than an object around rows."""
    head = b""
    for block in texts(path, source.source):
        head = (head + block).lstrip()
        if b"\n" in head:
            break
    line, _, rest = head.partition(b"\n")
    try:
        first = orjson.loads(line)
    except (orjson.JSONDecodeError, RecursionError):
        # of two lines that begin objects, the first is a bad row
        return line.startswith(b"{") and rest.lstrip().startswith(b"{")
    return isinstance(first, dict) and (bool(rest.strip()) or not _lists(first))


def _objects(path: str, chunk: Chunk) -> list[Any]:
    data = b""
    for block in texts(path, chunk.source):
        data += block
        if len(data) > MOST:
            raise DataError(f"{path} is an array of more than {MOST >> 30} GB; write it as JSON Lines (.jsonl)")
    if reason := why_bad(data, chunk.source):
        raise DataError(f"{path} {reason}")
    if not data.strip():
        raise DataError(f"{path} is empty; fill it")
    try:
        value = jsonl.parsed(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON, or torn: {error}; fetch it again or fix it") from error
    if isinstance(value, list):
        return value
    lists = _lists(value) if isinstance(value, dict) else {}
    if len(lists) == 1:
        return next(iter(lists.values()))
    what = f"{len(lists)} lists of objects ({', '.join(lists)})" if lists else "no list of objects"
    raise DataError(f"{path} has {what}; write one array of objects, or one object per line")


def _lists(value: dict[str, Any]) -> dict[str, list[Any]]:
    """The lists of objects in an object."""
    return {k: v for k, v in value.items() if isinstance(v, list) and v and all(isinstance(i, dict) for i in v)}


FORMAT = Format(plan, read, suffixes=(".json",), by_language=True)
