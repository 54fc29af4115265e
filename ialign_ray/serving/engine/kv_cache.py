"""Keys and values of running rows in one buffer per layer: rows join and leave without copying the others.

All rows end in the same column (left padding), so a step writes one column for all of them in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

SPARE = 64
"""Free columns behind the last token of a new buffer: its content is copied once in 64 steps instead of at each."""


@dataclass
class Span:
    """The used part of the buffers: rows [0, rows) and columns [begin, end); every row's last token is in the last.

    All layers share one span, so that a step moves it once.
    """

    rows: int = 0
    begin: int = 0
    end: int = 0


class SlotLayer(DynamicLayer):  # type: ignore[misc]  # transformers has no types
    """One layer's buffers [capacity, heads, columns, size]; a step writes one column in place.

    transformers' own dynamic layer copies all keys and values at every step. Layers with a sliding window keep all
    columns too; their mask hides old ones.
    """

    def __init__(self, span: Span) -> None:
        super().__init__()
        self.span = span

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the step's column; return all columns of all rows up to it."""
        span, width = self.span, key_states.shape[-2]
        written = slice(span.end, span.end + width)
        self.keys[: span.rows, :, written] = key_states
        self.values[: span.rows, :, written] = value_states
        seen = (slice(0, span.rows), slice(None), slice(span.begin, span.end + width))
        return self.keys[seen], self.values[seen]

    def get_seq_length(self) -> int:
        """Return the number of columns before the step's."""
        return self.span.end - self.span.begin


class SlotCache(Cache):  # type: ignore[misc]  # transformers has no types
    """A cache for `forward` whose rows join and leave between steps."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.span = Span()

    def join(self, fresh: Cache) -> None:
        """Add the rows of a left-padded cache behind the present rows."""
        span, (count, width) = self.span, (fresh.layers[0].keys.shape[0], fresh.layers[0].keys.shape[-2])
        if not span.rows:
            span.begin = span.end = 0
        self._reserve(fresh, span.rows + count, max(width, span.end - span.begin))
        place = (slice(span.rows, span.rows + count), slice(None), slice(span.end - width, span.end))
        for own, new in zip(self.layers, fresh.layers, strict=True):
            own.keys[place], own.values[place] = new.keys, new.values
        span.rows += count
        span.begin = min(span.begin, span.end - width)

    def leave(self, row: int) -> None:
        """Free a row; the last one moves into its place.

        The freed place is cleared: masked values are multiplied by 0, and a row that ended with NaN would
        reach the next row in its place.
        """
        span = self.span
        span.rows -= 1
        columns = slice(0, span.end)
        for layer in self.layers:
            for held in (layer.keys, layer.values):
                if row != span.rows:
                    held[row, :, columns] = held[span.rows, :, columns]
                held[span.rows, :, columns] = 0

    def narrow(self, width: int) -> None:
        """Set the number of used columns to that of the longest row, so that attention reads no more."""
        self.span.begin = self.span.end - width

    def room(self) -> None:
        """Make room for one more column."""
        if self.layers and self.span.end == self.layers[0].keys.shape[-2]:
            self._move(self.span.rows, self.span.end - self.span.begin)

    def column_count(self) -> int:
        """Count the token places in the buffers, used or not."""
        return self.layers[0].keys.shape[0] * self.layers[0].keys.shape[-2] if self.layers else 0

    def _reserve(self, fresh: Cache, rows: int, width: int) -> None:
        if not self.layers:
            for new in fresh.layers:
                layer = SlotLayer(self.span)
                layer.lazy_initialization(new.keys, new.values)
                layer.keys, layer.values = (t.new_zeros(0, t.shape[1], 0, t.shape[3]) for t in (new.keys, new.values))
                self.layers.append(layer)
        if rows > len(self.layers[0].keys) or width > self.span.end:
            self._move(rows, width)

    def _move(self, rows: int, width: int) -> None:
        """Copy the used part to the end of the first `width` columns of new buffers for `rows` rows.

        Both sizes follow the current need, so that one long row does not keep the buffers long forever. Rows are
        rounded up to a power of two: a batch that grows row by row is copied a logarithmic number of times.
        """
        span = self.span
        used = span.end - span.begin
        shape = (1 << (rows - 1).bit_length(), width + SPARE)
        for layer in self.layers:
            layer.keys, layer.values = (self._moved(old, *shape, width, used) for old in (layer.keys, layer.values))
        span.begin, span.end = width - used, width

    def _moved(self, old: Tensor, capacity: int, columns: int, width: int, used: int) -> Tensor:
        # zeros: masked values are multiplied by 0, and uninitialised memory may contain NaN
        new = torch.zeros(capacity, old.shape[1], columns, old.shape[3], dtype=old.dtype, device=old.device)
        span = self.span
        new[: span.rows, :, width - used : width] = old[: span.rows, :, span.begin : span.end]
        return new
