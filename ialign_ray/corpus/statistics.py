"""Measures of every row of every corpus for a corpus step, one column in memory at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.corpus.schema import schema
from ialign_ray.corpus.shards import ShardFile, ShardStore


class StoredMeasures:
    """Measures of the pieces of a store, in the order given."""

    def __init__(self, store: ShardStore, pieces: Sequence[ShardFile], languages: Sequence[str]) -> None:
        self._store, self._pieces, self._languages = store, list(pieces), languages
        self.offsets = np.concatenate([[0], np.cumsum([p.rows for p in self._pieces])]).astype(np.int64)

    @property
    def rows(self) -> int:
        """Rows of all pieces."""
        return int(self.offsets[-1])

    @cached_property
    def _schemas(self) -> list[pa.Schema]:
        return [pq.read_schema(self._store.file(p, "measures")) for p in self._pieces]

    @property
    def columns(self) -> list[str]:
        """Names of the measures of any corpus."""
        return list(dict.fromkeys(name for s in self._schemas for name in s.names))

    def column(self, name: str) -> npt.NDArray[Any]:
        """One measure of all rows; NaN, or 0 for integers, if a corpus lacks it."""
        kind = next(s.field(name).type.to_pandas_dtype() for s in self._schemas if name in s.names)
        empty = np.nan if np.issubdtype(kind, np.floating) else 0
        # filled in place: parts joined afterwards would hold the column twice
        values = np.full(self.rows, empty, kind)
        for piece, found, start in zip(self._pieces, self._schemas, self.offsets, strict=False):
            if name in found.names:
                read = pq.read_table(self._store.file(piece, "measures"), columns=[name])[name]
                values[start : start + piece.rows] = read.to_numpy()
        return values

    def texts(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """The rows with these ascending numbers, with the language columns of all corpora."""
        whole = schema(self._languages)
        found = []
        for number, piece in enumerate(self._pieces):
            here = rows[(rows >= self.offsets[number]) & (rows < self.offsets[number + 1])] - self.offsets[number]
            if len(here):
                found.append(_widened(_rows(self._store.file(piece), here), whole))
        return pa.concat_tables(found) if found else whole.empty_table()


def _rows(path: Path, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of a file by ascending number, from the row groups that contain them."""
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.unique(np.searchsorted(ends, rows, side="right"))
        table = file.read_row_groups(groups.tolist())
        # rows skipped before each group that was read: from numbers of the file to those of the table
        shift = np.zeros(len(sizes), np.int64)
        shift[groups] = ends[groups] - np.cumsum([sizes[g] for g in groups])
        return table.take(pa.array(rows - shift[np.searchsorted(ends, rows, side="right")]))


def _widened(table: pa.Table, whole: pa.Schema) -> pa.Table:
    """The table with a null column for each language that it lacks."""
    columns = [table[f.name] if f.name in table.column_names else pa.nulls(table.num_rows, f.type) for f in whole]
    return pa.table(columns, schema=whole)
