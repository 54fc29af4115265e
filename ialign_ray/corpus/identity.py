"""Keys under which two texts are the same sentence, and random draws that depend only on a key."""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Iterable


def text_key(text: str) -> bytes:
    """16-byte hash of a text, ignoring case, width, composition and spacing."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=16).digest()


def lines_of(text: str) -> Iterable[str]:
    """A text, each of its lines, and the quotations in them: the places where a leaked sentence can be."""
    yield text
    for line in text.splitlines():
        yield line
        # instructions often put a text after a label: `Text: ...`
        yield line.partition(": ")[2]
        for opening, closing in (('"', '"'), ("'", "'"), ("“", "”")):
            start, end = line.find(opening), line.rfind(closing)
            if 0 <= start < end:
                yield line[start + 1 : end]


def share_of(identity: str, seed: int = 0) -> float:
    """A number in [0, 1) that depends only on the identity; splits are drawn with it."""
    digest = hashlib.blake2b(f"{seed}\x00{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def rng(*key: int | str) -> random.Random:
    """A random generator seeded by the parts of a key, the same in every process."""
    # with the type, so that 1 and "1" are different keys
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return random.Random(hashlib.blake2b(text.encode(), digest_size=16).digest())
