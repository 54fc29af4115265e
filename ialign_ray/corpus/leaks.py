"""Decontamination: find evaluation sentences in training texts, exactly by hash and roughly by word n-grams.

A text leaks if it equals an evaluation sentence, or contains at least the share `threshold` of one's distinct n-grams.
The share is of the evaluation sentence, so a sentence inside a long instruction is found too. Sentences with fewer than
n words have no n-gram and are found by equality only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.config.base import Section
from ialign_ray.corpus.cleaning.step import Mask, Outcome, Scope
from ialign_ray.corpus.cleaning.words import ngram_hashes, normalised_words, text_hashes
from ialign_ray.storage import json_hash, once, read_json, write_json

NO_WORDS = np.uint64(0)
"""The hash of a text without letter or digit."""
Hashes = npt.NDArray[np.uint64]
_TEXTS = 20_000
"""Texts whose n-grams are in memory at a time."""
_ARRAYS = ("keys", "key_origins", "ngrams", "owners", "sizes", "sentence_origins")


@dataclass(frozen=True)
class EvaluationIndex:
    """Sentences that no training text may contain."""

    keys: Hashes
    """`text_hashes` of each, ascending; empty if exact search is off."""
    key_origins: npt.NDArray[np.int64]
    """Number of the origin of each."""
    ngrams: Hashes
    """All n-grams of all sentences, ascending."""
    owners: npt.NDArray[np.int64]
    """The sentence that each n-gram belongs to; an n-gram of several sentences is repeated."""
    sizes: npt.NDArray[np.int64]
    """Distinct n-grams of each sentence."""
    sentence_origins: npt.NDArray[np.int64]
    """Number of the origin of each sentence."""
    origins: tuple[str, ...]
    """Names of the suites or sets that the sentences are from; a sentence of several is counted to the first."""
    n: int
    threshold: float | None
    """None if overlap search is off."""

    @classmethod
    def build(
        cls,
        texts: Iterable[str] | Mapping[str, Iterable[str]],
        *,
        exact: bool = True,
        n: int = 5,
        threshold: float | None = 0.5,
        only_exact: Mapping[str, Iterable[str]] | None = None,
    ) -> EvaluationIndex:
        """Index evaluation sentences, by the name of their origin; those of `only_exact` are found by equality only."""
        named = texts if isinstance(texts, Mapping) else {"": texts}
        origins = tuple(dict.fromkeys([*named, *(only_exact or {})]))
        first = _first_origins(named, origins)
        equal = _first_origins(only_exact or {}, origins)
        distinct = sorted(first)
        listed = [*distinct, *equal] if exact else []
        keys, places = np.unique(text_hashes(pa.array(listed, pa.string()))[0], return_index=True)
        owner = np.array([*(first[t] for t in distinct), *equal.values()], np.int64)[places] if listed else places
        # otherwise one such evaluation text would drop every text without letters
        keys, owner = keys[keys != NO_WORDS], owner[keys != NO_WORDS]
        searched = distinct if threshold is not None else []
        hashes, offsets = _distinct_ngrams(pa.array(searched, pa.string()), n)
        owners = np.repeat(np.arange(len(searched), dtype=np.int64), np.diff(offsets))
        # sorted, so that a lookup is two binary searches
        order = np.argsort(hashes, kind="stable")
        of_sentences = np.array([first[text] for text in searched], np.int64)
        sizes = np.diff(offsets)
        return cls(keys, owner, hashes[order], owners[order], sizes, of_sentences, origins, n, threshold)

    def exact(self, texts: pa.Array | pa.ChunkedArray) -> Mask:
        """Mask of the texts that equal an evaluation sentence."""
        return np.isin(text_hashes(texts)[0], self.keys)

    def overlap(self, texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """For each text, the largest share of one evaluation sentence's n-grams that it contains, 0 to 1."""
        shares = np.zeros(len(texts))
        rows, _, held = self._shared(texts)
        # a text may overlap several sentences; the largest share decides
        np.maximum.at(shares, rows, held)
        return shares

    def held(self, texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int64]:
        """Numbers of the sentences of which some text contains at least the threshold's share."""
        if self.threshold is None:
            return np.zeros(0, np.int64)
        _, sentences, shares = self._shared(texts)
        return np.unique(sentences[shares >= self.threshold])

    def _shared(
        self, texts: pa.Array | pa.ChunkedArray
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Every text and sentence with a common n-gram: their numbers, and the share of the sentence's n-grams in the
        text."""
        none = np.zeros(0, np.int64)
        if not len(self.ngrams):
            return none, none, np.zeros(0)
        hashes, offsets = _distinct_ngrams(texts, self.n)
        rows = np.repeat(np.arange(len(texts)), np.diff(offsets))
        first, last = np.searchsorted(self.ngrams, hashes, "left"), np.searchsorted(self.ngrams, hashes, "right")
        counts = last - first
        if not (total := int(counts.sum())):
            return none, none, np.zeros(0)
        # one row for each n-gram of a text and each sentence that has it
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        sentence = self.owners[np.repeat(first, counts) + within]
        pairs, shared = np.unique(np.stack([np.repeat(rows, counts), sentence]), axis=1, return_counts=True)
        return pairs[0], pairs[1], shared / self.sizes[pairs[1]]

    def origins_of(self, texts: pa.Array | pa.ChunkedArray) -> list[str | None]:
        """For each text, the origin of the sentence that it equals, or else has the largest share of; None if it has no
        common n-gram with any."""
        found = np.full(len(texts), -1, np.int64)
        rows, sentences, shares = self._shared(texts)
        for place in np.argsort(shares, kind="stable"):  # the largest share is written last
            found[rows[place]] = self.sentence_origins[sentences[place]]
        hashes = text_hashes(texts)[0]
        equal = np.isin(hashes, self.keys)
        found[equal] = self.key_origins[np.searchsorted(self.keys, hashes[equal])]
        return [None if number < 0 else self.origins[number] for number in found]

    def leaks(self, texts: pa.Array | pa.ChunkedArray) -> tuple[Mask, Mask]:
        """Masks of the texts that leak: by equality, and (others) by overlap."""
        exact = self.exact(texts)
        return exact, self.overlaps(texts) & ~exact

    def overlaps(self, texts: pa.Array | pa.ChunkedArray) -> Mask:
        """Mask of the texts that contain the threshold's share of an evaluation sentence, or all of it."""
        if self.threshold is None:
            return np.zeros(len(texts), bool)
        return self.overlap(texts) >= self.threshold

    def save(self, root: Path) -> str:
        """Write the index once into a folder of `root` named by its content; return the folder's name."""
        name = self.digest

        def write(folder: Path) -> None:
            arrays = {name: getattr(self, name) for name in _ARRAYS}
            np.savez(folder / "index.npz", **arrays)
            write_json(folder / "settings.json", self._settings)

        once(root / name, write)
        return name

    @cached_property
    def digest(self) -> str:
        """Hash of the index's content."""
        return json_hash([*(getattr(self, name).tobytes().hex() for name in _ARRAYS), self._settings])[:32]

    @property
    def _settings(self) -> dict[str, Any]:
        return {"n": self.n, "threshold": self.threshold, "origins": self.origins}

    @classmethod
    def load(cls, folder: Path) -> EvaluationIndex:
        """Read an index that `save` wrote."""
        settings = read_json(folder / "settings.json")
        with np.load(folder / "index.npz") as arrays:
            origins = tuple(settings.pop("origins"))
            return cls(**{name: arrays[name] for name in _ARRAYS}, origins=origins, **settings)


def _first_origins(named: Mapping[str, Iterable[str]], origins: Sequence[str]) -> dict[str, int]:
    """Text -> number of the first origin that has it."""
    first: dict[str, int] = {}
    for name, texts in named.items():
        number = origins.index(name)
        for text in texts:
            first.setdefault(text, number)
    return first


def sentences_found(
    sentences: Iterable[str], texts: pa.Array, parts: pa.Array, *, n: int, threshold: float | None
) -> set[str]:
    """The sentences that equal one of `texts` or of their `parts`, or overlap a text: `leaks` from the other side."""
    distinct = sorted(set(sentences))
    keys = text_hashes(pa.array(distinct, pa.string()))[0]
    known = np.concatenate([text_hashes(texts)[0], text_hashes(parts)[0]])
    places = np.flatnonzero(np.isin(keys, known) & (keys != NO_WORDS))
    index = EvaluationIndex.build(distinct, exact=False, n=n, threshold=threshold)
    overlapping = [index.held(texts[k : k + _TEXTS]) for k in range(0, len(texts), _TEXTS)]
    return {distinct[place] for place in np.concatenate([places, *overlapping]).tolist()}


class LeakSettings(Section):
    """The search for leaks as cleaning steps."""

    step: Literal["leaks", "overlaps"] = "leaks"
    """`leaks` finds texts that equal an evaluation sentence, `overlaps` those that contain much of one."""
    index: str
    """Digest of the index, the name of its folder."""
    folder: str
    """Path of the parent of the index's folder."""


class LeakStep:
    """Drops a row in every language if one of its texts leaks."""

    version = 2

    def __init__(self, settings: LeakSettings) -> None:
        self._index = _open(str(Path(settings.folder, settings.index)))
        self._exact = settings.step == "leaks"

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge a table."""
        leaked = np.zeros(table.num_rows, bool)
        for code in scope.languages:
            leaked |= self._index.exact(table[code]) if self._exact else self._index.overlaps(table[code])
        # in every language: a translation of an evaluation sentence gives it away too
        return Outcome(table, {c: leaked & np.asarray(table[c].is_valid()) for c in scope.languages})


@lru_cache(maxsize=2)
def _open(folder: str) -> EvaluationIndex:
    return EvaluationIndex.load(Path(folder))


def _distinct_ngrams(texts: pa.Array | pa.ChunkedArray, n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Distinct n-gram hashes of each text, and where each text's begin."""
    hashes, offsets = ngram_hashes(*normalised_words(texts), n)
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    # by text and hash: repetitions within a text are adjacent
    order = np.lexsort((hashes, rows))
    hashes, rows = hashes[order], rows[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    counts = np.bincount(rows[first], minlength=len(offsets) - 1)
    return hashes[first], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
