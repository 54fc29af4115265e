"""Noise for MLM and TLM over word tokens (InstructAlign, arXiv 2305.13627, section 3.1)."""

from __future__ import annotations

import random
from dataclasses import dataclass

BLANK = "___"

# 3 x .24 + 3 x .08 + .04 = 1, applied in the order infill, delete, permute
_CHOICES = (("i",), ("d",), ("p",), ("i", "d"), ("i", "p"), ("d", "p"), ("i", "d", "p"))
_WEIGHTS = (0.24, 0.24, 0.24, 0.08, 0.08, 0.08, 0.04)
_TRIES = 50


@dataclass(frozen=True)
class Noise:
    """Probabilities of the token noises."""

    infill: float = 0.2
    """A word becomes `___`."""
    delete: float = 0.2
    """A word is dropped."""


def choose(rng: random.Random) -> tuple[str, ...]:
    """Draw the noises of one example, of "i", "d" and "p"."""
    return rng.choices(_CHOICES, _WEIGHTS)[0]


def apply(words: list[str], kinds: tuple[str, ...], rng: random.Random, noise: Noise) -> list[str]:
    """One attempt; the result may be empty or unchanged."""
    if "i" in kinds:
        words = [BLANK if rng.random() < noise.infill else w for w in words]
    if "d" in kinds:
        words = [w for w in words if rng.random() >= noise.delete]
    if "p" in kinds:
        # a new list: the caller's words are kept for the next try
        words = rng.sample(words, len(words))
    return words


def noisy(text: str, rng: random.Random, noise: Noise | None = None) -> str | None:
    """A noised copy that is neither empty, nor blanks alone, nor equal to the text.

    The kinds of noise are drawn once and the noise until it shows, so that the published frequencies hold.
    None for a text that cannot be noised so: a single word, or one word repeated.
    """
    words = text.split()
    # one word repeated stays itself under every permutation, and blanks alone teach nothing
    if len(set(words)) < 2:
        return None
    kinds = choose(rng)
    for _ in range(_TRIES):
        changed = apply(words, kinds, rng, noise or Noise())
        if changed != words and any(w != BLANK for w in changed):
            return " ".join(changed)
    # two or three words under a low probability: a swap of the ends always shows
    return " ".join(words[1:] + words[:1]) if words[1:] + words[:1] != words else None
