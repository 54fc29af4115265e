"""Label sets of prompts, and the passes that labels with a common beginning share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ialign_ray.errors import DataError
from ialign_ray.inference.batching import Tokens

LabelSet = Sequence[Tokens]


@dataclass(frozen=True)
class LabelTree:
    """The passes that a label set needs.

    A label's *stem* is the label without its last token: what has to be read to score it.

    stems: the stems that no other stem continues, sorted.
    home: for each label, the number of a stem that begins with the label's own.
    """

    stems: tuple[tuple[int, ...], ...]
    home: tuple[int, ...]


def label_trees(sets: Sequence[tuple[tuple[int, ...], ...]]) -> list[LabelTree]:
    """Return the tree of each label set; one for equal objects."""
    # one for each distinct object: all prompts of a suite have one label set, and would each build the same tree; not
    # kept between calls, since the labels of a request to a server may be as long as its body
    made = {id(labels): labels for labels in sets}
    trees = {key: label_tree(labels) for key, labels in made.items()}
    return [trees[id(labels)] for labels in sets]


def label_tree(labels: tuple[tuple[int, ...], ...]) -> LabelTree:
    """Return the tree of one label set."""
    distinct = sorted({label[:-1] for label in labels})
    # In sorted order whatever continues a stem follows it directly.
    stems = tuple(s for s, after in zip(distinct, [*distinct[1:], None]) if after is None or after[: len(s)] != s)
    # a label whose stem another one continues needs no pass: its logits are the first ones of the longer stem's
    home = (next(k for k, stem in enumerate(stems) if stem[: len(x) - 1] == x[:-1]) for x in labels)
    return LabelTree(stems, tuple(home))


def _is_nested(labels: LabelSet | Sequence[LabelSet]) -> bool:
    return bool(len(labels) and len(labels[0]) and hasattr(labels[0][0], "__len__"))


def label_sets(labels: LabelSet | Sequence[LabelSet], rows: int) -> list[tuple[tuple[int, ...], ...]]:
    """Return the label set of each of `rows` prompts. Raises DataError for an empty label, or sets of unequal size."""
    if _is_nested(labels):
        each = cast("Sequence[LabelSet]", labels)
        sets = [tuple(tuple(int(t) for t in label) for label in one) for one in each]
        if len(sets) != rows:
            raise DataError(f"{rows} prompts have {len(sets)} label sets; give one to each, or one for all.")
    else:
        shared = cast("LabelSet", labels)
        sets = [tuple(tuple(int(t) for t in label) for label in shared)] * rows
        refuse_empty([shared] if rows or len(shared) else [])
    refuse_empty(sets)
    if len({len(one) for one in sets}) > 1:
        raise DataError("the label sets differ in size; score prompts with different numbers of labels apart.")
    return sets


def refuse_empty(sets: Sequence[LabelSet]) -> None:
    """Raise DataError for an empty label set, or a label without tokens."""
    for i, one in enumerate(sets):
        if not len(one):
            raise DataError(f"label set {i} is empty; give at least one label.")
        for k, label in enumerate(one):
            if not len(label):
                raise DataError(f"label {k} of row {i} has no tokens; check how the label was tokenised.")
