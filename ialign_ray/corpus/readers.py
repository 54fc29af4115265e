"""Tables from files of every known format and hub data sets, in chunks; faults are reported in one sentence."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import DataSource
from ialign_ray.config.data import Scalar
from ialign_ray.corpus import formats
from ialign_ray.corpus.chunks import LINE, ROWS, BadRow, Chunk, ReadNotes, ReadRequest, Rejects, joined, parts
from ialign_ray.corpus.formats import by_language
from ialign_ray.corpus.formats.files import resolve, stamp
from ialign_ray.corpus.identity import rng
from ialign_ray.corpus.nested import as_text, pick
from ialign_ray.errors import DataError

__all__ = ["chosen", "plan_chunks", "read_chunk", "read_parts", "read_table", "resolve", "sample"]

CHUNK = 8 << 20
"""Approximate bytes of a chunk: a killed build loses the chunks being read, some seconds of work each."""


def plan_chunks(
    source: DataSource, base: str, columns: Sequence[str] = (), size: int = CHUNK, whole: bool = False
) -> list[Chunk]:
    """Chunks of about `size` bytes that workers can read independently; only one if `whole` or with a `limit`.

    With `columns`, these and those of `where` must exist, and formats that can skip the others do so.
    Raises ConfigError for an unknown `format`; DataError if a file is missing, is not of its format, or lacks a column.
    """
    return _plan(source, base, columns, size, project=bool(columns), whole=whole or source.limit is not None)


def _plan(source: DataSource, base: str, columns: Sequence[str], size: int, project: bool, whole: bool) -> list[Chunk]:
    wanted = tuple(dict.fromkeys([*columns, *source.where]))
    path = f"hub:{source.hub}" if source.hub else resolve(str(source.path), base)
    if source.links:
        source = source.model_copy(update={"links": resolve(source.links, base)})
    planned = formats.plan(path, ReadRequest(source, wanted, project, size, whole))
    chunks = [chunk for of_file in planned for chunk in of_file]
    return joined(chunks) if whole else chunks


def read_chunk(chunk: Chunk, bad: list[BadRow], notes: ReadNotes | None = None) -> Iterator[pa.Table]:
    """Raw tables of a chunk, of bounded size, before `where` and `limit`; `__line` is the line or row of each row.

    Bad rows are added to `bad` if the source drops them; otherwise the first one raises DataError.
    """
    for _, table in read_parts(chunk, bad, notes):
        yield table


def read_parts(chunk: Chunk, bad: list[BadRow], notes: ReadNotes | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(number of the file, raw table) for each table of a chunk, which may be over several files."""
    # an empty `notes` is false, but the caller's
    rejects = Rejects(chunk.source, bad, ReadNotes() if notes is None else notes)
    found = formats.format_of(chunk.source)
    for part in file_sets(chunk):
        if found.layout != "folder":
            _check_unchanged(part)
        for table in by_language.read(found, part, rejects) if part.by_language else found.read(part, rejects):
            for k in range(0, table.num_rows, ROWS):
                yield part.file, table.slice(k, ROWS)


def file_sets(chunk: Chunk) -> list[Chunk]:
    """A chunk of several files as one for each file, or set of files of one language each, that its rows come from."""
    layout = formats.format_of(chunk.source).layout
    width = len(chunk.names) if chunk.by_language or layout == "aligned" else 1
    return [chunk] if layout == "together" else parts(chunk, width)


def _check_unchanged(part: Chunk) -> None:
    for path, known in zip(part.files, part.stamp, strict=True):
        if stamp(path) != known:
            raise DataError(f"{path} changed while it was being read; start again when it is complete")


def read_table(
    source: DataSource, base: str = ".", needed: Sequence[str] = (), *, structured: bool = False, lines: bool = False
) -> pa.Table:
    """Rows of a source after `where` and `limit`, with all columns, and one for each path in `needed`.

    With `lines`, `__line` is each row's line or row. A needed list of texts is joined by line feeds; `structured`
    leaves lists and structs as they are.
    Raises DataError when the source is missing, empty or malformed, or lacks a needed column.
    """
    origin = f"hub:{source.hub}" if source.hub else resolve(str(source.path), base)
    tables, notes = [], ReadNotes()
    for chunk in _plan(source, base, needed, CHUNK, project=False, whole=True):
        read = (t if lines else t.drop_columns(LINE) for t in read_chunk(chunk, [], notes))
        tables += [chosen(t, source, origin) for t in read]
    for warning in notes.warnings():
        logging.getLogger("ialign_ray").warning(warning)
    tables = _alike(tables) or [pa.table({})]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{origin} is malformed: {str(error).splitlines()[0]}; write one type per column") from error
    if table.num_rows == 0:
        raise DataError(f"{origin} has no rows" + (f" where {source.where}" if source.where else "; fill it"))
    for name in dict.fromkeys(needed):
        if (column := pick(table, name)) is None:
            continue  # rows that `where` keeps may all lack it
        if pa.types.is_nested(column.type) and not structured:
            column = as_text(column, name, origin)
        at = table.column_names.index(name) if name in table.column_names else table.num_columns
        table = (table.set_column if at < table.num_columns else table.add_column)(at, name, column)
    return sample(table.combine_chunks(), source.limit)


def _alike(tables: list[pa.Table]) -> list[pa.Table]:
    """Tables with a column as text in all if it is in one: ids beyond 64 bits, and turns that no Arrow type fits."""
    texts = {f.name for t in tables for f in t.schema if pa.types.is_string(f.type)}
    return [_with_texts(table, texts) for table in tables]


def _with_texts(table: pa.Table, names: set[str]) -> pa.Table:
    for at, field in enumerate(table.schema):
        if field.name not in names:
            continue
        if pa.types.is_integer(field.type):
            table = table.set_column(at, field.name, table[field.name].cast(pa.string()))
        elif pa.types.is_nested(field.type):
            written = [None if v is None else json.dumps(v) for v in table[field.name].to_pylist()]
            table = table.set_column(at, field.name, pa.array(written, pa.string()))
    return table


def chosen(table: pa.Table, source: DataSource, origin: str) -> pa.Table:
    """The rows of a table that match `where`."""
    for column, wanted in source.where.items():
        if (found := pick(table, column)) is None:  # an object of JSON Lines may lack it
            return table.slice(0, 0)
        present = _plain(found)
        values = wanted if isinstance(wanted, list) else [wanted]
        try:
            mask = pc.is_in(present, value_set=_values(values, present.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{origin}: where.{column} is {wanted!r}, but the column holds {present.type}") from error
        table = table.filter(mask)
    return table


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _values(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Convert values of `where` to a column's type: as text, 3 is "3" and true any of "true", "True", "TRUE"."""
    if pa.types.is_null(kind):
        return pa.array([], kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array(sorted({form for value in values for form in _spellings(value)}), kind)
    return pa.array(values).cast(kind)


def _spellings(value: Scalar) -> set[str]:
    if isinstance(value, bool):
        return {str(value), str(value).lower(), str(value).upper()}
    if isinstance(value, float) and value.is_integer():
        return {str(value), str(int(value))}
    return {str(value)}


def sample(table: pa.Table, limit: int | None) -> pa.Table:
    """A seeded sample in the order of the table, the same for the same number of rows."""
    if limit is None or limit >= table.num_rows:
        return table
    picked = sorted(rng("sample", limit).sample(range(table.num_rows), limit))
    return table.take(picked)
