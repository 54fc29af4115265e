"""Choice of the waiting rows that start next: always the oldest, with others of similar length. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a batch and of a prefill."""

    max_batch: int
    """Rows."""
    max_batch_tokens: int
    """Rows x the most tokens that one of them can reach."""
    busy_prefill: int = 512
    """Prompt tokens read between two steps of running rows, which wait for them."""
    idle_prefill: int = 2048
    """Prompt tokens read at once if no row is running, so that the first of a burst begin before all are read."""
    padding: float = 0.25
    """Most padding per prompt token; padding takes as long to read as tokens."""
    free: int = 128
    """Columns, padding included, that a pass reads about as fast as one."""

    def prefill(self, busy: bool) -> int:
        """Return the tokens that may be read now."""
        return min(self.max_batch_tokens, self.busy_prefill if busy else self.idle_prefill)


@dataclass(frozen=True)
class WaitingRow:
    """A waiting row: its prompt's tokens, and those of prompt and longest answer."""

    prompt: int
    needs: int


def admit(
    waiting: Sequence[WaitingRow], running: Sequence[int], limits: Limits, *, same_length: bool = False
) -> list[int]:
    """Return the indices of the waiting rows (oldest first) that begin now; `running` are the running rows' needs.

    The oldest goes first, and no row overtakes it while it does not fit, so none starves. The others follow by nearness
    to its length while padding stays small; with `same_length`, for models without padding, only rows of its length.
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
        row, rows = waiting[i], len(running) + len(chosen) + 1
        if rows > limits.max_batch or (same_length and row.prompt != head.prompt):
            break
        wide, long = max(widest, row.prompt), max(longest, row.needs)
        columns = (len(chosen) + 1) * wide
        tight = columns <= max(limits.free, (1 + limits.padding) * (tokens + row.prompt))
        if tight and columns <= budget and rows * long <= limits.max_batch_tokens:
            chosen.append(i)
            widest, longest, tokens = wide, long, tokens + row.prompt
    return chosen
