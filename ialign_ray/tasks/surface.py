"""Surface similarity of two sentences, and the choice of pairs so that it does not give a label away.

Translations share names, numbers, loanwords and length; other sentences of a corpus share less of them. A classifier
that sees only this separated the labels of a cross-lingual similarity task with an AUC of .95 on FLORES-200. So pairs
are kept by matching on a propensity score (Rosenbaum and Rubin, 1983): of each score as many translations as
mismatches.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_MARK = re.compile(r"[^\w\s]")
_WORD = re.compile(r"[^\W\d_]\w*")
_BITS = 8192
MATCHING_VERSION = 1
"""Raised whenever the same pairs give a different matching: part of its cache key."""
BINS = 12
"""Intervals of the score within which translations and mismatches are matched."""
FEWEST = 40
"""Fewest pairs of a direction that is matched; fewer would be matched by chance."""
SAMPLE = 1_000
"""Most pairs of one direction that the score is learned from."""
TREES = 150


@dataclass(frozen=True)
class SurfaceFeatures:
    """Compared properties of one sentence."""

    length: int
    """Characters."""
    numbers: tuple[str, ...]
    marks: tuple[str, ...]
    names: frozenset[str]
    """Words with a capital, and numbers."""
    trigrams: int
    """Set of the character trigrams, hashed to bits."""
    last: str
    """Last character, if it is punctuation."""
    words: frozenset[str]
    """Words, in lower case, with their punctuation."""
    characters: frozenset[str]


@lru_cache(maxsize=32_768)
def surface(text: str) -> SurfaceFeatures:
    """Return the surface of a sentence."""
    folded = f" {text.casefold()} "
    bits = 0
    for k in range(len(folded) - 2):
        bits |= 1 << (zlib.crc32(folded[k : k + 3].encode()) % _BITS)
    return SurfaceFeatures(
        len(text),
        tuple(sorted(_NUMBER.findall(text))),
        tuple(sorted(_MARK.findall(text))),
        copied(text),
        bits,
        text[-1:] if _MARK.match(text[-1:]) else "",
        frozenset(text.casefold().split()),
        frozenset(text),
    )


def copied(text: str) -> frozenset[str]:
    """Numbers and capitalised words, which a translation often copies."""
    return frozenset((*_NUMBER.findall(text), *(w for w in _WORD.findall(text) if w[0].isupper())))


def likeness(first: SurfaceFeatures, second: SurfaceFeatures) -> tuple[float, ...]:
    """Return the features of similarity of two sentences.

    Trigrams (Dice), names in common and in one of them, numbers in one of them, relative length (log), marks in one
    of them, another last mark. Then what only the score reads: trigrams, numbers, words and characters in common, both
    lengths, and marks and names of the second.
    """
    shared = (first.trigrams & second.trigrams).bit_count()
    return (
        2 * shared / max(1, first.trigrams.bit_count() + second.trigrams.bit_count()),
        len(first.names & second.names),
        len(first.names ^ second.names),
        _difference(first.numbers, second.numbers),
        math.log((1 + second.length) / (1 + first.length)),
        _difference(first.marks, second.marks),
        float(first.last != second.last),
        shared,
        len(set(first.numbers) & set(second.numbers)),
        len(first.words & second.words),
        len(first.characters & second.characters),
        first.length,
        second.length,
        len(second.marks),
        len(second.names),
    )


CHOSEN_BY = 7
"""Number of features by which a mismatch is chosen."""
SCALE = np.array([0.03, 0.5, 1.0, 0.5, 0.08, 1.0, 0.5])
"""Differences of `likeness` with equal weight when a mismatch is chosen, tuned on FLORES-200 and the pocket data."""


def _difference(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    if first == second:
        return 0
    left, right = Counter(first), Counter(second)
    return sum((left - right).values()) + sum((right - left).values())


@dataclass(frozen=True)
class Tree:
    """One regression tree: `feature` is -2 at a leaf."""

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def __call__(self, features: Sequence[float]) -> float:
        """The tree's share of the score of one pair."""
        node = 0
        while self.feature[node] >= 0:
            below = features[self.feature[node]] <= self.threshold[node]
            node = self.left[node] if below else self.right[node]
        return self.value[node]


@dataclass(frozen=True)
class Direction:
    """Pairs of one direction, and the shares of them that are used."""

    mean: float
    """Mean trigram similarity of its translations, to which pairs are relative."""
    translations: tuple[float, ...]
    """Share of the translations that is used, by bin of the score."""
    mismatches: tuple[float, ...]
    """Share of the mismatches that is used, by bin."""
    auc: float
    """AUC of the score over all pairs."""
    auc_used: float
    """AUC of the score over the pairs that are used."""
    used: float
    """Share of all pairs that is used."""


@dataclass(frozen=True)
class Matching:
    """Choice of pairs, learned from a sample of the corpus."""

    trees: tuple[Tree, ...]
    """Boosted trees, whose sum is the score: the log odds of a translation, up to a constant."""
    edges: tuple[float, ...]
    """Scores between the bins (BINS - 1)."""
    directions: dict[str, Direction]

    def share(self, direction: str, first: str, second: str, match: bool) -> float:
        """Probability that a pair is used; 1 for an unknown direction."""
        own = self.directions.get(direction)
        if own is None:
            return 1.0
        features = likeness(surface(first), surface(second))
        features = (*features, features[0] - own.mean)
        place = int(np.searchsorted(self.edges, sum(tree(features) for tree in self.trees)))
        return (own.translations if match else own.mismatches)[place]

    def plain(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Matching:
        """Read the output of `plain`."""

        def lists(fields: Mapping[str, Any]) -> dict[str, Any]:
            return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}

        return cls(
            tuple(Tree(**lists(tree)) for tree in plain["trees"]),
            tuple(plain["edges"]),
            {name: Direction(**lists(own)) for name, own in plain["directions"].items()},
        )


def learn(samples: Mapping[str, tuple[Floats, Floats]]) -> Matching:
    """Learn which pairs to use from each direction's likeness [n, 15] of translations and of their mismatches.

    The score is learned from every other pair, and the shares from the rest, on which it is not overfitted.
    """
    from sklearn.ensemble import GradientBoostingClassifier

    means = {name: float(true[:, 0].mean()) for name, (true, _) in samples.items()}
    rows, labels, owners = [], [], []
    for name, sides in samples.items():
        for label, features in zip((True, False), sides):
            rows.append(np.column_stack([features, features[:, 0] - means[name]]))
            labels.append(np.full(len(features), label))
            owners.append(np.full(len(features), name))
    terms, match, owner = np.concatenate(rows), np.concatenate(labels), np.concatenate(owners)
    places = np.concatenate([np.arange(len(part)) for part in rows])
    learned, judged = places % 2 == 0, places % 2 == 1
    boosted = GradientBoostingClassifier(
        n_estimators=TREES, max_depth=3, learning_rate=0.1, subsample=0.7, min_samples_leaf=5, random_state=0
    ).fit(terms[learned], match[learned])
    trees = tuple(_tree(each.tree_, boosted.learning_rate) for each in boosted.estimators_[:, 0])
    scores = np.array([sum(tree(row) for tree in trees) for row in terms.tolist()])
    edges = np.quantile(scores[judged], np.linspace(0, 1, BINS + 1)[1:-1])
    place = np.searchsorted(edges, scores)
    directions = {}
    for name in samples:
        own = judged & (owner == name)
        of = [np.bincount(place[own & side], minlength=BINS) / max(1, (own & side).sum()) for side in (match, ~match)]
        kept = np.minimum(*of)
        shares = [np.divide(kept, each, out=np.zeros(BINS), where=each > 0) for each in of]
        taken = np.where(match, shares[0][place], shares[1][place])
        directions[name] = Direction(
            means[name],
            tuple(shares[0].round(6).tolist()),
            tuple(shares[1].round(6).tolist()),
            auc=_auc(scores[own], match[own], np.ones(int(own.sum()))),
            auc_used=_auc(scores[own], match[own], taken[own]),
            used=float(kept.sum()),
        )
    return Matching(trees, tuple(edges.tolist()), directions)


def _tree(found: Any, rate: float) -> Tree:
    return Tree(
        tuple(found.feature.tolist()),
        tuple(found.threshold.tolist()),
        tuple(found.children_left.tolist()),
        tuple(found.children_right.tolist()),
        tuple((found.value[:, 0, 0] * rate).tolist()),
    )


def _auc(scores: Floats, match: NDArray[np.bool_], weight: Floats) -> float:
    """Weighted AUC; ties count half. NaN without both classes."""
    order = np.argsort(scores[~match])
    negatives, below = scores[~match][order], np.concatenate([[0.0], np.cumsum(weight[~match][order])])
    sides = [below[np.searchsorted(negatives, scores[match], side)] for side in ("left", "right")]
    whole = weight[match].sum() * below[-1]
    return float((weight[match] * (sides[0] + sides[1]) / 2).sum() / whole) if whole > 0 else math.nan
