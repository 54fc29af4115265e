"""Ray Data sources over chunks of files: rows of a corpus, and the jobs of a build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
from ray.data import Dataset, Datasource, read_datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from ialign_ray import errors
from ialign_ray.cluster.join import cluster, quiet_ray_data
from ialign_ray.config import CorpusConfig, ScalingConfig
from ialign_ray.corpus.assemble import Assembly
from ialign_ray.corpus.chunks import Chunk
from ialign_ray.corpus.readers import CHUNK
from ialign_ray.corpus.rows import corpus_chunks, read_rows
from ialign_ray.corpus.shards import ShardFile, ShardJob
from ialign_ray.errors import IalignError

SMALL = 100 << 20
"""Bytes of text below which a cluster, which takes 10 to 20 seconds to start, is not worth it."""


class ChunkSource(Datasource):  # type: ignore[misc]  # ray has no types
    """Ray Data source with one read task per item, which yields the tables of `read`."""

    def __init__(self, items: Sequence[Any], read: Callable[[Any], Iterable[pa.Table]]) -> None:
        super().__init__()
        self._items, self._read = items, read

    def get_name(self) -> str:
        """Name in Ray's logs."""
        return "Chunks"

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: the size is unknown before reading."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Return one task per item, whatever the requested parallelism: an item is the unit of resuming."""
        nothing = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(self._read, item), nothing) for item in self._items]


def read_corpus(corpus: CorpusConfig, base: str = ".") -> Dataset:
    """A corpus as a Ray Dataset of rows in the schema of `ialign_ray.corpus.schema`; large files are split over tasks.

    Raises DataError for faults found in planning; those found by a task are raised by Ray when the rows are used.
    """
    chunks = corpus_chunks(corpus, base)
    return read_datasource(ChunkSource(chunks, partial(_rows, corpus)), override_num_blocks=max(1, len(chunks)))


def _rows(corpus: CorpusConfig, chunk: Chunk) -> Iterator[pa.Table]:
    yield from read_rows(corpus, chunk, [])


class ClusterRunner:
    """Runs the jobs of a build as Ray Data tasks; small builds stay in this process and start no cluster.

    A context manager: the cluster that it starts ends with it.
    """

    def __init__(self, scaling: ScalingConfig) -> None:
        self._scaling, self._open = scaling, ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def __call__(self, items: Sequence[Any], work: Callable[[Any], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield results in the order of the items, as they arrive. Raises any `IalignError` of the work."""
        if len(items) < 2 or sum(map(weight, items)) < SMALL:
            yield from map(work, items)
            return
        # joined at the first large stage and kept for the later ones
        self._open.enter_context(cluster(self._scaling))
        quiet_ray_data(in_order=True)
        source = ChunkSource(items, partial(_outcome, work))
        for row in read_datasource(source, override_num_blocks=len(items)).iter_rows():
            outcome = json.loads(row["outcome"])
            if "error" in outcome:
                raise errors.load(outcome["error"])
            yield outcome["result"]


def weight(item: ShardJob | Assembly) -> int:
    """Approximate bytes of text that an item works on."""
    if isinstance(item, Assembly):
        return 3 * item.rows.stat().st_size  # compressed
    if isinstance(item.origin, ShardFile):
        return 200 * item.origin.rows
    # a stamp begins with the file's size if its file system has one
    sizes = [int(mark[0]) for mark in item.origin.stamp if str(mark[0]).isdigit()]
    return sum(sizes) or CHUNK


def _outcome(work: Callable[[Any], dict[str, Any]], item: Any) -> list[pa.Table]:
    """One row with the result, or with the user's error, which Ray would wrap in its own."""
    try:
        outcome: dict[str, Any] = {"result": work(item)}
    except IalignError as error:
        outcome = {"error": errors.dump(error)}
    return [pa.table({"outcome": [json.dumps(outcome)]})]
