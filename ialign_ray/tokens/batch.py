"""Encoded examples, and the layout of a step's examples in forward passes: bucketed by length, or packed in rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

WINDOW = 512
"""Number of examples that are divided optimally together; this takes n^2 / 2 comparisons, 30 ms for 512."""


@dataclass(frozen=True)
class Encoded:
    """One training example as token ids, and its source; of a conversation, the target begins at the first learned
    answer."""

    row_id: str
    epoch: int
    source: str
    """Task and language, or `replay`: the key of the loss curves."""
    task: str
    template: str
    prompt: list[int]
    target: list[int]
    context: list[int] = field(default_factory=list)
    """Places in `target` that are not learned: the turns between two answers of a conversation."""

    @property
    def learned(self) -> int:
        """Number of learned tokens."""
        return len(self.target) - len(self.context)

    @property
    def places(self) -> Sequence[int]:
        """Places in `target` that are learned."""
        if not self.context:
            return range(len(self.target))
        apart = set(self.context)
        return [place for place in range(len(self.target)) if place not in apart]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class Batching:
    """Layout of one run's passes. It determines the order of summation, so it stays the same after a resume."""

    packed: bool = False
    """True for several examples per row, separated by attention and positions; False for one padded example per row."""
    pass_tokens: int = 64
    """Fixed cost of a pass, in tokens: 10 ms or 64 tokens for a model of a million parameters on one CPU."""
    width: int = 256
    """Fewest tokens of a packed row; attention's cost grows with it if the kernel computes the full square."""
    varlen: bool = False
    """True for one packed row per pass, for a kernel that takes the examples' lengths and computes only those."""


BUCKETED = Batching()


def micro_batches(
    examples: Sequence[Encoded], tokens: int, *, apart: bool = False, pass_tokens: int = Batching.pass_tokens
) -> Iterator[list[Encoded]]:
    """Divide examples, sorted by length, into passes of rows x longest <= tokens; an overlong one is a separate pass.

    Of all such divisions it is the one with the fewest padded tokens, with `pass_tokens` added for each pass (dynamic
    programming, by windows of 512 examples). It depends only on the examples, not on their order.

    With prompt and target `apart`, as an encoder-decoder pads them, a pass is rows x (longest prompt + longest target),
    and sorted means by the longer side: 0.70 of the tokens were useful, 0.68 by the sum (simulated mix of tasks).
    """

    def sides(e: Encoded) -> tuple[int, int]:
        return (len(e.prompt), len(e.target)) if apart else (len(e), 0)

    # ids break ties: examples of one length are divided in the same way, whatever their order
    ordered = sorted(examples, key=lambda e: (-max(sides(e)), e.row_id, e.epoch))
    for start in range(0, len(ordered), WINDOW):
        window = ordered[start : start + WINDOW]
        for first, last in _cheapest([sides(e) for e in window], tokens, pass_tokens):
            yield window[first:last]


def _cheapest(sizes: Sequence[tuple[int, int]], tokens: int, pass_tokens: int) -> list[tuple[int, int]]:
    """The cheapest division into ranges; each is (first, one past the last)."""
    # cost[n]: least cost of the first n examples; begins[n]: where the last pass of that division begins
    cost, begins = [0], [0]
    for end in range(1, len(sizes) + 1):
        # the range grows backwards, so its longest sides are updated instead of searched for
        first = second = 0
        best, begin = -1, end - 1
        for k in range(end - 1, -1, -1):
            first, second = max(first, sizes[k][0]), max(second, sizes[k][1])
            padded = (first + second) * (end - k)
            # a longer range only costs more; an example that is too long on its own is still a pass
            if padded > tokens and end - k > 1:
                break
            # equal cost: the longer range, so fewer passes
            if best < 0 or cost[k] + padded + pass_tokens <= best:
                best, begin = cost[k] + padded + pass_tokens, k
        cost.append(best)
        begins.append(begin)
    # `begins` is read from the end; each pass gives the end of the previous one
    ranges, end = [], len(sizes)
    while end:
        ranges.append((begins[end], end))
        end = begins[end]
    return ranges[::-1]


def packed_rows(examples: Sequence[Encoded], width: int, tokens: int) -> Iterator[list[list[Encoded]]]:
    """Passes of rows of several examples, none longer than `width` or the longest example; rows x width <= tokens.

    The longest first, each into the first row that has room (first fit decreasing, at most 11/9 of the fewest rows).
    An example longer than `tokens` is a separate pass.
    """
    ordered = sorted(examples, key=lambda e: (-len(e), e.row_id, e.epoch))
    rows: list[list[Encoded]] = []
    room: list[int] = []
    width = max(min(width, tokens), len(ordered[0]) if ordered else 0)
    for example in ordered:
        k = next((k for k, left in enumerate(room) if left >= len(example)), len(rows))
        if k == len(rows):
            rows.append([])
            room.append(width)
        rows[k].append(example)
        room[k] -= len(example)
    # all rows are padded to one width, so the budget is a number of rows
    count = max(1, tokens // width) if rows else 1
    for start in range(0, len(rows), count):
        yield rows[start : start + count]
