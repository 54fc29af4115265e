"""Parquet files, saved `datasets` folders and hub data sets: typed columns, cut by row groups or rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.corpus.chunks import LINE, ROWS, Chunk, Format, ReadRequest, Rejects, Span, chunks_of
from ialign_ray.corpus.formats.files import first_line, raw, stamp
from ialign_ray.corpus.nested import check_columns, root_of
from ialign_ray.errors import DataError

_TABLE = 16 << 20
"""Approximate bytes of a table."""
_SLICE = 200_000
"""Rows of a chunk of a hub data set or saved folder."""


def _roots(schema: pa.Schema, names: Sequence[str]) -> list[str]:
    """The columns to read for names and paths."""
    return list(dict.fromkeys(root for name in names if (root := root_of(schema, name)) is not None))


def _lined(table: pa.Table, line: int) -> pa.Table:
    kept = [n for n in table.column_names if n != LINE]
    return table.select(kept).append_column(LINE, pa.array(range(line, line + table.num_rows), pa.int64()))


@contextmanager
def _parquet(path: str) -> Iterator[pq.ParquetFile]:
    mark = stamp(path)
    with raw(path) as file:
        try:
            # small reads of a remote file are worth buffering
            yield pq.ParquetFile(file, pre_buffer="://" in path)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            state = "empty" if str(mark[0]) == "0" else "malformed"
            raise DataError(f"{path} is {state}: {first_line(error)}; write or fetch it again") from error


def plan_parquet(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of whole row groups, small ones combined."""
    (path,) = files
    with _parquet(path) as opened:
        check_columns(path, opened.schema_arrow, request.columns)
        meta = opened.metadata
        groups = [(meta.row_group(k).num_rows, meta.row_group(k).total_byte_size) for k in range(meta.num_row_groups)]
    spans: list[Span] = []
    start, line, rows, size = 0, 1, 0, 0
    for k, (count, weight) in enumerate(groups, start=1):
        rows, size = rows + count, size + weight
        if size >= request.size and not request.whole:
            spans.append((start, k, line))
            start, line, rows, size = k, line + rows, 0, 0
    if start < len(groups) or request.whole:
        spans.append((start, -1 if request.whole else len(groups), line))
    return chunks_of(request, files, file, spans, request.names, stamp(path))


def read_parquet(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk's row groups, with the columns it names (all when it names none)."""
    with _parquet(chunk.files[0]) as opened:
        stop = opened.metadata.num_row_groups if chunk.end[0] < 0 else chunk.end[0]
        line = chunk.line
        for group in range(chunk.start[0], stop):
            meta = opened.metadata.row_group(group)
            rows = max(1, min(ROWS, _TABLE * meta.num_rows // max(1, meta.total_byte_size)))
            columns = _roots(opened.schema_arrow, chunk.names) or None
            for batch in opened.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                yield _lined(pa.Table.from_batches([batch]), line)
                line += batch.num_rows


def plan_saved(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of rows of a hub data set (`hub:` and its id) or of a saved folder."""
    (path,) = files
    data = saved(path, request.source.split)
    check_columns(path, data.features.arrow_schema, request.columns)
    step = len(data) if request.whole else _SLICE
    spans = [(k, min(k + step, len(data)), k + 1) for k in range(0, len(data), max(1, step))]
    return chunks_of(request, files, file, spans, request.names, (str(data._fingerprint), len(data)))


def read_saved(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk's rows."""
    data = saved(chunk.files[0], chunk.source.split)
    if chunk.names:
        data = data.select_columns(_roots(data.features.arrow_schema, chunk.names))
    data = data.with_format("arrow")
    for k in range(chunk.start[0], chunk.end[0], ROWS):
        yield _lined(data[k : min(k + ROWS, chunk.end[0])], k + 1)


def _age(path: str) -> int:
    """Time of a local folder's last change, so that a data set saved again is read again; otherwise 0."""
    return Path(path).stat().st_mtime_ns if Path(path).is_dir() else 0


def saved(path: str, split: str) -> Any:
    """A split of a saved folder, or of a hub data set (`hub:id`, `hub:id/configuration`), as a memory-mapped
    `datasets.Dataset`. Raises DataError if it cannot be loaded."""
    return _saved(path, split, _age(path))


@lru_cache(maxsize=4)  # opening one takes seconds
def _saved(path: str, split: str, age: int) -> Any:
    import datasets

    try:
        if path.startswith("hub:"):
            name, _, revision = path.removeprefix("hub:").partition("@")
            parts = name.split("/")
            config = parts[2] if len(parts) > 2 else None
            return datasets.load_dataset("/".join(parts[:2]), config, split=split, revision=revision or None)
        loaded = datasets.load_from_disk(path)
    except Exception as error:  # the library raises a dozen kinds, all of them for the user to fix
        what = f"hub data set {path[4:]!r} (split {split!r})" if path.startswith("hub:") else path
        raise DataError(f"{what} cannot be loaded: {first_line(error)}") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise DataError(f"{path} has no split {split!r}; it has {', '.join(loaded)}")
        return loaded[split]
    return loaded


PARQUET = Format(plan_parquet, read_parquet, suffixes=(".parquet",), by_language=True)
SAVED = Format(plan_saved, read_saved, layout="folder")
