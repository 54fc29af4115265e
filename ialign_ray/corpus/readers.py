"""Tables from parquet, JSONL, CSV, TSV and hub data sets, or one sentence about what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ialign_ray.config import Source
from ialign_ray.errors import DataError
from ialign_ray.pocket import POCKET, pocket_file
from ialign_ray.randomness import rng


def read_table(source: Source, base: str = ".", needed: Sequence[str] = ()) -> pa.Table:
    """Rows of a source after `where` and `limit`, with all columns.

    Raises DataError when the source is missing, empty or malformed, or lacks a needed column.
    """
    origin, table = _hub(source) if source.hub else _file(source, base)
    if not table.column_names:
        raise DataError(f"{origin} is empty; fill it")
    for column in [*needed, *source.where]:
        if column not in table.column_names:
            raise DataError(f"{origin} has no column {column!r}; it has {', '.join(table.column_names)}")
    for column, wanted in source.where.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        present = table[column]
        try:
            mask = pc.is_in(present, value_set=pa.array(values).cast(present.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise DataError(f"{origin}: where.{column} is {wanted!r}, but the column holds {present.type}") from error
        table = table.filter(mask)
    if table.num_rows == 0:
        raise DataError(f"{origin} has no rows" + (f" where {source.where}" if source.where else "; fill it"))
    return sample(table, source.limit)


def sample(table: pa.Table, limit: int | None) -> pa.Table:
    """A seeded sample in the table's own order, the same for the same number of rows."""
    if limit is None or limit >= table.num_rows:
        return table
    chosen = sorted(rng("sample", limit).sample(range(table.num_rows), limit))
    return table.take(chosen)


def resolve(path: str, base: str) -> str:
    """Absolute path or URL of a data path; `pocket:` sets are made on first use."""
    if path.startswith(POCKET):
        return str(pocket_file(path))
    if "://" in path:
        return path
    return str(Path(base, path).expanduser())


def _hub(source: Source) -> tuple[str, pa.Table]:
    import datasets

    name, _, revision = str(source.hub).partition("@")
    parts = name.split("/")
    config = parts[2] if len(parts) > 2 else None
    try:
        loaded = datasets.load_dataset("/".join(parts[:2]), config, split=source.split, revision=revision or None)
    except Exception as error:  # the library raises a dozen kinds, all of them the user's to mend
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"hub data set {source.hub!r} (split {source.split!r}) cannot be loaded: {first}") from error
    return f"hub:{source.hub}", loaded.with_format("arrow")[:]


def _file(source: Source, base: str) -> tuple[str, pa.Table]:
    path = resolve(str(source.path), base)
    reader = _READERS.get(Path(path).suffix.lower())
    if reader is None:
        raise DataError(f"{path}: format {Path(path).suffix!r} is not known; use one of {', '.join(_READERS)}")
    try:
        with fsspec.open(path, "rb") as file:
            table = reader(file, path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name a file, or set storage.data to the folder it is in") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder; name a file in it") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{path} is empty or malformed: {str(error).splitlines()[0]}") from error
    return path, table


def _parquet(file: Any, path: str) -> pa.Table:
    return pq.read_table(file)


def _delimited(delimiter: str) -> Callable[[Any, str], pa.Table]:
    def read(file: Any, path: str) -> pa.Table:
        data = file.read()
        try:
            data.decode()  # pyarrow would quietly make such a column binary
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"{path}, line {number} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
        return pyarrow.csv.read_csv(
            pa.BufferReader(data),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""]),
        )

    return read


def _jsonl(file: Any, path: str) -> pa.Table:
    # json.loads a line at a time, since pyarrow's reader cannot say which line is wrong
    rows = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error.msg}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is {type(row).__name__}, not an object; write one object a line")
        rows.append(row)
    # from_pylist alone would take the columns of the first row for those of all
    columns = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in columns})


_READERS: dict[str, Callable[[Any, str], pa.Table]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".csv": _delimited(","),
    ".tsv": _delimited("\t"),
}
