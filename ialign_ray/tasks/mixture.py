"""The row of example number i: replay at an exact ratio, every pool restarts endlessly.

The mixture is a pure function of (seed, i). Its whole state is one number, so a run resumes from any
step with any number of workers, and no example is lost or repeated within an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Draw:
    """One place in the stream."""

    replay: bool
    """True for a row of the replay pool, False for a parallel pair."""
    row: int
    """Index into that pool."""
    epoch: int
    """Number of times that the pool was finished before."""


@dataclass(frozen=True)
class Mixture:
    """An endless stream over two pools of any size."""

    seed: int
    ratio: float
    pairs: int
    replay: int

    def __post_init__(self) -> None:
        if self.ratio > 0 and not self.replay:
            raise ValueError("a ratio above 0 needs a replay pool")
        if self.ratio < 1 and not self.pairs:
            raise ValueError("a ratio below 1 needs parallel pairs")

    def draw(self, i: int) -> Draw:
        """Example i; among the first n there are floor(n * ratio) from replay, for every n."""
        ratio = _exact(self.ratio)
        # exact integers: with floats the count of replayed examples would drift over millions
        before = i * ratio.numerator // ratio.denominator
        replay = (i + 1) * ratio.numerator // ratio.denominator > before
        count, size = (before, self.replay) if replay else (i - before, self.pairs)
        epoch, place = divmod(count, size)
        return Draw(replay, int(_order(self.seed, replay, epoch, size)[place]), epoch)

    def places(
        self, numbers: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Arrays over examples: True for replay, the epoch, and the place in that epoch's order."""
        before = _replayed(self.ratio, numbers)
        replay = _replayed(self.ratio, numbers + 1) > before
        count = np.where(replay, before, numbers - before)
        epoch, place = np.divmod(count, np.where(replay, max(1, self.replay), max(1, self.pairs)))
        return replay, epoch, place


def order(mixture: Mixture, replay: bool, epoch: int) -> npt.NDArray[np.int64]:
    """The rows of one pool in the order of one epoch."""
    return _order(mixture.seed, replay, epoch, mixture.replay if replay else mixture.pairs)


@lru_cache
def _exact(ratio: float) -> Fraction:
    # 0.1 as one tenth, not as the double next to it: the replay ratio stays exact over millions of examples
    return Fraction(str(ratio))


def _replayed(ratio: float, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """floor(n * ratio) of each n, in Python integers: a ratio of 17 digits overflows 64 bits before n = 1,000."""
    exact = _exact(ratio)
    return np.array([n * exact.numerator // exact.denominator for n in numbers.tolist()], np.int64)


@lru_cache(maxsize=4)
def _order(seed: int, replay: bool, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """The order of one epoch: both pools are reshuffled each time they restart."""
    return np.random.default_rng([seed, int(replay), epoch]).permutation(size)
