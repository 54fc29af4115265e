"""Retrievers: similarities of a question to every text of a pool.

An installed package adds one by an entry point of the group `ialign.retrievers`:

    NEAREST = Retriever("my encoder", lambda texts, ids, seed: MyRanker(texts))

A ranker is called with a `Query` and returns a similarity for each text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ialign_ray.corpus.cleaning.words import normalised_words
from ialign_ray.corpus.identity import text_key
from ialign_ray.incontext.encoders import PREFIXES, VectorSpace, vector_similarities
from ialign_ray.plugins import Extensible

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Query:
    """A question for which texts are searched."""

    row: str
    """Id of its sentence."""
    text: str
    language: str = ""
    """Code of its language, by which encoders centre vectors; empty if unknown."""

    @cached_property
    def key(self) -> bytes:
        """Key that equal texts share."""
        return text_key(self.text)

    @cached_property
    def words(self) -> frozenset[str]:
        """Its words in normal form."""
        return frozenset(words_of(self.text))


Ranker = Callable[[Query], Floats]
"""Function of a question that returns the similarity of each text of the pool (n,), higher is nearer."""
_RRF: Final = 60
"""Constant of reciprocal rank fusion, as in the paper."""
_FIGURES: Final = 6
"""Significant digits of a similarity: libraries on other machines may differ in later ones."""


@dataclass(frozen=True)
class Retriever:
    """One way to find texts that are similar to a question."""

    title: str
    """Name in tables."""
    fit: Callable[[Sequence[str], Sequence[str], int], Ranker]
    """Function of the pool's texts, their ids and a seed, which makes the ranker."""


def terms(texts: Sequence[str]) -> list[list[str]]:
    """Words of each text in normal form, hashed; see `corpus.cleaning.words`."""
    hashes, offsets = normalised_words(pa.array(list(texts), pa.string()))
    words = [str(value) for value in hashes.tolist()]
    return [words[start:stop] for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


@lru_cache(maxsize=1 << 16)
def words_of(text: str) -> tuple[str, ...]:
    """`terms` of a question, which every search of it needs."""
    return tuple(terms([text])[0])


def _random(texts: Sequence[str], ids: Sequence[str], seed: int) -> Ranker:
    """Order of the pool drawn by the question's id."""
    own = _numbers(ids)

    def drawn(question: Query) -> Floats:
        mixed = own ^ _numbers([f"{seed}\x00{question.row}"])
        # the last steps of splitmix64, without which questions would share the order of most texts
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return (mixed ^ (mixed >> np.uint64(31))) / 2.0**64

    return drawn


def _numbers(texts: Sequence[str]) -> NDArray[np.uint64]:
    """A number (n,) for each text, which depends on it alone."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _overlap(texts: Sequence[str], ids: Sequence[str], seed: int) -> Ranker:
    """Jaccard similarity of the sets of words."""
    sets = [frozenset(words) for words in terms(texts)]

    def similar(question: Query) -> Floats:
        own = question.words
        return np.array([len(own & other) / max(1, len(own | other)) for other in sets], dtype=np.float64)

    return similar


def _bm25(texts: Sequence[str], ids: Sequence[str], seed: int) -> Ranker:
    """Okapi BM25 over words."""
    import bm25s

    index, words = bm25s.BM25(), terms(texts)
    if not any(words):
        return lambda question: np.zeros(len(texts))
    index.index(words, show_progress=False)
    known = index.vocab_dict

    def similar(question: Query) -> Floats:
        own = [word for word in words_of(question.text) if word in known]
        return np.asarray(index.get_scores(own), np.float64) if own else np.zeros(len(texts))

    return similar


def _characters(texts: Sequence[str], ids: Sequence[str], seed: int) -> Ranker:
    """Cosine of TF-IDF vectors of character n-grams (3 to 5, within words)."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors: Any = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, dtype=np.float64)
    pool = vectors.fit_transform([f" {text} " for text in texts])  # of an empty text no n-gram would be left

    def similar(question: Query) -> Floats:
        found: Floats = (pool @ vectors.transform([question.text]).T).toarray()[:, 0]
        return found

    return similar


RETRIEVERS: Final = Extensible(
    "ialign.retrievers",
    Retriever,
    {
        "random": Retriever("random", _random),
        "overlap": Retriever("word overlap", _overlap),
        "bm25": Retriever("BM25", _bm25),
        "characters": Retriever("TF-IDF of characters", _characters),
    },
)
"""Every retriever by its name in the experiment file."""


def fitted(
    names: Sequence[str],
    texts: Sequence[str],
    ids: Sequence[str],
    field: str,
    seed: int = 0,
    space: VectorSpace | None = None,
) -> Ranker:
    """The ranker of a retriever, or of several by the sum of their reciprocal ranks, rounded to six digits.

    `space` is what encoders need beyond the texts. Raises ConfigError for an unknown one, which `field` of the
    experiment names.
    """
    rankers = [_ranker(name, texts, ids, field, seed, space or VectorSpace()) for name in names]
    if len(rankers) == 1:
        return lambda question: _rounded(rankers[0](question))
    ranks = ranks_of(ids)

    def similar(question: Query) -> Floats:
        total = np.zeros(len(texts))
        for ranker in rankers:
            order = np.lexsort((ranks, -_rounded(ranker(question))))
            total[order] += 1 / (_RRF + 1 + np.arange(len(order)))
        return _rounded(total)

    return similar


def _ranker(name: str, texts: Sequence[str], ids: Sequence[str], field: str, seed: int, space: VectorSpace) -> Ranker:
    if name.startswith(PREFIXES):
        similarities = vector_similarities(name, texts, field, space)
        return lambda question: similarities(question.text, question.language)
    return RETRIEVERS.find(name, field).fit(texts, ids, seed)


def ranks_of(ids: Sequence[str]) -> NDArray[np.int64]:
    """Place of each id (n,) in their order."""
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def nearest_first(similarities: Floats, ranks: NDArray[np.int64], first: int = 64) -> Iterator[int]:
    """Places of the pool from the nearest to the farthest; equal ones in the order of their `ranks_of` ids.

    Sorts only as many as are asked for, beginning with about `first`.
    """
    total, done = len(similarities), 0
    while done < total:
        if first >= total:
            places = np.arange(total)
        else:
            places = np.flatnonzero(similarities >= -np.partition(-similarities, first - 1)[first - 1])
        order = places[np.lexsort((ranks[places], -similarities[places]))]
        yield from order[done:].tolist()
        done = len(order)
        first = 8 * done


def _rounded(values: Floats) -> Floats:
    scale = 10.0 ** (_FIGURES - 1 - np.floor(np.log10(np.maximum(np.abs(values), 1e-12))))
    rounded: Floats = np.round(values * scale) / scale
    return rounded
