"""Resumable streams of examples: Ray Data renders and encodes, each worker reads its share of every step.

A step's examples are numbers step * batch .. (step + 1) * batch of the plan, and worker r of w reads the
r-th contiguous part of them. So a step has the same examples for any number of workers, a run resumes at any step with
any other number, and within an epoch nothing is skipped or repeated.

With a cache (`tokens.cache`) the tasks fill missing blocks of examples, each worker its part of them, and all read the
blocks; a worker that finds them all starts no task. Nothing depends on the cache: an example that is not there in time
is encoded in place.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.cluster.join import quiet_ray_data
from ialign_ray.errors import DataError
from ialign_ray.storage import read_json, write_json
from ialign_ray.tasks.mixture import Mixture
from ialign_ray.tasks.plan import Drawn, Plan
from ialign_ray.tokens.batch import Encoded
from ialign_ray.tokens.cache import ENCODED, Block, Blocks, EncodedCache, cache_keys, example_at
from ialign_ray.tokens.encode import Encoder

CACHE = "cache.json"
PATIENCE = 10.0
"""Seconds to wait for a block that another worker is to fill."""


@dataclass(frozen=True)
class ExampleSource:
    """A plan and its tokenizer in a folder that every node can read, and the size of a step."""

    folder: str
    """Folder with `plan/`, `tokenizer/`, `encoder.json`, and `cache.json` if encoded examples are cached."""
    batch_size: int
    steps: int


@lru_cache(maxsize=2)
def open_plan(folder: str) -> tuple[Plan, Encoder]:
    """The plan and encoder of a data folder, read once per process."""
    from transformers import AutoTokenizer

    root = Path(folder)
    tokenizer = AutoTokenizer.from_pretrained(root / "tokenizer")
    return Plan.load(root / "plan"), Encoder(tokenizer, **read_json(root / "encoder.json"))


def encode_example(plan: Plan, encoder: Encoder, i: int) -> Encoded:
    """Example i as token ids. Raises DataError if even its shortest form does not fit."""
    return encode_drawn(encoder, plan.draw(i))


def encode_drawn(encoder: Encoder, drawn: Drawn) -> Encoded:
    """A drawn example as token ids. Raises DataError if even its shortest form does not fit."""
    one, encoder = drawn.example, encoder.within(drawn.source.partition("/")[2])
    ids = encoder.encode_turns(one.turns) if one.turns else encoder.encode(one.prompt, one.target, one.spans)
    if ids is None:
        raise DataError(
            f"{drawn.row_id}: the instruction of template {one.template} alone exceeds "
            f"train.max_prompt_tokens {encoder.max_prompt}; raise it"
        )
    return Encoded(drawn.row_id, drawn.epoch, drawn.source, one.task, one.template, *ids)


def share(rank: int, world: int, batch_size: int) -> range:
    """Places of a step that a worker takes: contiguous, in size at most one apart."""
    return range(rank * batch_size // world, (rank + 1) * batch_size // world)


def numbers(row: npt.NDArray[np.int64], start: int, places: range, batch_size: int) -> npt.NDArray[np.int64]:
    """Example numbers of a worker's rows 0, 1, 2, ... if it begins at step `start`."""
    step, place = np.divmod(row, len(places))
    return (start + step) * batch_size + places.start + place


def local_stream(source: ExampleSource, start: int, rank: int = 0, world: int = 1) -> Iterator[list[Encoded]]:
    """The same stream without Ray, in this process: for debugging, profiling and the pocket base model."""
    plan, encoder = open_plan(source.folder)
    places = share(rank, world, source.batch_size)
    for step in range(start, source.steps):
        yield [encode_example(plan, encoder, step * source.batch_size + place) for place in places]


def ray_stream(source: ExampleSource, start: int, rank: int, world: int) -> Iterator[list[Encoded]]:
    """A worker's share of each step from `start` on, rendered and encoded by Ray Data tasks in order."""
    if (cache := open_cache(source.folder)) is not None:
        yield from cached_stream(source, cache, start, rank, world)
        return
    import ray

    quiet_ray_data(in_order=True)  # otherwise rows arrive as tasks end, and a batch would mix steps
    places = share(rank, world, source.batch_size)
    rows = (source.steps - start) * len(places)
    # a task encodes about 256 examples: long enough to amortise its start, short enough for a quick first result
    blocks = max(1, min(rows // 256, 2_000))
    encode = partial(_encode_rows, source=source, start=start, places=places)
    # rows are numbered step by step (`numbers`), so a batch of `places` rows is this worker's part of one step
    stream = ray.data.range(rows, override_num_blocks=blocks).map_batches(encode, batch_size=None)
    for batch in stream.iter_batches(batch_size=len(places), batch_format="pyarrow", prefetch_batches=2):
        yield [Encoded(**row) for row in batch.to_pylist()]


def open_cache(folder: str) -> EncodedCache | None:
    """The cache of a data folder, None if examples are not cached."""
    path = Path(folder) / CACHE
    if not path.exists():
        return None
    plain = read_json(path)
    return EncodedCache(**plain | {"mixture": Mixture(**plain["mixture"])})


def save_cache(data: Path, folder: Path, mixture: Mixture) -> None:
    """Record in a data folder that its encoded examples are cached in `folder`."""
    pairs, replay = cache_keys(data, mixture.seed)
    plain = {"folder": str(folder), "pairs": pairs, "replay": replay, "mixture": vars(mixture)}
    write_json(data / CACHE, plain)


def cached_stream(
    source: ExampleSource, cache: EncodedCache, start: int, rank: int = 0, world: int = 1
) -> Iterator[list[Encoded]]:
    """The same stream from blocks of encoded examples; those that are missing are filled by Ray Data tasks."""
    blocks, places = Blocks(cache), share(rank, world, source.batch_size)
    needed = cache.needed(start * source.batch_size, source.steps * source.batch_size)
    # checked on disk once per run: doing so for each example would call a shared file system
    missing = [b for b in needed if not cache.path(b).exists()]
    # round robin: all workers need the earliest blocks first, so they fill those together
    own = set(needed[rank::world])
    waiting = Filling(source, cache, [b for b in missing if b in own], [b for b in missing if b not in own])
    for step in range(start, source.steps):
        numbers = np.arange(places.start, places.stop) + step * source.batch_size
        examples = []
        for i, block, place, epoch in zip(numbers.tolist(), *cache.locate(numbers), strict=True):
            waiting.for_block(block)
            if (found := blocks.get(block)) is not None:
                examples.append(example_at(found, int(place), int(epoch)))
            else:
                examples.append(encode_example(*open_plan(source.folder), i))
        yield examples


class Filling:
    """The blocks that are being filled: by this worker's tasks, or by another worker's."""

    def __init__(self, source: ExampleSource, cache: EncodedCache, own: list[Block], others: list[Block]) -> None:
        self._own, self._others, self._cache = set(own), set(others), cache
        self._done = fill(source, cache, own) if own else iter(())

    def for_block(self, block: Block) -> None:
        """Wait until a block exists, or there is nothing more to wait for."""
        while block in self._own:
            done = next(self._done, None)
            # no result left: missing examples are encoded where they are needed, without waiting again
            self._own = self._own - {done} if done else set()
        if block in self._others:
            # the other worker may have failed, or its disk may be full: patience is limited, and the example encoded
            # here
            deadline = time.monotonic() + PATIENCE
            while not self._cache.path(block).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            # wait once, whatever the outcome: a lost worker costs one wait per block, not one per example
            self._others.remove(block)


def fill(source: ExampleSource, cache: EncodedCache, blocks: list[Block]) -> Iterator[Block]:
    """Encode blocks by Ray Data tasks, in order; yield each when its task has ended."""
    import ray

    quiet_ray_data(in_order=True)
    tasks = ray.data.range(len(blocks), override_num_blocks=min(len(blocks), 2_000))
    # a copy: the cache's plan contains the whole order of the pool by now
    work = partial(_fill_blocks, source=source, cache=replace(cache), blocks=blocks)
    for row in tasks.map_batches(work, batch_size=None).iter_rows():
        yield blocks[row["id"]]


def fill_block(source: ExampleSource, cache: EncodedCache, block: Block) -> None:
    """Encode and store one block. It stays absent if the disk is full, or if one of its examples does not fit:
    the error is raised where that example is needed."""
    plan, encoder = open_plan(source.folder)
    with suppress(OSError, DataError):
        cache.write(block, [encode_drawn(encoder, plan.at(draw)) for draw in cache.draws(block)])


def _fill_blocks(
    batch: dict[str, Any], source: ExampleSource, cache: EncodedCache, blocks: list[Block]
) -> dict[str, Any]:
    for k in batch["id"]:
        # another trial may have filled it since the tasks were planned
        if not cache.path(blocks[k]).exists():
            fill_block(source, cache, blocks[k])
    return batch


def _encode_rows(batch: dict[str, Any], source: ExampleSource, start: int, places: range) -> pa.Table:
    plan, encoder = open_plan(source.folder)
    chosen = numbers(batch["id"], start, places, source.batch_size)
    examples = [encode_example(plan, encoder, int(i)) for i in chosen]
    return pa.Table.from_pylist([vars(e) for e in examples], schema=ENCODED)
