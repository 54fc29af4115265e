"""Ray Data renders and encodes; each worker reads its share of every step, from any step on.

A step's examples are numbers step * batch .. (step + 1) * batch of the plan, and worker r of w reads the
r-th contiguous part of them. So a step holds the same examples for any number of workers, a run resumes at
any step with any other number, and within an epoch nothing is skipped or repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.errors import DataError
from ialign_ray.storage import read_json
from ialign_ray.tasks.plan import Drawn, Plan
from ialign_ray.tokens.batch import Encoded
from ialign_ray.tokens.encode import Encoder

ENCODED = pa.schema(
    [("row_id", pa.string()), ("epoch", pa.int64())]
    + [(n, pa.string()) for n in ("source", "task", "template")]
    + [(n, pa.list_(pa.int32())) for n in ("prompt", "target")]
)


@dataclass(frozen=True)
class Source:
    """A plan and its tokenizer in a folder that every node can read, and the size of a step."""

    folder: str
    """Holds `plan/`, `tokenizer/` and `encoder.json`."""
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
    """Example i as token ids. Raises DataError when even its shortest form does not fit."""
    return encode_drawn(encoder, plan.draw(i))


def encode_drawn(encoder: Encoder, drawn: Drawn) -> Encoded:
    """A drawn example as token ids, or DataError."""
    ids = encoder.encode(drawn.example.prompt, drawn.example.target, drawn.example.spans)
    if ids is None:
        raise DataError(
            f"{drawn.row_id}: the instruction of template {drawn.example.template} alone exceeds "
            f"train.max_prompt_tokens {encoder.max_prompt}; raise it"
        )
    return Encoded(drawn.row_id, drawn.epoch, drawn.source, drawn.example.task, drawn.example.template, *ids)


def share(rank: int, world: int, batch_size: int) -> range:
    """Places of a step that a worker takes: contiguous, in size at most one apart."""
    return range(rank * batch_size // world, (rank + 1) * batch_size // world)


def numbers(row: npt.NDArray[np.int64], start: int, places: range, batch_size: int) -> npt.NDArray[np.int64]:
    """Example numbers of a worker's rows 0, 1, 2, ... when it begins at step `start`."""
    step, place = np.divmod(row, len(places))
    return (start + step) * batch_size + places.start + place


def local_stream(source: Source, start: int, rank: int = 0, world: int = 1) -> Iterator[list[Encoded]]:
    """The same stream without Ray, in this process: for debugging, profiling and the pocket base model."""
    plan, encoder = open_plan(source.folder)
    places = share(rank, world, source.batch_size)
    for step in range(start, source.steps):
        yield [encode_example(plan, encoder, step * source.batch_size + place) for place in places]


def ray_stream(source: Source, start: int, rank: int, world: int) -> Iterator[list[Encoded]]:
    """A worker's share of each step from `start` on, rendered and encoded by Ray Data tasks in order."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    places = share(rank, world, source.batch_size)
    rows = (source.steps - start) * len(places)
    # a task encodes some 256 examples: long enough to pay for its start, short enough to begin at once
    blocks = max(1, min(rows // 256, 2_000))
    encode = partial(_encode_rows, source=source, start=start, places=places)
    stream = ray.data.range(rows, override_num_blocks=blocks).map_batches(encode, batch_size=None)
    for batch in stream.iter_batches(batch_size=len(places), batch_format="pyarrow", prefetch_batches=2):
        yield [Encoded(**row) for row in batch.to_pylist()]


def _encode_rows(batch: dict[str, Any], source: Source, start: int, places: range) -> pa.Table:
    plan, encoder = open_plan(source.folder)
    chosen = numbers(batch["id"], start, places, source.batch_size)
    examples = [encode_example(plan, encoder, int(i)) for i in chosen]
    return pa.Table.from_pylist([vars(e) for e in examples], schema=ENCODED)
