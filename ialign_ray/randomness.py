"""Random numbers that depend on a key alone: not on the process, the worker or what was drawn before."""

from __future__ import annotations

import hashlib
import random


def rng(*key: int | str) -> random.Random:
    """A generator seeded by the parts of a key, the same in every process."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return random.Random(hashlib.blake2b(text.encode(), digest_size=16).digest())
