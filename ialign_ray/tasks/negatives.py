"""Pairs of translations, and sentences that are not translations of each other."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ialign_ray.corpus.identity import rng as generator
from ialign_ray.corpus.identity import text_key
from ialign_ray.tasks.surface import CHOSEN_BY, FEWEST, SAMPLE, SCALE, Matching, learn, likeness, surface


@dataclass(frozen=True)
class Pair:
    """A directed pair of translations."""

    row_id: str
    source_language: str
    target_language: str
    source: str
    target: str

    @property
    def direction(self) -> str:
        """Both languages, as `eng>jav`."""
        return f"{self.source_language}>{self.target_language}"


@dataclass
class Negatives:
    """Sentences that are not translations of each other but similar on the surface.

    A negative is a true sentence of the corpus, as it is written. Of those that share words with the source, and some
    random ones, the one is chosen whose similarity to the source in trigrams, names, numbers, length and punctuation is
    nearest to that of the true translation. Remaining differences are removed by `Matching`: only pairs are used whose
    similarity is equally frequent among other translations and other mismatches. Memory is linear in the corpus, time
    constant per example (about 1 ms).
    """

    sentences: Mapping[str, Mapping[str, str]]
    """Language -> sentence id -> text."""
    matching: Matching | None = None
    """Choice of pairs; without one, all are used."""

    RANDOM = 24
    """Random sentences compared per negative."""
    RELATED = 72
    """Sentences compared because they share a word with the source."""
    _FREQUENT = 200
    """Most sentences of a word that relates them; more frequent words are ignored."""

    def __post_init__(self) -> None:
        self._ids = {language: sorted(by_id) for language, by_id in self.sentences.items()}
        self._by_word: dict[tuple[str, str], list[str]] = {}
        for language, ids in self._ids.items():
            for i in ids:
                for word in dict.fromkeys(self.sentences[language][i].casefold().split()):
                    self._by_word.setdefault((language, word), []).append(i)

    def draw(self, pair: Pair, rng: random.Random) -> str | None:
        """A sentence of the pair's target language that translates another one; None if no such sentence exists."""
        ids, texts = self._ids.get(pair.target_language, []), self.sentences.get(pair.target_language, {})
        if not ids:
            return None
        # with replacement, which is constant in time and works for any number of sentences; a dict, because a set would
        # break ties differently in every process
        found = list(dict.fromkeys([*self._related(pair, rng), *rng.choices(ids, k=self.RANDOM)]))
        source = surface(pair.source)
        wanted = np.array(likeness(source, surface(pair.target)))
        own = np.array([likeness(source, surface(texts[i])) for i in found])
        distance = np.abs((own - wanted)[:, :CHOSEN_BY] / SCALE).sum(axis=1)
        for k in np.argsort(distance, kind="stable"):
            if not self._translates(found[k], texts[found[k]], pair):
                return texts[found[k]]
        # a corpus of a few sentences, which were all drawn
        return next((texts[i] for i in ids if not self._translates(i, texts[i], pair)), None)

    def uses(self, pair: Pair, second: str, match: bool, rng: random.Random) -> bool:
        """Draw whether a translation or mismatch is used, so that its surface does not give the label away."""
        found = self.matching
        return found is None or rng.random() < found.share(pair.direction, pair.source, second, match)

    def learn_matching(self, pairs: Iterable[Pair]) -> Matching | None:
        """Learn from a sample of each direction which pairs to use; None if all have too few with a mismatch."""
        by_direction: dict[str, list[Pair]] = {}
        for pair in pairs:
            by_direction.setdefault(pair.direction, []).append(pair)
        found = {}
        for direction, own in by_direction.items():
            chance = generator("matching", direction)
            sample = chance.sample(own, min(SAMPLE, len(own)))
            drawn = [(pair, second) for pair in sample if (second := self.draw(pair, chance)) is not None]
            if len(drawn) >= FEWEST:
                true = [likeness(surface(p.source), surface(p.target)) for p, _ in drawn]
                false = [likeness(surface(p.source), surface(second)) for p, second in drawn]
                found[direction] = np.array(true, np.float64), np.array(false, np.float64)
        return learn(found) if found else None

    def _related(self, pair: Pair, rng: random.Random) -> list[str]:
        """Sentences of the target language that share a word with the source, of rare words first."""
        words = dict.fromkeys(pair.source.casefold().split())
        lists = [self._by_word.get((pair.target_language, word), []) for word in words]
        found: list[str] = []
        for ids in sorted((ids for ids in lists if 0 < len(ids) <= self._FREQUENT), key=len):
            found += ids if len(ids) <= 8 else rng.sample(ids, 8)
            if len(found) >= self.RELATED:
                break
        return found[: self.RELATED]

    def _translates(self, i: str, text: str, pair: Pair) -> bool:
        """Return True if sentence i is in the pair, or equals either side (a duplicate in the corpus)."""
        if i == pair.row_id.rpartition(":")[0] or text_key(text) == text_key(pair.target):
            return True
        source = self.sentences.get(pair.source_language, {}).get(i)
        return source is not None and text_key(source) == text_key(pair.source)
