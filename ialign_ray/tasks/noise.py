"""Noise for MLM and TLM over word tokens (InstructAlign, arXiv 2305.13627, section 3.1).

In scripts that are written without spaces the tokens are characters with their marks (grapheme clusters).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

import regex

BLANK = "___"
_SPACELESS = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Tai_Tham}\p{Tai_Le}"
    r"\p{New_Tai_Lue}\p{Tai_Viet}\p{Javanese}\p{Balinese}\p{Sundanese}\p{Cham}\u30FC]"
)
# Unicode's clusters separate some vowels of Burmese, and letters that a virama puts below another
_TOKEN = regex.compile(
    rf"(?={_SPACELESS})\X(?:\p{{M}}|(?<=[\u1039\u17D2\u1A60\uA9C0\u1B44])\p{{L}})*|(?:(?!{_SPACELESS})\X)+"
)

# 3 x .24 + 3 x .08 + .04 = 1, applied in the order infill, delete, permute
_CHOICES = (("i",), ("d",), ("p",), ("i", "d"), ("i", "p"), ("d", "p"), ("i", "d", "p"))
_WEIGHTS = (0.24, 0.24, 0.24, 0.08, 0.08, 0.08, 0.04)
_SHUFFLES = 8


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


class Token(NamedTuple):
    """A word, or a character of a script without spaces."""

    text: str
    before: str
    """Separator from the previous token: a space or nothing."""


def tokens_of(text: str) -> list[Token]:
    """Return the tokens that noise works on."""
    found: list[Token] = []
    for word in text.split():
        for k, part in enumerate(_TOKEN.findall(word)):
            # the first token has no separator, but may be moved behind another
            spaced = k == 0 and (bool(found) or not regex.match(_SPACELESS, part))
            found.append(Token(part, " " if spaced else ""))
    return found


def text_of(tokens: list[Token]) -> str:
    """Return the text of tokens."""
    return "".join(token.before + token.text for token in tokens).strip()


def apply(tokens: list[Token], kinds: tuple[str, ...], rng: random.Random, noise: Noise) -> list[Token]:
    """Return the tokens with these noises; the result may be empty or unchanged."""
    if "i" in kinds:
        tokens = [t._replace(text=BLANK) if rng.random() < noise.infill else t for t in tokens]
    if "d" in kinds:
        tokens = [t for t in tokens if rng.random() >= noise.delete]
    if "p" in kinds:
        # a new list: the caller's tokens are compared with it
        tokens = rng.sample(tokens, len(tokens))
    return tokens


def noisy(text: str, rng: random.Random, noise: Noise | None = None) -> str | None:
    """Return a noised copy that is neither empty, nor only blanks, nor equal to the text.

    If the drawn noise has no effect, as in most texts of three words, the tokens are permuted: drawing again until it
    has one would blank more of short texts than the probabilities say (.136 of three words instead of .083). None for a
    text that cannot be noised so: a single token, or one token repeated.
    """
    tokens = tokens_of(text)
    whole = text_of(tokens)
    # one repeated token is unchanged by every permutation, and a text of only blanks teaches nothing
    if len({token.text for token in tokens}) < 2:
        return None
    changed = apply(tokens, choose(rng), rng, noise or Noise())
    if any(token.text != BLANK for token in changed) and (found := text_of(changed)) != whole:
        return found
    shuffled = (rng.sample(tokens, len(tokens)) for _ in range(_SHUFFLES))
    # swapping or rotating two different tokens at the ends always has an effect
    return next((found for each in (*shuffled, tokens[1:] + tokens[:1]) if (found := text_of(each)) != whole), None)
