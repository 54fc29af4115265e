"""Pairs of translations, and sentences that are not translations of each other."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from ialign_ray.corpus.identity import text_key

_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_MARK = re.compile(r"[^\w\s]")
_NAME = re.compile(r"[^\W\d_]\w*")


@dataclass(frozen=True)
class Pair:
    """A directed pair of translations."""

    row_id: str
    source_language: str
    target_language: str
    source: str
    target: str


class Negatives:
    """Sentences that are not translations of each other but alike on the surface.

    A negative is another true sentence of the corpus. Of 64 random ones with the same number of numbers as the true
    translation, the most alike in length and punctuation wins; for half of the negatives (the hard ones) words count
    too, and sentences that share a name or a number are added. Translations copy numbers, so if no sentence holds the
    right ones, its own are exchanged for them. Nothing is compared in advance: memory is linear in the corpus, time
    constant per example (0.5 ms).
    """

    CANDIDATES = 64
    """Random sentences compared per negative."""
    RELATED = 16
    """Sentences added because they share a number or, for hard negatives, a name."""

    def __init__(self, sentences: Mapping[str, Mapping[str, str]]) -> None:
        """`sentences`: language -> sentence id -> text."""
        self._sentences = sentences
        self._ids = {language: sorted(by_id) for language, by_id in sentences.items()}
        self._by_count: dict[tuple[str, int], list[str]] = {}
        self._by_word: dict[tuple[str, str], list[str]] = {}
        for language, ids in self._ids.items():
            for i in ids:
                text = sentences[language][i]
                self._by_count.setdefault((language, len(_NUMBER.findall(text))), []).append(i)
                # sets of strings have another order in every process; drawn negatives must not
                for word in sorted(_copied(text)):
                    self._by_word.setdefault((language, word), []).append(i)

    def draw(self, pair: Pair, rng: random.Random) -> str | None:
        """A sentence of the pair's target language that translates another one; None if no such sentence exists."""
        ids, texts = self._ids.get(pair.target_language, []), self._sentences.get(pair.target_language, {})
        if not ids:
            return None
        hard = rng.random() < 0.5
        same = self._by_count.get((pair.target_language, len(_NUMBER.findall(pair.target))), ids)
        # with replacement, which is constant in time and works for any number of sentences
        found = [*rng.choices(same, k=self.CANDIDATES), *self._related(pair, hard, rng)]
        # a dict, because a set would break ties differently in every process
        ranked = sorted(dict.fromkeys(found), key=lambda i: unlikeness(texts[i], pair.target, hard))
        exchanged = ((i, with_numbers(texts[i], pair.target)) for i in ranked)
        # sentences that differ in numbers alone ("Article 5") keep theirs
        for i, text in chain(exchanged, ((i, texts[i]) for i in chain(ranked, ids))):
            if not self._translates(i, text, pair):
                return text
        return None

    def _related(self, pair: Pair, hard: bool, rng: random.Random) -> list[str]:
        """Sentences that share a number with the true translation, or a name that both sides hold."""
        words = [w for w in sorted(_copied(pair.target)) if w[0].isdigit() or (hard and w in pair.source)]
        lists = [self._by_word[key] for w in words if (key := (pair.target_language, w)) in self._by_word]
        return [rng.choice(rng.choice(lists)) for _ in range(self.RELATED)] if lists else []

    def _translates(self, i: str, text: str, pair: Pair) -> bool:
        """Return True if sentence i is the pair's own, or says the same on either side (a doublet in the corpus)."""
        if i == pair.row_id.rpartition(":")[0] or text_key(text) == text_key(pair.target):
            return True
        source = self._sentences.get(pair.source_language, {}).get(i)
        return source is not None and text_key(source) == text_key(pair.source)


def unlikeness(a: str, b: str, words: bool = False) -> float:
    """Distance of two texts in numbers, length and punctuation, and in words if asked; 0 is alike."""
    numbers, marks = Counter(_NUMBER.findall(a)), Counter(_MARK.findall(a))
    numbers.subtract(_NUMBER.findall(b))
    marks.subtract(_MARK.findall(b))
    length = abs(math.log((1 + len(a)) / (1 + len(b))))
    other = sum(map(abs, numbers.values())) + sum(map(abs, marks.values())) + (a[-1:] != b[-1:])
    # weights by trial on FLORES-200: AUC .54 from length and numbers, .65 with punctuation (.74, .89 without)
    return other + 15 * length + (4 * (1 - overlap(a, b)) if words else 0)


def with_numbers(text: str, other: str) -> str:
    """`text` with the numbers of `other` in their order if both have the same count; else unchanged."""
    numbers = iter(_NUMBER.findall(other))
    if len(_NUMBER.findall(text)) != len(_NUMBER.findall(other)):
        return text
    return _NUMBER.sub(lambda _: next(numbers), text)


def overlap(a: str, b: str) -> float:
    """Shared words as a share of all words of two texts (Jaccard)."""
    left, right = set(a.casefold().split()), set(b.casefold().split())
    return len(left & right) / max(1, len(left | right))


def _copied(text: str) -> set[str]:
    """Numbers and capitalised words: what a translation often copies."""
    return {*_NUMBER.findall(text), *(w for w in _NAME.findall(text) if w[0].isupper())}
