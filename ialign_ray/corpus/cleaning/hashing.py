"""Vectorised hashes of stretches of a number sequence, the same in every process and version.

A stretch x_0 .. x_m has the hash sum of x_i r^i modulo 2^64 for an odd r: one multiplication per element and one
`reduceat`, whatever the stretches' lengths. The elements are themselves hashes, so two different stretches collide with
a probability of about 2^-64 (the hash does not resist deliberate collisions).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# of largest order modulo 2^64 (5 modulo 8), otherwise arbitrary
_BASE = 0x9E3779B97F4A7C15 & ~7 | 5
_INVERSE = pow(_BASE, -1, 1 << 64)


def mix(values: Hashes) -> Hashes:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection whose output bits depend on all input bits."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def powers(count: int) -> Hashes:
    """r^0, r^1, ... modulo 2^64, `count` of them."""
    # lengths in powers of two from 65,536 on, so that few tables are ever made and cached
    return _powers(_BASE, 1 << max(16, (count - 1).bit_length()))[:count]


def inverse_powers(count: int) -> Hashes:
    """r^0, r^-1, ... modulo 2^64, `count` of them."""
    return _powers(_INVERSE, 1 << max(16, (count - 1).bit_length()))[:count]


@lru_cache(maxsize=8)
def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


def stretches(values: Hashes, starts: npt.NDArray[np.int64]) -> Hashes:
    """Hash of each stretch, from its start to the next one's (the last: to the end); zeros at its end do not count.

    values: hashes, 0 for elements that do not count; starts: ascending, each before the end.
    """
    if not len(starts):
        return np.zeros(0, np.uint64)
    # one series of powers serves all stretches; the inverse power of its start makes a hash independent of its place
    sums = np.add.reduceat(values * powers(len(values)), starts)
    return mix(sums * inverse_powers(len(values)).take(starts))


def salt(name: str) -> np.uint64:
    """A number that keeps equal hashes of different languages apart."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))
