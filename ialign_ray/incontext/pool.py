"""Pools of exemplars, and the search for those of one question, which never finds the question itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ialign_ray.corpus.identity import text_key
from ialign_ray.errors import DataError
from ialign_ray.incontext.encoders import VectorSpace
from ialign_ray.incontext.retrievers import Floats, Query, Ranker, fitted, nearest_first, ranks_of, terms

AUTO_K: Final = 32
"""Exemplars that `k: auto` begins with."""
NEAR: Final = 0.8
"""Jaccard similarity of their words from which two texts are near duplicates."""
_CONSIDERED: Final = 64
"""Nearest candidates among which diversity chooses."""


@dataclass(frozen=True)
class Neighbours:
    """Places in the pool that a question found, nearest first."""

    places: list[int]
    refused: int
    """Nearer ones that are the question, its translation, or nearly its text."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Texts that may be put into a prompt; none is a test row."""

    ids: Sequence[str]
    """Ids of the sentences (n,), equal for a sentence and its translations."""
    languages: Sequence[str]
    texts: Sequence[str]
    """Texts by which they are found."""
    labels: Sequence[int] = ()
    """Label of each, for exemplars; empty for others."""
    shares_ids: bool = True
    """True if the questions' ids are of the same file: equal ones are the same sentence."""

    def __post_init__(self) -> None:
        if not len(self.texts):
            raise DataError("the pool of a context is empty; name another suite or language")

    @cached_property
    def keys(self) -> list[str]:
        """Identity of each text, by which equal similarities are ordered."""
        return [f"{i}\x00{code}" for i, code in zip(self.ids, self.languages, strict=True)]

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Place of each text in the order of `keys`."""
        return ranks_of(self.keys)

    @cached_property
    def _words(self) -> list[frozenset[str]]:
        return [frozenset(words) for words in terms(self.texts)]

    @cached_property
    def _text_keys(self) -> list[bytes]:
        return [text_key(text) for text in self.texts]

    def is_question(self, place: int, question: Query) -> bool:
        """Return True if a text is the question, in any language, or nearly its text."""
        if self.shares_ids and self.ids[place] == question.row:
            return True
        if self._text_keys[place] == question.key:
            return True
        own, other = question.words, self._words[place]
        return len(own & other) >= NEAR * max(1, len(own | other))


@dataclass(frozen=True, eq=False)
class Search:
    """A fitted search of a pool."""

    pool: Pool
    ranker: Ranker
    k: int
    balanced: bool = False
    diversity: float = 0.0

    @classmethod
    def of(
        cls,
        pool: Pool,
        retriever: Sequence[str],
        k: int,
        field: str,
        seed: int = 0,
        space: VectorSpace | None = None,
        **more: Any,
    ) -> Search:
        """Fit retrievers to a pool. Raises ConfigError for an unknown retriever, DataError if k is above its size.

        `space` is what encoders need beyond the pool: the open model, and sample texts of other languages.
        """
        if k > len(pool.texts):
            raise DataError(f"{field}.k is {k}, but the pool has {len(pool.texts)} texts; lower it")
        space = replace(space or VectorSpace(), languages=pool.languages)
        return cls(pool, fitted(retriever, pool.texts, pool.keys, f"{field}.retriever", seed, space), k, **more)

    def find(self, question: Query) -> Neighbours:
        """The k texts for a question. Raises DataError if fewer than k are left without it."""
        similarities = self.ranker(question)
        taken: list[int] = []
        refused = 0
        limit = _CONSIDERED if self.diversity else self.k
        counts = dict.fromkeys(self.pool.labels, 0)
        quota = -(-self.k // max(1, len(counts))) if self.balanced else self.k
        later: list[int] = []  # of labels that have their share already
        for place in nearest_first(similarities, self.pool.ranks, max(64, 2 * self.k)):
            if len(taken) >= limit:
                break
            if self.pool.is_question(place, question):
                refused += 1
                continue
            label = self.pool.labels[place] if self.pool.labels else None
            if self.balanced and label is not None and counts[label] >= quota:
                later.append(place)
                continue
            if label is not None:
                counts[label] += 1
            taken.append(place)
        taken = [*taken, *later][:limit]
        if len(taken) < self.k:
            raise DataError(
                f"question {question.row!r} finds {len(taken)} of {self.k} texts, as {refused} others of the pool are "
                "the question or nearly its text; lower k, or name a larger pool"
            )
        return Neighbours(self._diverse(taken, similarities) if self.diversity else taken, refused)

    def _diverse(self, candidates: list[int], similarities: Floats) -> list[int]:
        """Maximal marginal relevance among the candidates, with similarities scaled to [0, 1]."""
        values = similarities[candidates]
        spread = float(values.max() - values.min()) or 1.0
        near: Floats = (values - values.min()) / spread
        own = self._alike(candidates)
        taken: list[int] = []
        while len(taken) < self.k:
            closest = own[:, taken].max(axis=1) if taken else np.zeros(len(candidates))
            worth = (1 - self.diversity) * near - self.diversity * closest
            worth[taken] = -np.inf
            taken.append(int(np.argmax(np.round(worth, 9))))
        return [candidates[place] for place in taken]

    def _alike(self, places: list[int]) -> NDArray[np.float64]:
        sets = [self.pool._words[place] for place in places]
        return np.array([[len(a & b) / max(1, len(a | b)) for b in sets] for a in sets], dtype=np.float64)
