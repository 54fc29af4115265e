"""Rows of a built corpus in batches, and the few of them that are kept to be shown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.corpus.assemble import HELD_OUT, TRAIN
from ialign_ray.corpus.build import Built

SPLITS = (TRAIN, HELD_OUT)
BATCH_ROWS = 20_000
"""Rows in memory at once: some tens of megabytes of code points while they are measured."""

_HIDDEN = frozenset("\u200e\u200f\ufeff\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BREAK = "\u200b"
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1a20-\u1aaf]")
"""Thai, Lao, Tibetan, Myanmar, Khmer and Tai Tham, whose words a zero-width space parts."""


def parts(built: Built, corpus: str, splits: Iterable[str] = SPLITS) -> list[Path]:
    """Parquet files of a corpus's splits; an empty split has no files."""
    folder = built.folder / "data" / f"corpus={corpus}"
    return [path for split in splits for path in sorted((folder / f"split={split}").glob("*.parquet"))]


def batches(files: Iterable[Path]) -> Iterator[pa.Table]:
    """All rows of the files, in tables of at most BATCH_ROWS rows."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield pa.Table.from_batches([batch])


class Lowest:
    """The k rows with the lowest keys of all that were offered; memory is that of k rows.

    With random keys it is a sample without replacement, with the negative of a score the best k.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._keys = np.zeros(0)
        self._rows: pa.Table | None = None

    def offer(self, keys: npt.NDArray[np.float64], rows: pa.Table) -> None:
        """Consider a table's rows; those of key NaN or infinity never count."""
        limit = self._keys[-1] if len(self._keys) == self._k else np.inf
        # many batches of a long corpus hold nothing that is low enough
        chosen = np.flatnonzero(keys < limit)
        chosen = chosen[np.argsort(keys[chosen], kind="stable")[: self._k]]
        if not len(chosen):
            return
        found = rows.take(pa.array(chosen))
        joined = np.concatenate([self._keys, keys[chosen]])
        order = np.argsort(joined, kind="stable")[: self._k]
        both = found if self._rows is None else pa.concat_tables([self._rows, found], promote_options="default")
        # combined, or the batches that they were taken from would stay in memory
        self._keys, self._rows = joined[order], both.take(pa.array(order)).combine_chunks()

    def rows(self) -> list[dict[str, Any]]:
        """The kept rows, lowest key first."""
        return [] if self._rows is None else list(self._rows.to_pylist())

    def __len__(self) -> int:
        return len(self._keys)


def visible(text: str) -> str:
    """A text with what cannot be seen, or would act on a terminal, written as its code point: `‹U+200B›`.

    ZWNJ and ZWJ stay, since many scripts need them, and so does U+200B where it parts words.
    """
    if text.isprintable():
        return text
    spaced = not _UNSPACED.search(text)
    return "".join(f"‹U+{ord(c):04X}›" if _is_hidden(c) or (spaced and c == _BREAK) else c for c in text)


def _is_hidden(character: str) -> bool:
    return character in _HIDDEN or (unicodedata.category(character) == "Cc" and character != "\n")
