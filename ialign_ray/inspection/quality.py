"""Anomaly score of a pair of texts: a few plain measures of all rows at once, and a sum that ranks them.

Each measure counts 0 up to where it is usual and 1 from where something is surely odd, linearly between; the anomaly
score of a pair is their sum. A high score asks for an inspection, it proves nothing: cognates, tables
and poems are odd as well.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.corpus.cleaning.codepoints import (
    UNICODE,
    Offsets,
    Table,
    Texts,
    blocks,
    decode,
    look_up,
    matching,
    row_sums,
)
from ialign_ray.corpus.cleaning.hashing import Hashes, mix
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.cleaning.words import normalised_words
from ialign_ray.corpus.cleaning.writing import expand, scripts_of, unicode_name
from ialign_ray.inspection.lengths import Usual, log_ratio

Numbers = npt.NDArray[np.float64]
Scripts = Mapping[str, Sequence[str]]
"""Language code -> ISO 15924 codes, where they are not the usual ones."""


@dataclass(frozen=True)
class QualityMeasure:
    """One way in which a pair may be odd."""

    name: str
    """Short name, also of its column."""
    usual: float
    """Value up to which it counts 0."""
    odd: float
    """Value from which it counts 1."""
    says: str
    """Meaning of a value, which replaces `{:...}`."""
    explanation: str
    """Description of the measure, for the reader of the page."""

    def count(self, values: Numbers) -> Numbers:
        """Weights of values, 0 to 1; NaN (not measured) counts 0."""
        counted = np.clip((values - self.usual) / (self.odd - self.usual), 0, 1)
        return np.nan_to_num(counted, nan=0.0)

    def describe(self, value: float) -> str:
        """A value in words."""
        return self.says.format(value)


MEASURES = (
    QualityMeasure(
        "length", 2.5, 7.0, "length ratio {:.1f} robust deviations from the usual",
        "distance of the log ratio of characters from the pair's median, in robust standard deviations (1.4826 MAD)",
    ),
    QualityMeasure(
        "signs", 0.25, 0.6, "{:.0%} of the characters are neither letters nor spaces",
        "share of characters that are neither letters nor spaces, on the side with more",
    ),
    QualityMeasure(
        "script", 0.05, 0.5, "{:.0%} of the letters are of another script",
        "share of letters outside the scripts that the language is written in, on the side with more",
    ),
    QualityMeasure(
        "run", 2.0, 5.0, "a word {:.0f} times in a row",
        "longest run of one word, ignoring case and punctuation, on the side with the longer run",
    ),
    QualityMeasure(
        "digits", 1.0, 12.0, "{:.0f} digits that the other side lacks",
        "digits, of any script, that only one side holds, whatever their order; spelled-out numbers count too",
    ),
    QualityMeasure(
        "copied", 0.5, 1.0, "{:.0%} of the words are also in the pivot",
        "share of the other side's words that its pivot holds as well, in texts of four words or more",
    ),
)  # fmt: skip
"""All measures, in the order in which they are shown."""
_FEWEST_WORDS = 4
"""Fewest words to judge by: a shorter text may hold only names that the pivot holds too."""


def anomaly(
    table: pa.Table, scope: Scope, usual: Mapping[tuple[str, str], Usual], scripts: Scripts
) -> dict[tuple[str, str], dict[str, Numbers]]:
    """Every measure of every row per pivot and other language, NaN where it says nothing; and the sum, `anomaly`.

    The sum is NaN where a side is missing.
    """
    sides = {code: _Side.of(table[code], code, scripts) for code in scope.languages}
    found = {}
    for pivot, other in scope.pairs():
        one, two = sides[pivot], sides[other]
        logs = log_ratio(table, pivot, other)
        measured = {
            "length": _distance(logs, usual.get((pivot, other))),
            **{name: np.fmax(getattr(one, name), getattr(two, name)) for name in ("signs", "script", "run")},
            "digits": np.abs(one.digits - two.digits).sum(axis=1).astype(np.float64),
            "copied": _copied(two, one),
        }
        total = sum((m.count(measured[m.name]) for m in MEASURES), np.zeros(table.num_rows))
        found[pivot, other] = measured | {"anomaly": np.where(np.isnan(logs), np.nan, total)}
    return found


@dataclass(frozen=True)
class _Side:
    """Measures of one language's texts on their own."""

    signs: Numbers
    script: Numbers
    run: Numbers
    digits: npt.NDArray[np.int64]
    """Counts [n, 10] of each digit in a text."""
    words: Hashes
    """Hashes of each text's words, mixed with the row's number."""
    bounds: Offsets
    """n + 1 offsets into `words`."""

    @classmethod
    def of(cls, column: pa.ChunkedArray, code: str, scripts: Scripts) -> _Side:
        hashes, bounds = normalised_words(column)
        rows = np.repeat(np.arange(len(column), dtype=np.uint64), np.diff(bounds))
        return cls(
            signs=_per_text(column, _signs),
            script=_per_text(column, _outside(code, scripts)),
            run=longest_runs(hashes, bounds).astype(np.float64),
            digits=_per_text(column, _digits).astype(np.int64).reshape(-1, 10),
            # with the row in the hash, one search over all rows finds only words of the same row
            words=mix(hashes + mix(rows)),
            bounds=bounds,
        )


def longest_runs(words: Hashes, bounds: Offsets) -> npt.NDArray[np.int64]:
    """Longest run of one word in each text; 0 for a text without words."""
    starts = np.ones(len(words), bool)
    starts[1:] = words[1:] != words[:-1]
    # a run ends with its text, even if the next one begins with the same word
    starts[bounds[:-1][bounds[:-1] < len(words)]] = True
    heads = np.flatnonzero(starts)
    runs = np.diff(np.append(heads, len(words)))
    longest = np.zeros(len(bounds) - 1, np.int64)
    np.maximum.at(longest, np.searchsorted(bounds, heads, side="right") - 1, runs)
    return longest


def _distance(logs: Numbers, usual: Usual | None) -> Numbers:
    if usual is None:
        return np.full(len(logs), np.nan)
    return np.abs(logs - usual.median) / usual.deviation


def _copied(other: _Side, pivot: _Side) -> Numbers:
    counts = np.diff(other.bounds)
    # np.isin hashes both sides, which takes three times as long
    known = np.sort(pivot.words)
    places = np.searchsorted(known, other.words)
    shared = row_sums(np.append(known, np.uint64(0))[places] == other.words, other.bounds)
    return np.where(counts >= _FEWEST_WORDS, shared / np.maximum(counts, 1), np.nan)


def _per_text(column: pa.ChunkedArray, measure: Callable[[Texts], Numbers]) -> Numbers:
    parts = [measure(decode(block)).ravel() for block in blocks(column)]
    return np.concatenate([np.zeros(0), *parts])


def _signs(texts: Texts) -> Numbers:
    plain = look_up(matching(r"[\p{L}\p{M}\s\p{Z}\x{200C}\x{200D}]"), texts.points)
    return np.asarray(row_sums(~plain, texts.offsets) / np.maximum(np.diff(texts.offsets), 1), np.float64)


def _outside(code: str, scripts: Scripts) -> Callable[[Texts], Numbers]:
    codes = [single for script in scripts.get(code, ()) for single in expand(script)] or scripts_of(code)
    names = [unicode_name(script) for script in codes]
    known = tuple(name for name in names if name)
    # nobody can say of a script without a name what is foreign to it
    return partial(_foreign_share, _foreign(known)) if known and len(known) == len(names) else _unknown


def _foreign_share(foreign: Table, texts: Texts) -> Numbers:
    outside = row_sums(look_up(foreign, texts.points), texts.offsets)
    return np.asarray(outside / np.maximum(row_sums(look_up(_letters(), texts.points), texts.offsets), 1), np.float64)


def _unknown(texts: Texts) -> Numbers:
    return np.full(len(texts.present), np.nan)


@lru_cache(maxsize=1)
def _letters() -> Table:
    # letters that several scripts share speak for none and against none
    return matching(r"\p{L}") & ~matching(r"[\p{Common}\p{Inherited}]")


@lru_cache(maxsize=32)
def _foreign(scripts: tuple[str, ...]) -> Table:
    return _letters() & ~matching("[" + "".join(rf"\p{{{name}}}" for name in scripts) + "]")


@lru_cache(maxsize=1)
def _digit_values() -> npt.NDArray[np.int8]:
    values = np.full(UNICODE, -1, np.int8)
    for point in range(0x20000):  # there are no digits beyond
        values[point] = unicodedata.decimal(chr(point), -1)
    return values


def _digits(texts: Texts) -> Numbers:
    values = look_up(_digit_values(), texts.points)
    places = np.flatnonzero(values >= 0)
    slots = texts.rows(places) * 10 + values[places]
    return np.bincount(slots, minlength=10 * len(texts.present)).astype(np.float64)
