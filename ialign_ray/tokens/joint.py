"""The joint of prompt and answer, which are tokenised apart and must have the ids of one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Joint:
    """Division of a text into prompt and answer, whose ids together are those of the text."""

    before: str
    """End of the prompt."""
    lead: str = ""
    """See `Encoder.lead`."""
    anchor: str = ""
    """See `Encoder.anchor`."""


def joint_of(tokenizer: Any, start: str, before: str) -> Joint:
    """Return the joint of `before`, which follows `start`, and an answer."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    word = "b"
    if before.endswith(" "):  # a word that is one token with the space before it, of a byte-level tokenizer
        pieces = (piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("Ġ"))
        known_words = (piece for piece in pieces if piece.isascii() and piece.isalpha())
        word = min(known_words, key=lambda piece: (len(piece), piece), default=word)
    whole = ids(start + before + word)
    if whole == ids(start + before) + ids(word):
        return Joint(before)
    if before.endswith(" "):
        shorter = before[:-1]
        for lead in (" ", ""):  # the tokenizer joins the space to the word, or puts one there
            if whole == ids(start + shorter) + ids(lead + word):
                return Joint(shorter, lead)
    for anchor in (before, "\n", "a"):
        known, both = ids(anchor), ids(anchor + word)
        n = len(known)
        if anchor and both[:n] == known and whole == ids(start + before) + both[n:]:
            return Joint(before, anchor=anchor)
    return Joint(before)
