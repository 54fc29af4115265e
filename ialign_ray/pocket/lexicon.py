"""The pocket experiment's hand-written words, and the letter ciphers that serve as wholly new languages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any
from zlib import crc32

import yaml

REAL = ("eng", "ind", "jav", "sun", "min")
"""Languages of the lexicon."""
DIALECTS = {"qcd": 0.25, "qcf": 0.75}
"""Dialects of the cipher -> share of their words that the cipher does not have: their distance from it."""
LANGUAGES = (*REAL, "qci", *DIALECTS)
"""All languages of the pocket corpora; `qci` is the cipher of Indonesian."""

# Vowels go to vowels and consonants to consonants, so that cipher words can be pronounced.
_PLAIN = "aiueobcdfghjklmnpqrstvwxyz"
_CIPHER = "uoaiekzpgtwxsdrbvcqjnmlhfy"
_TO_QCI = str.maketrans(_PLAIN + _PLAIN.upper(), _CIPHER + _CIPHER.upper())
_TO_PLAIN = str.maketrans(_CIPHER + _CIPHER.upper(), _PLAIN + _PLAIN.upper())
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Concept:
    """One entry of the lexicon."""

    name: str
    words: dict[str, Any]
    """Language -> word; a degree has {pre: word} or {post: word}."""
    domain: str = ""
    """The kind of thing that a noun names, which decides the adjectives that fit it."""
    own: bool = False
    """True if a noun goes with "my"."""
    polarity: str = ""
    """`positive`, `negative` or `neutral`, of adjectives and verbs."""
    fits: tuple[str, ...] = ()
    """Domains that an adjective can be said of."""


@lru_cache(maxsize=1)
def lexicon() -> dict[str, dict[str, Concept]]:
    """Section (nouns, adjectives, verbs, ...) -> name -> concept."""
    text = resources.files("ialign_ray.pocket").joinpath("lexicon.yaml").read_text(encoding="utf-8")
    return {
        section: {name: _concept(name, entry) for name, entry in entries.items()}
        for section, entries in yaml.safe_load(text).items()
    }


def encipher(indonesian: str) -> str:
    """Indonesian in the cipher language `qci`; only letters change."""
    return indonesian.translate(_TO_QCI)


def decipher(cipher: str) -> str:
    """The inverse of `encipher`."""
    return cipher.translate(_TO_PLAIN)


def encipher_dialect(indonesian: str, distance: float) -> str:
    """Indonesian in a dialect of the cipher, in which this share of the words is enciphered twice.

    The same words in every sentence; a nearer dialect's own words are also a farther one's.
    """

    def word(match: re.Match[str]) -> str:
        once = encipher(match[0])
        return encipher(once) if crc32(once.lower().encode()) % 1000 < 1000 * distance else once

    return _WORD.sub(word, indonesian)


def _concept(name: str, entry: dict[str, Any]) -> Concept:
    traits = {k: entry[k] for k in ("domain", "own", "polarity") if k in entry}
    words = {code: entry[code] for code in REAL if code in entry}
    return Concept(name, words, fits=tuple(entry.get("fits", ())), **traits)
