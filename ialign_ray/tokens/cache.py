"""Encoded examples on disk, for later epochs, resumes and other trials.

An example's tokens depend on (seed, epoch, row) and on the pools, wording and tokenizer; the order in which a pool is
used depends on the seed and the epoch. Neither depends on the replay ratio, the rank or the learning rate. So blocks of
256 examples, in the order of the pool, are files named by a hash of everything that they depend on, and any run that
needs the same block finds it. Old instructions are the same in every epoch: one set of blocks, in the order of the
first one.

A file is an Arrow IPC stream and its SHA-256 digest, written atomically; a damaged one counts as absent. Concurrent
writers of the same block write the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.storage import file_hash, json_hash, read_json, write_bytes
from ialign_ray.tasks import mixture
from ialign_ray.tasks.alignment import FALLBACK, TASKS
from ialign_ray.tasks.mixture import Draw, Mixture
from ialign_ray.tokens.batch import Encoded

BLOCK = 256
"""Examples per file: about 100 kB, encoded in a few tenths of a second."""
OPEN = 512
"""Number of files that one reader keeps mapped."""
Places = npt.NDArray[np.int64]
VERSION = 2
"""Version of noise, rendering and encoding; tasks have their own. Raised whenever the same pools, wording and tokenizer
give different tokens, so that older blocks are not reused."""
_DIGEST = 32
ENCODED = pa.schema(
    [("row_id", pa.string()), ("epoch", pa.int64())]
    + [(n, pa.string()) for n in ("source", "task", "template")]
    + [(n, pa.list_(pa.int32())) for n in ("prompt", "target", "context")]
)


@dataclass(frozen=True, order=True)
class Block:
    """Consecutive examples of one pool, in the order of an epoch."""

    replay: bool
    epoch: int
    """0 for replay, whose examples do not change."""
    number: int


@dataclass(frozen=True)
class EncodedCache:
    """Folder of the blocks of one data folder, and the place of each example; small and picklable."""

    folder: str
    """Folder of all blocks, on a file system that every node shares."""
    pairs: str
    """Key of the blocks of parallel pairs."""
    replay: str
    """Key of the blocks of old instructions."""
    mixture: Mixture

    def path(self, block: Block) -> Path:
        """The file of a block."""
        part = self.replay if block.replay else f"{self.pairs}/epoch-{block.epoch:05d}"
        return Path(self.folder) / part / f"{block.number:07d}.arrow"

    def locate(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[list[Block], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Block, place in the block and epoch of each example number."""
        old, epochs, places = self.mixture.places(numbers)
        # Replay has blocks for its first epoch only: a place in a later epoch's order becomes the row, and the row its
        # place in the first order.
        for epoch in np.unique(epochs[old]):
            chosen = old & (epochs == epoch)
            places[chosen] = self._first_places[mixture.order(self.mixture, True, int(epoch))[places[chosen]]]
        which, within = np.divmod(places, BLOCK)
        shown = np.where(old, 0, epochs)
        blocks = [_block(*b) for b in zip(old.tolist(), shown.tolist(), which.tolist(), strict=True)]
        return blocks, within, epochs

    def needed(self, first: int, last: int) -> list[Block]:
        """Blocks of the examples from number `first` to before `last`, in the order of first need."""
        found: dict[Block, None] = {}
        # in parts, so that memory does not grow with the length of a run
        for start in range(first, last, 100_000):
            found |= dict.fromkeys(self.locate(np.arange(start, min(last, start + 100_000)))[0])
        return list(found)

    def draws(self, block: Block) -> list[Draw]:
        """The rows of a block, in order."""
        rows = mixture.order(self.mixture, block.replay, block.epoch)[block.number * BLOCK :][:BLOCK]
        return [Draw(block.replay, int(row), block.epoch) for row in rows]

    @cached_property
    def _first_places(self) -> Places:
        # the inverse of a permutation
        return np.argsort(mixture.order(self.mixture, True, 0))

    def write(self, block: Block, examples: Sequence[Encoded]) -> None:
        """Store a block. Raises OSError if the disk is full; then the block stays absent."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, ENCODED) as writer:
            writer.write_table(pa.Table.from_pylist([vars(e) for e in examples], schema=ENCODED))
        data = sink.getvalue().to_pybytes()
        write_bytes(self.path(block), data + hashlib.sha256(data).digest())


class Blocks:
    """The blocks that one reader has open, the latest ones."""

    def __init__(self, cache: EncodedCache) -> None:
        self._cache = cache
        self._open: OrderedDict[Block, pa.RecordBatch] = OrderedDict()

    def get(self, block: Block) -> pa.RecordBatch | None:
        """A block mapped into memory; None if it is absent or damaged. A damaged block is removed."""
        if block not in self._open:
            found = read_block(self._cache.path(block))
            if found is None:
                # removed, so that the next run finds it missing and fills it again
                self._cache.path(block).unlink(missing_ok=True)
                return None
            self._open[block] = found
            if len(self._open) > OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(block)
        return self._open[block]


def read_block(path: Path) -> pa.RecordBatch | None:
    """The examples of a file; None if it is missing or damaged."""
    try:
        with pa.memory_map(str(path)) as file:
            data = file.read_buffer()
    except OSError:
        return None
    body, digest = data.slice(0, max(0, data.size - _DIGEST)), data.slice(max(0, data.size - _DIGEST))
    if hashlib.sha256(body).digest() != digest.to_pybytes():
        return None
    return pa.ipc.open_stream(body).read_next_batch()


def example_at(block: pa.RecordBatch, place: int, epoch: int) -> Encoded:
    """One example of a block, as in its epoch."""
    example = Encoded(**{name: block[name][place].as_py() for name in ENCODED.names})
    return replace(example, epoch=epoch)


def cache_keys(data: Path, seed: int) -> tuple[str, str]:
    """Keys of the blocks of pairs and of replay for a saved data folder: hashes of everything that their tokens depend
    on."""
    tokenizer = {p.name: file_hash(p) for p in sorted((data / "tokenizer").iterdir())}
    # another version of these may turn the same files into different tokens
    libraries = [version(name) for name in ("pyarrow", "tokenizers", "transformers")]
    common = [seed, tokenizer, file_hash(data / "encoder.json"), VERSION, libraries]
    # the ratio decides which examples are drawn, not their tokens: trials of a search share blocks
    plan = {k: v for k, v in read_json(data / "plan" / "plan.json").items() if k != "ratio"}
    # the fallback is included although no mix names it: any pair may be rendered by it
    tasks = {name: TASKS.find(name, "tasks.mix").version for name in {*plan["mix"], FALLBACK}}
    pools = (data / "plan" / f"{name}.parquet" for name in ("pairs", "replay"))
    pairs, replay = (file_hash(p) for p in pools)
    return json_hash([*common, pairs, plan, tasks])[:32], json_hash([*common, replay])[:32]


@lru_cache(maxsize=4096)
def _block(replay: bool, epoch: int, number: int) -> Block:
    # cached: `locate` names a block once for each of its 256 examples
    return Block(replay, epoch, number)
