"""Steps on the form of a text: empty, a copy of its pivot, too long."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config.cleaning import EmptyStep, IdenticalStep, LengthStep
from ialign_ray.corpus.cleaning.codepoints import Texts, decode, look_up, matching, per_block
from ialign_ray.corpus.cleaning.step import Mask, Outcome, Scope
from ialign_ray.corpus.cleaning.words import text_hashes
from ialign_ray.corpus.cleaning.writing import has_spaces


class Empty:
    """Step `empty`: drop texts without a letter or digit."""

    version = 1

    def __init__(self, settings: EmptyStep) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge every language."""
        return Outcome(table, {code: _without(table[code], r"[\p{L}\p{N}]") for code in scope.languages})


class Identical:
    """Step `identical`: drop sides with the same normal form as their pivot (`words`), if it contains a letter.

    Numbers, codes and emoji may well be the same in two languages, and are kept.
    """

    version = 2

    def __init__(self, settings: IdenticalStep) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge every pair."""
        forms = {code: text_hashes(table[code])[0] for code in scope.languages}
        outcome = Outcome(table)
        for pivot, other in scope.pairs():
            same = (forms[pivot] == forms[other]) & (forms[pivot] != 0)
            if same.any():
                same &= ~_without(table[other], r"\p{L}")
                outcome.dropped[other] = outcome.dropped.get(other, False) | same
        return outcome


class Length:
    """Step `length`: drop texts of too many characters or words, or with too long a word."""

    version = 1

    def __init__(self, settings: LengthStep) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge every language."""
        return Outcome(table, {code: self._too_long(table[code], code) for code in scope.languages})

    def _too_long(self, column: pa.ChunkedArray, code: str) -> Mask:
        longest = self.settings.max_word_characters if has_spaces(code) else None

        def judge(array: pa.Array) -> Mask:
            sizes = pc.utf8_length(array).fill_null(0).to_numpy(zero_copy_only=False)
            long: Mask = sizes > self.settings.max_characters
            # n words take at least 2n - 1 characters, so most texts need not be split to be counted
            doubtful = ~long & ((sizes > 2 * self.settings.max_words) | (sizes > (longest or np.inf)))
            if doubtful.any():
                long[doubtful] = _too_wordy(decode(array.filter(pa.array(doubtful))), self.settings.max_words, longest)
            return long

        return per_block(column, judge)


def _without(column: pa.ChunkedArray, pattern: str) -> Mask:
    """Mask of cells without any of the characters; False for null."""
    return np.asarray(pc.invert(pc.match_substring_regex(column, pattern)).fill_null(False).to_numpy(), dtype=bool)


def _too_wordy(texts: Texts, words: int, longest: int | None) -> Mask:
    black = ~look_up(matching(r"[\s\p{Z}\x{85}]"), texts.points)
    heads, ends = texts.offsets[:-1][texts.filled()], texts.offsets[1:][texts.filled()]
    before, after = np.zeros_like(black), np.zeros_like(black)
    before[1:], after[:-1] = black[:-1], black[1:]
    before[heads], after[ends - 1] = False, False
    starts, stops = np.flatnonzero(black & ~before), np.flatnonzero(black & ~after)
    owners = texts.rows(starts)
    rows = len(texts.present)
    too_long = (stops - starts + 1) > longest if longest is not None else np.zeros(len(starts), bool)
    return (np.bincount(owners, minlength=rows) > words) | (np.bincount(owners[too_long], minlength=rows) > 0)
