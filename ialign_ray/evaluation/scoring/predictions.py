"""Predictions of one model on one unit: a folder of parquet parts, written atomically, with rows found by their
content.

A part may contain any rows in any number, so an evaluation that was killed, or whose suite has grown, computes only the
missing rows, whatever the size of its shards was.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.evaluation.suites.load import CLUSTER
from ialign_ray.storage import json_hash, write_bytes, write_json

ROW = "__row"
"""Column of a part with the key of each row."""


def row_keys(rows: pd.DataFrame) -> list[str]:
    """A hash of each row's content, the same on every machine. Rows of equal content share it.

    The column `CLUSTER` does not affect predictions, so it is not part of the hash.
    """
    rows = rows.drop(columns=CLUSTER, errors="ignore")
    lines = rows.to_json(orient="records", lines=True, double_precision=15).split("\n")  # ASCII: no other line breaks
    return [hashlib.blake2b(line.encode(), digest_size=12).hexdigest() for line in lines[: len(rows)]]


class PredictionStore:
    """Predictions under `folder`/SUITE/PROMPT/KEY, KEY a hash of model and unit."""

    def __init__(self, folder: Path, suite: str, prompt: str, key: Any) -> None:
        self._key = key
        self.folder = folder / _plain(suite) / _plain(prompt) / json_hash(key)[:16]

    def write(self, keys: Sequence[str], predictions: pd.DataFrame) -> None:
        """Add a part with the predictions of the rows with these keys."""
        if not (self.folder / "key.json").exists():
            write_json(self.folder / "key.json", self._key)  # for people: the settings behind the hash
        table = pa.Table.from_pandas(predictions, preserve_index=False)
        buffer = io.BytesIO()
        pq.write_table(
            table.append_column(ROW, pa.array(keys, pa.string())), buffer, compression="zstd", write_page_checksum=True
        )
        write_bytes(self.folder / f"part-{json_hash(keys)[:16]}.parquet", buffer.getvalue())

    def known(self) -> set[str]:
        """Keys of the stored rows. A part that is torn or damaged is removed, so that it is computed again."""
        return {key for table in self._tables() for key in table[ROW].to_pylist()}

    def read(self, keys: Sequence[str]) -> pd.DataFrame:
        """Predictions in the order of `keys`, all of which must be stored."""
        table = pa.concat_tables(self._tables(), promote_options="permissive")
        place = {key: k for k, key in enumerate(table[ROW].to_pylist())}
        frame: pd.DataFrame = table.take([place[key] for key in keys]).drop_columns(ROW).to_pandas()
        return frame

    def _tables(self) -> list[pa.Table]:
        found = []
        for path in sorted(self.folder.glob("part-*.parquet")):
            try:
                found.append(pq.read_table(path, page_checksum_verification=True, partitioning=None))
            except (OSError, pa.ArrowException):
                # its rows count as missing, and are predicted again
                path.unlink(missing_ok=True)
        return found


def _plain(name: str) -> str:
    """Make a name safe for a path; names that become equal still differ in KEY."""
    return re.sub(r"[^\w.-]", "_", name)
