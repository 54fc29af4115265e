"""Which waiting rows begin next: the oldest always, and with it those of a like length. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What may run together."""

    max_batch: int
    """Rows."""
    max_batch_tokens: int
    """Rows x the most tokens that one of them may have at its end."""
    busy_prefill: int = 512
    """Tokens of prompts that are read between two steps of rows under way: they wait meanwhile."""
    idle_prefill: int = 2048
    """Tokens of prompts that are read at once where no row waits; a few of a burst begin before all are read."""
    padding: float = 0.25
    """Padding for each token of the prompts that are read together: it takes as long to read as they do."""
    free: int = 128
    """Columns, padding or not, that a pass reads about as fast as one."""

    def prefill(self, busy: bool) -> int:
        """Tokens that may be read now."""
        return min(self.max_batch_tokens, self.busy_prefill if busy else self.idle_prefill)


@dataclass(frozen=True)
class WaitingRow:
    """A waiting row: its prompt's tokens, and those of prompt and longest answer."""

    prompt: int
    needs: int


def admit(
    waiting: Sequence[WaitingRow], running: Sequence[int], limits: Limits, *, same_length: bool = False
) -> list[int]:
    """Indices of the waiting rows, oldest first in `waiting`, that begin now; `running` are the needs of the others.

    The oldest goes first and nobody passes it while it does not fit, so none starves. The others follow by nearness
    to its length while little of what is read is padding, or of its very length where the model takes no padding.
    """
    if not waiting or len(running) >= limits.max_batch:
        return []
    head = waiting[0]
    longest = max([head.needs, *running])
    if running and (len(running) + 1) * longest > limits.max_batch_tokens:
        return []
    budget = limits.prefill(bool(running))
    chosen, widest, tokens = [0], head.prompt, head.prompt
    for i in sorted(range(1, len(waiting)), key=lambda i: (abs(waiting[i].prompt - head.prompt), i)):
        wish, rows = waiting[i], len(running) + len(chosen) + 1
        if rows > limits.max_batch or (same_length and wish.prompt != head.prompt):
            break
        wide, long = max(widest, wish.prompt), max(longest, wish.needs)
        columns = (len(chosen) + 1) * wide
        tight = columns <= max(limits.free, (1 + limits.padding) * (tokens + wish.prompt))
        if tight and columns <= budget and rows * long <= limits.max_batch_tokens:
            chosen.append(i)
            widest, longest, tokens = wide, long, tokens + wish.prompt
    return chosen
