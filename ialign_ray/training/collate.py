"""Encoded examples as a model's inputs, with the positions whose next token is a target."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from ialign_ray.inference.batching import padded
from ialign_ray.tokens.batch import Batching, Encoded, micro_batches, packed_rows

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pass:
    """Input of one forward pass."""

    examples: Sequence[Encoded]
    """Examples in the order of `labels`."""
    inputs: dict[str, Any]
    """Keyword arguments of the model."""
    positions: Tensor
    """Flat positions [N] whose next token is a target."""
    labels: Tensor
    """Target tokens [N]."""

    @property
    def padded(self) -> int:
        """Number of tokens computed, including padding."""
        return sum(ids.numel() for name, ids in self.inputs.items() if name.endswith("input_ids"))

    def to(self, device: torch.device) -> Pass:
        """Copy the pass to the device; from pinned memory without waiting for it."""

        def moved(value: Any) -> Any:
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        inputs = {name: moved(value) for name, value in self.inputs.items()}
        return Pass(self.examples, inputs, moved(self.positions), moved(self.labels))

    def pinned(self) -> Pass:
        """Copy the pass to pinned memory, which a GPU reads without the CPU."""
        inputs = {n: v.pin_memory() if isinstance(v, Tensor) else v for n, v in self.inputs.items()}
        return Pass(self.examples, inputs, self.positions.pin_memory(), self.labels.pin_memory())


def lay_out(
    examples: Sequence[Encoded], batching: Batching, tokens: int, pad: int, start: int | None = None
) -> list[Pass]:
    """One worker's share of a step as passes of at most `tokens`, on the CPU."""
    if batching.packed:
        rows = packed_rows(examples, tokens if batching.varlen else batching.width, tokens)
        return [collate_packed(part, pad, varlen=batching.varlen) for part in rows]
    parts = micro_batches(examples, tokens, apart=start is not None, pass_tokens=batching.pass_tokens)
    return [Pass(part, *collate(part, pad, CPU, start)) for part in parts]


def collate(
    batch: Sequence[Encoded], pad: int, device: torch.device, start: int | None = None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Right-padded inputs, flat positions [N] whose next token is a target, and those tokens [N].

    A causal model (`start` is None) reads prompt and target as one row [B, T]. An encoder-decoder reads the
    prompts [B, S] in its encoder, and in its decoder [B, T] `start` and the target up to its last token.
    """
    labels = torch.tensor(_learned(batch), dtype=torch.long, device=device)
    if start is None:
        ids, mask = padded([[*e.prompt, *e.target] for e in batch], device, fill=pad)
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs, _positions(batch, ids.shape[1], [len(e.prompt) - 1 for e in batch]).to(device), labels
    ids, mask = padded([e.prompt for e in batch], device, fill=pad)
    decoder, _ = padded([[start, *e.target[:-1]] for e in batch], device, fill=pad)
    # no decoder mask: padding is on the right, where no position that counts can see it
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}
    return inputs, _positions(batch, decoder.shape[1], [0] * len(batch)).to(device), labels


def collate_packed(rows: Sequence[Sequence[Encoded]], pad: int, *, varlen: bool = False) -> Pass:
    """Several examples per row [R, W]: position ids restart, from which a model makes its block-diagonal mask.

    With `varlen` there is one row, and the kernel gets the offset of each example.
    """
    examples = [e for row in rows for e in row]
    ids, _ = padded([[t for e in row for t in (*e.prompt, *e.target)] for row in rows], CPU, fill=pad)
    width = ids.shape[1]
    restarting = []
    for row in rows:
        lengths = [len(e) for e in row]
        lengths.append(width - sum(lengths))  # padding is one more example, which is ignored
        restarting.append([k for n in lengths for k in range(n)])
    inputs: dict[str, Any] = {"input_ids": ids, "position_ids": torch.tensor(restarting)}
    if varlen:
        ends = torch.tensor([0, *accumulate(len(e) for e in examples)], dtype=torch.int32)
        longest = max(len(e) for e in examples)
        inputs |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    before = [n for row in rows for n in accumulate((len(e) for e in row[:-1]), initial=0)]
    row_of = [r for r, row in enumerate(rows) for _ in row]
    # the logits of a token predict the next one, so the last prompt token is the first position
    first = [r * width + n + len(e.prompt) - 1 for r, n, e in zip(row_of, before, examples, strict=True)]
    positions = torch.cat([_places(e) + start for e, start in zip(examples, first, strict=True)])
    return Pass(examples, inputs, positions, torch.tensor(_learned(examples)))


def _positions(batch: Sequence[Encoded], width: int, first: Sequence[int]) -> Tensor:
    """Flat positions [N]: one for each learned token of a row, whose target is predicted from position `first` on."""
    return torch.cat([_places(e) + r * width + first[r] for r, e in enumerate(batch)])


def _places(example: Encoded) -> Tensor:
    if not example.context:
        return torch.arange(len(example.target))
    return torch.tensor(example.places, dtype=torch.long)


def _learned(batch: Sequence[Encoded]) -> list[int]:
    return (
        [e.target[place] for e in batch for place in e.places]
        if any(e.context for e in batch)
        else [token for e in batch for token in e.target]
    )


T = TypeVar("T")
R = TypeVar("R")
DEPTH = 2
"""Number of steps prepared in advance: one is waiting while the next is prepared."""


def ahead(items: Iterator[T], make: Callable[[T], R], depth: int = DEPTH) -> Generator[tuple[T, R]]:
    """Yield each item with the result of `make`, in order, up to `depth` of them ahead of the reader.

    One thread reads and prepares, so nothing depends on its timing. Its exceptions are raised in place of the item. The
    thread ends when the iterator is exhausted, closed or no longer referenced.
    """

    def following() -> tuple[T, R] | None:
        for item in items:
            return item, make(item)
        return None

    thread = ThreadPoolExecutor(1, thread_name_prefix="next-batch")
    try:
        waiting: deque[Future[tuple[T, R] | None]] = deque(thread.submit(following) for _ in range(depth))
        while (ready := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(following))
            yield ready
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
