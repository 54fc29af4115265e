"""Tokenizer fitness: how well a tokenizer's vocabulary covers each language, and what to do where it does not.

Fertility (tokens per word) is the usual measure (Rust et al. 2021, arXiv 2012.15613). Words are what white space
separates; for scripts without spaces, whose "words" would be whole sentences, it is tokens per character.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from ialign_ray.languages import script_of

SAMPLE = 2000
"""Texts of a language that are measured."""
WORSE = 2.0
"""Multiple of the best old language's tokens per word from which a language counts as badly covered."""
WORST = {"word": 4.0, "character": 1.0}
"""Tokens per unit from which a language counts as badly covered, whatever the old ones have."""
UNKNOWN, BYTES, LOSSY = 0.005, 0.01, 0.01
"""Shares of unknown tokens, of byte-fallback tokens and of texts that do not survive, from which we warn."""

_SPACELESS = frozenset(
    ("Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Hans", "Hant", "Hani", "Jpan", "Hira", "Kana", "Bopo", "Java", "Bali",
     "Lana", "Talu")
)  # fmt: skip
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BATCH = 256


@dataclass(frozen=True)
class Fitness:
    """Coverage of one language by one tokenizer."""

    language: str
    """Language code."""
    texts: int
    """Texts measured."""
    unit: Literal["word", "character"]
    """Unit of fertility; characters where the script puts no spaces between words."""
    fertility: float
    """Tokens per unit."""
    tokens_per_character: float
    """White space counts as characters."""
    tokens_per_byte: float
    """Tokens per byte of UTF-8."""
    unknown: float
    """Share of unknown tokens; 0 for byte-level tokenizers."""
    byte_fallback: float
    """Share of tokens that are single bytes of characters outside the vocabulary (`<0xE1>`, Llama style)."""
    round_trip_failures: int
    """Texts that decoding does not restore, up to white space."""
    lengths: tuple[int, ...]
    """Tokens of each text, shortest first."""

    def percentile(self, percent: int) -> int:
        """Length in tokens that this percentage of the texts does not exceed (nearest rank); 0 without texts."""
        rank = -(-percent * len(self.lengths) // 100)
        return self.lengths[max(rank, 1) - 1] if self.lengths else 0

    def over(self, limit: int) -> float:
        """Share of the texts with more tokens than `limit`."""
        return sum(n > limit for n in self.lengths) / max(1, len(self.lengths))

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON, with percentiles instead of every length."""
        plain = {k: v for k, v in vars(self).items() if k != "lengths"}
        return plain | {"length": {"50": self.percentile(50), "90": self.percentile(90), "99": self.percentile(99),
                                   "max": self.percentile(100)}}  # fmt: skip


def fitness(
    tokenizer: Any, texts: Mapping[str, Sequence[str]], *, sample: int = SAMPLE, seed: int = 0
) -> dict[str, Fitness]:
    """Measure a transformers tokenizer on a seeded sample of each language's texts; empty texts do not count."""
    return {
        code: measure(tokenizer, code, choose([t for t in lines if t.strip()], sample, seed))
        for code, lines in texts.items()
    }


def choose(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Sample `count` of the texts at most, the same for the same seed, in their order."""
    if len(texts) <= count:
        return list(texts)
    return [texts[k] for k in sorted(random.Random(seed).sample(range(len(texts)), count))]


def measure(tokenizer: Any, language: str, texts: Sequence[str]) -> Fitness:
    """Measure a transformers tokenizer on all of these texts of one language, without special tokens."""
    ids = list(_encoded(tokenizer, texts))
    unit: Literal["word", "character"] = "character" if script_of(language) in _SPACELESS else "word"
    tokens, characters = sum(map(len, ids)), sum(map(len, texts))
    # a space inside such a script ends a phrase; readers do not count it as a character
    units = sum(len(t.split()) if unit == "word" else len("".join(t.split())) for t in texts)
    in_bytes = sum(len(t.encode("utf-8", "replace")) for t in texts)
    bytes_ids = {i for piece, i in tokenizer.get_vocab().items() if _BYTE.fullmatch(piece)}
    return Fitness(
        language=language,
        texts=len(texts),
        unit=unit,
        fertility=_ratio(tokens, units),
        tokens_per_character=_ratio(tokens, characters),
        tokens_per_byte=_ratio(tokens, in_bytes),
        unknown=_ratio(sum(i == tokenizer.unk_token_id for row in ids for i in row), tokens),
        byte_fallback=_ratio(sum(i in bytes_ids for row in ids for i in row), tokens),
        round_trip_failures=sum(not survives(tokenizer, t, row) for t, row in zip(texts, ids, strict=True)),
        lengths=tuple(sorted(map(len, ids))),
    )


def survives(tokenizer: Any, text: str, ids: Sequence[int]) -> bool:
    """Return True if decoding gives the text back, up to white space."""
    decoded: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return decoded.split() == text.split()


def warnings(results: Mapping[str, Fitness], old: Collection[str]) -> list[str]:
    """One sentence for each way in which a language is badly covered, with numbers and the cure.

    `old` are the languages that the base model knows (L1); the best of them that is counted in words is what
    the others are compared with.
    """
    known = [r for r in results.values() if r.language in old and r.unit == "word" and r.texts]
    best = min(known, key=lambda r: r.fertility, default=None)
    return [sentence for r in results.values() if r.texts for sentence in _faults(r, best)]


def _faults(r: Fitness, best: Fitness | None) -> Iterator[str]:
    cure = "set model.vocabulary to learn pieces for it, or choose a base model that covers it"
    compared = r.unit == "word" and best is not None and best is not r
    worse = compared and best is not None and r.fertility > WORSE * best.fertility
    if worse or r.fertility > WORST[r.unit]:
        against = f" against {best.fertility:.1f} for {best.language}" if compared and best is not None else ""
        yield f"{r.language}: {r.fertility:.1f} tokens per {r.unit}{against}; {cure}"
    if r.unknown > UNKNOWN:
        yield f"{r.language}: {r.unknown:.1%} of its tokens are unknown to the tokenizer and lost to the model; {cure}"
    if r.byte_fallback > BYTES:
        yield f"{r.language}: {r.byte_fallback:.1%} of its tokens are single bytes of characters that it lacks; {cure}"
    if r.round_trip_failures > LOSSY * r.texts:
        yield (
            f"{r.language}: {r.round_trip_failures} of {r.texts} texts come back changed from the tokenizer; "
            "normalise the texts as it does (cleaning step `normalise`), or choose another base model"
        )


def _encoded(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    edges = [*range(0, len(texts), _BATCH), len(texts)]
    for start, end in pairwise(edges):
        yield from tokenizer(list(texts[start:end]), add_special_tokens=False, verbose=False)["input_ids"]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
