"""Columns inside columns: paths such as `translation.en` or `srcs.0`, and lists of segments as one text.

A column of that very name is always preferred to a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.errors import DataError

_DEPTH = 3
"""Levels below a column in which a missing column is searched for."""


def pick(table: pa.Table, name: str) -> pa.ChunkedArray | None:
    """The column of a name or path, null if a row lacks it; None if no row can have it."""
    if name in table.column_names:
        return table[name]
    for root, path in _paths(name):
        if root in table.column_names and _below(table.schema.field(root).type, path) is not None:
            column = table[root].combine_chunks()
            array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
            for part in path:
                array = _inside(array, part)
            return pa.chunked_array([array])
    return None


def has_column(schema: pa.Schema, name: str) -> bool:
    """Return True if the schema has a column of this name or path."""
    return name in schema.names or root_of(schema, name) is not None


def root_of(schema: pa.Schema, name: str) -> str | None:
    """The column that a name or path begins with; None if the table lacks it."""
    if name in schema.names:
        return name
    found = (r for r, path in _paths(name) if r in schema.names and _below(schema.field(r).type, path) is not None)
    return next(found, None)


def check_columns(origin: str, schema: pa.Schema, columns: Sequence[str]) -> None:
    """Raise DataError for a column that is missing; name the path of one of that name inside another column."""
    for name in columns:
        if not has_column(schema, name):
            raise no_column(origin, schema, name)


def no_column(origin: str, schema: pa.Schema, name: str) -> DataError:
    """The message for a missing column."""
    cure = f"; write {path!r}" if (path := path_to(schema, name)) else ""
    return DataError(f"{origin} has no column {name!r}; it has {', '.join(schema.names)}{cure}")


def path_to(schema: pa.Schema, name: str) -> str | None:
    """Path of a column of this name inside another one."""
    return next((path for column in schema for path in _named(column.name, column.type, name, _DEPTH)), None)


def as_text(column: pa.ChunkedArray, name: str, origin: str, within: str = "\n") -> pa.ChunkedArray:
    """A column as text: numbers as digits, a list of texts joined by line feeds.

    `within` replaces a line feed inside an item of a list. Raises DataError for what is not text.
    """
    kind = column.type
    if _is_list(kind) and _is_text(kind.value_type):
        return pa.chunked_array(
            [_one_text(pa.concat_arrays(column.chunks), within)] if column.num_chunks else [], pa.string()
        )
    if not pa.types.is_nested(kind):
        try:
            return column.cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{origin}: column {name!r} holds {kind}, not text; choose another") from error
    raise DataError(
        f"{origin}: column {name!r} holds {kind}, not text; name a text in it, such as {_example(name, kind)}"
    )


def _paths(name: str) -> Iterator[tuple[str, list[str]]]:
    parts = name.split(".")
    return ((".".join(parts[:k]), parts[k:]) for k in range(len(parts) - 1, 0, -1))


def _below(kind: pa.DataType, path: Sequence[str]) -> pa.DataType | None:
    for part in path:
        if pa.types.is_struct(kind) and kind.get_field_index(part) >= 0:
            kind = kind.field(part).type
        elif pa.types.is_map(kind) and _is_text(kind.key_type):
            kind = kind.item_type
        elif _is_list(kind) and part.isascii() and part.isdigit():
            kind = kind.value_type
        else:
            return None
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind))


def _inside(column: pa.Array, part: str) -> pa.Array:
    if pa.types.is_map(column.type):
        return pc.map_lookup(column, pa.scalar(part, column.type.key_type), "first")
    return _item(column, int(part)) if _is_list(column.type) else pc.struct_field(column, part)


def _item(column: pa.Array, place: int) -> pa.Array:
    """The item of each list at a place, null if the list is shorter."""
    has = pc.greater(pc.fill_null(pc.list_value_length(column), 0), place)
    items = pc.list_element(column.filter(has), place)
    return items.take(pc.if_else(has, pc.subtract(pc.cumulative_sum(pc.cast(has, pa.int64())), 1), None))


def _one_text(column: pa.Array, within: str) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int32)
    items = pc.fill_null(column.flatten().cast(pa.string()), "")
    if within != "\n":
        items = pc.replace_substring(items, "\n", within)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, items), "\n")
    return pc.if_else(pc.is_valid(column), joined, pa.scalar(None, pa.string()))


def _named(path: str, kind: pa.DataType, name: str, depth: int) -> Iterator[str]:
    if not depth or not pa.types.is_struct(kind):
        return
    for field in kind:
        below = f"{path}.{field.name}"
        if field.name == name or below.endswith(f".{name}"):
            yield below
        yield from _named(below, field.type, name, depth - 1)


def _example(name: str, kind: pa.DataType) -> str:
    while pa.types.is_nested(kind) and kind.num_fields:
        if pa.types.is_map(kind):
            name, kind = f"{name}.KEY", kind.item_type
            continue
        first = None if _is_list(kind) else kind.field(0)
        name, kind = (f"{name}.{first.name}", first.type) if first else (f"{name}.0", kind.value_type)
    return repr(name)
