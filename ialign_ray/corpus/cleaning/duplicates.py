"""Step `duplicates`: drop rows that repeat an earlier row in every language."""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.config.cleaning import DuplicatesStep
from ialign_ray.corpus.cleaning import hashing
from ialign_ray.corpus.cleaning.step import Measures, Scope, StepDecision
from ialign_ray.corpus.cleaning.words import text_hashes

_LANES = ("high", "low")


class Duplicates:
    """Keeps the first of the rows with the same texts in normal form (`words`); uses 16 bytes of memory per row.

    The order of the languages does not matter, nor does a missing language. Rows without any letter or digit have no
    form to compare and are left to step `empty`.
    """

    version = 2

    def __init__(self, settings: DuplicatesStep) -> None:
        self.settings = settings

    def measure(self, table: pa.Table, scope: Scope) -> pa.Table:
        """Columns `high` and `low` (uint64): a hash of the row of 128 bits, 0 without texts."""
        texts = [_of_language(text_hashes(table[code], len(_LANES)), code) for code in scope.languages]
        rows = reduce(np.add, texts, np.zeros((len(_LANES), len(table)), np.uint64))
        return pa.table(dict(zip(_LANES, (pa.array(lane, pa.uint64()) for lane in rows))))

    def decide(self, measures: Measures) -> StepDecision:
        """Drop all rows of a hash except the first. learned: `groups` of repeated rows, and rows `dropped`."""
        high, low = (measures.column(lane) for lane in _LANES)
        order = np.lexsort((low, high))  # stable: rows of one hash stay in order
        high, low = high[order], low[order]
        repeats = np.zeros(measures.rows, bool)
        repeats[1:] = (high[1:] == high[:-1]) & (low[1:] == low[:-1]) & ((high[1:] | low[1:]) != 0)
        dropped = np.zeros(measures.rows, bool)
        dropped[order[repeats]] = True
        groups = int((repeats[1:] & ~repeats[:-1]).sum())
        return StepDecision({"*": dropped}, {"groups": groups, "dropped": int(dropped.sum())})


def _of_language(hashes: npt.NDArray[np.uint64], code: str) -> npt.NDArray[np.uint64]:
    # sums do not depend on the order of the languages; the finaliser keeps {a: x, b: y} and {a: y, b: x} apart
    return np.where(hashes != 0, hashing.mix(hashes ^ hashing.salt(code)), np.uint64(0))
