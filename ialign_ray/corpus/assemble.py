"""The last pass of a build: the remaining rows, by split, under unique ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ialign_ray.config import CorpusConfig
from ialign_ray.corpus.cleaning.step import Mask, Scope
from ialign_ray.corpus.schema import languages, schema
from ialign_ray.corpus.shards import BATCH_ROWS, DROPS, drop_table

TRAIN, HELD_OUT = "train", "heldout"
IDENTITY = "identity"
"""Name under which rows are counted whose id has two texts (`bad_rows: drop`)."""


@dataclass(frozen=True)
class Assembly:
    """One file to split; masks of all rows are `.npy` files in the target folder."""

    corpus: CorpusConfig
    rows: Path
    offset: int
    """Number of its first row in the masks."""
    number: int
    """Number of the file that it writes."""
    folder: Path


def assemble(work: Assembly) -> dict[str, Any]:
    """Write the rows of one file into `data/corpus=NAME/split=SPLIT/`; return the counts of what was written."""
    masks = {n: np.load(work.folder / f"{n}.npy", mmap_mode="r") for n in ("held_out", "conflicting", "ordinal")}
    writers: dict[str, pq.ParquetWriter] = {}
    splits: dict[str, tuple[int, dict[str, int]]] = {}
    start, conflicting, dropped = work.offset, 0, Counter[str]()
    with pq.ParquetFile(work.rows) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            here = slice(start, start + table.num_rows)
            start += table.num_rows
            table = table.set_column(0, "id", _distinct(table["id"], np.asarray(masks["ordinal"][here]), work.corpus))
            keep = ~masks["conflicting"][here]
            if not keep.all():
                conflicting += int((~keep).sum())
                dropped.update(_drop(writers, work, table, ~keep))
            for split, chosen in ((TRAIN, ~masks["held_out"][here]), (HELD_OUT, masks["held_out"][here])):
                part = table.filter(pa.array(keep & chosen))
                if part.num_rows:
                    _write(writers, work, split, part)
                    splits[split] = _sum(splits.get(split), part)
    for writer in writers.values():
        writer.close()
    return {"splits": splits, "conflicting": conflicting, "dropped": dict(dropped)}


def _drop(writers: dict[str, pq.ParquetWriter], work: Assembly, table: pa.Table, gone: Mask) -> dict[str, int]:
    """Record rows whose ids already name other texts as drops; return the texts of each language."""
    scope = Scope(work.corpus.languages, work.corpus.pivots, work.corpus.name)
    if IDENTITY not in writers:
        folder = work.folder / "drops" / f"corpus={work.corpus.name}"
        folder.mkdir(parents=True, exist_ok=True)
        writers[IDENTITY] = pq.ParquetWriter(folder / f"identity-{work.number:05d}.parquet", DROPS, compression="zstd")
    counted = {}
    for code in scope.languages:
        lost = gone & np.asarray(table[code].is_valid())
        counted[code] = int(lost.sum())
        writers[IDENTITY].write_table(drop_table(table, lost, code, IDENTITY, scope))
    return counted


def _write(writers: dict[str, pq.ParquetWriter], work: Assembly, split: str, part: pa.Table) -> None:
    if split not in writers:
        folder = work.folder / "data" / f"corpus={work.corpus.name}" / f"split={split}"
        folder.mkdir(parents=True, exist_ok=True)
        whole = schema(work.corpus.languages)
        writers[split] = pq.ParquetWriter(folder / f"part-{work.number:05d}.parquet", whole, compression="zstd")
    writers[split].write_table(part)


def _sum(before: tuple[int, dict[str, int]] | None, part: pa.Table) -> tuple[int, dict[str, int]]:
    rows, cells = before or (0, {})
    counted = {c: cells.get(c, 0) + part.num_rows - part[c].null_count for c in languages(part)}
    return rows + part.num_rows, counted


def _distinct(ids: pa.ChunkedArray, ordinal: npt.NDArray[np.int64], corpus: CorpusConfig) -> pa.ChunkedArray:
    """Texts that are their own ids may come with several translations: the second becomes `id~1`, and so on."""
    if corpus.id or not ordinal.any():
        return ids
    numbered = pc.binary_join_element_wise(ids, pc.cast(pa.array(ordinal), pa.string()), "~")
    return pc.if_else(pa.array(ordinal > 0), numbered, ids)
