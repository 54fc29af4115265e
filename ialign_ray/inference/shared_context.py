"""Prompts that begin with the same tokens, such as the questions of one passage, in groups that read them once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ialign_ray.inference.batching import Tokens

LEAST = 16
"""Fewest tokens in common that are worth a separate pass."""


@dataclass(frozen=True)
class SharedContext:
    """Prompts with a common beginning."""

    rows: tuple[int, ...]
    """Numbers of the prompts."""
    length: int
    """Tokens in common; less than the shortest prompt has."""


def shared_contexts(prompts: Sequence[Tokens], rows: int) -> list[SharedContext]:
    """Groups of 2 to `rows` prompts that begin alike; prompts that share no long beginning are in no group.

    A prompt joins the group before it in sorted order if this saves tokens: the group's beginning becomes shorter, so
    that its other prompts have to read more themselves.
    """
    order = sorted(range(len(prompts)), key=lambda i: tuple(prompts[i]))
    common = [_common(prompts[a], prompts[b]) for a, b in pairwise(order)]
    found: list[SharedContext] = []
    group, length = order[:1], 0
    for k, row in enumerate(order[1:]):
        joint = min(length, common[k]) if len(group) > 1 else common[k]
        after = common[k + 1] if k + 1 < len(common) else 0
        saves = len(group) * joint > (len(group) - 1) * length and (len(group) > 1 or after <= 2 * joint)
        if joint >= LEAST and saves and len(group) < rows:
            group, length = [*group, row], joint
            continue
        found += [SharedContext(tuple(group), length)] if len(group) > 1 else []
        group, length = [row], 0
    return found + ([SharedContext(tuple(group), length)] if len(group) > 1 else [])


def context_batches(
    groups: Sequence[SharedContext], prompts: Sequence[Tokens], budget: int, cached: int
) -> Iterator[list[SharedContext]]:
    """Groups in batches that read at most `budget` tokens in a pass, and keep `cached` times as many, padding included;
    a group that is larger is a batch alone."""
    rest = {group: max(len(prompts[row]) for row in group.rows) - group.length for group in groups}
    batch: list[SharedContext] = []
    # neighbours need little padding
    for group in sorted(groups, key=lambda g: (-g.length, -rest[g])):
        whole = [*batch, group]
        rows, longest = sum(len(g.rows) for g in whole), max(rest[g] for g in whole)
        kept = rows * (max(g.length for g in whole) + longest)
        read = max(len(whole) * whole[0].length, rows * longest, -(-kept // cached))
        if batch and read > budget:
            yield batch
            whole = [group]
        batch = whole
    if batch:
        yield batch


def _common(first: Tokens, second: Tokens) -> int:
    """Number of equal tokens at the start, without the last one of either."""
    most = min(len(first), len(second)) - 1
    return next((k for k in range(most) if first[k] != second[k]), max(most, 0))
