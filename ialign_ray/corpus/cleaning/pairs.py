"""Steps on the two sides of a pair: numbers and links that one side has and the other lacks."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config.cleaning import LinksStep, NumbersStep
from ialign_ray.corpus.cleaning import hashing
from ialign_ray.corpus.cleaning.codepoints import UNICODE, blocks, decode, look_up, row_sums
from ialign_ray.corpus.cleaning.hashing import Hashes
from ialign_ray.corpus.cleaning.step import Mask, Outcome, Scope

_GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:[.,'’٫٬\u00a0\u202f]\d{3})+(?!\d)")
_SPACED = re.compile(r"(?<!\d)\d{1,3}(?: \d{3})+(?!\d)")
_DIGITS = re.compile(r"\d+")
_LINK = re.compile(r"(?:https?://|www\.)[^\s<>\"'“”「」（）]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)
_MAYBE_LINK = ("://", "www.", "@")


class Numbers:
    """Step `numbers`: drop sides that contain too few of their pivot's numbers, or too many others.

    A number is a run of digits of any script, ignoring thousands separators (`1,000`, `1.000` and `1000` are one); the
    fraction of a decimal is a separate number. The same digits in the same order pass whatever separates them. If only
    one side has numbers, as when the other spells them out, the similarity is 0 and the side is dropped.
    """

    version = 1

    def __init__(self, settings: NumbersStep) -> None:
        self.minimum = settings.minimum

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge every pair."""
        digits = {code: _digit_hashes(table[code]) for code in scope.languages}
        return _mismatched(table, scope, lambda one, two: digits[one] != digits[two], self._similar)

    def _similar(self, one: str, two: str) -> bool:
        first, second = _ascii_digits(one), _ascii_digits(two)
        return any(_overlap(find(first), find(second)) >= self.minimum for find in (_numbers, _numbers_with_spaces))


class Links:
    """Step `links`: drop sides whose URLs and e-mail addresses differ from their pivot's.

    The scheme, `www.`, case, a slash at the end and punctuation after it do not matter.
    """

    version = 1

    def __init__(self, settings: LinksStep) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge every pair."""
        maybe = {code: _maybe_links(table[code]) for code in scope.languages}
        return _mismatched(
            table, scope, lambda one, two: maybe[one] | maybe[two], lambda one, two: _links(one) == _links(two)
        )


def _mismatched(
    table: pa.Table, scope: Scope, suspect: Callable[[str, str], Mask], similar: Callable[[str, str], bool]
) -> Outcome:
    """Drop the other sides that are not similar; only the rows that are suspect for a pair are compared in Python."""
    outcome = Outcome(table)
    for pivot, other in scope.pairs():
        both = pc.and_(table[pivot].is_valid(), table[other].is_valid()).to_numpy()
        rows = np.flatnonzero(suspect(pivot, other) & both)
        one, two = (table[code].take(pa.array(rows)).to_pylist() for code in (pivot, other))
        wrong = [not similar(a, b) for a, b in zip(one, two)]
        dropped: Mask = outcome.dropped.setdefault(other, np.zeros(len(table), bool))
        dropped[rows] |= np.array(wrong, bool)
    return outcome


@lru_cache(maxsize=1)
def _digit_elements() -> Hashes:
    elements = np.zeros(UNICODE, np.uint64)
    for point in range(0x20000):
        value = unicodedata.decimal(chr(point), None)
        if value is not None:
            elements[point] = value + 1
    return np.where(elements > 0, hashing.mix(elements), np.uint64(0))


def _digit_hashes(column: pa.ChunkedArray) -> Hashes:
    """Hash of all digits of each text, in order; 0 without digits."""
    return np.concatenate([np.zeros(0, np.uint64), *map(_block_digit_hashes, blocks(column))])


def _block_digit_hashes(array: pa.Array) -> Hashes:
    texts = decode(array)
    elements = look_up(_digit_elements(), texts.points)
    found = elements != 0
    counts = row_sums(found, texts.offsets)
    hashes = np.zeros(len(array), np.uint64)
    hashes[counts > 0] = hashing.stretches(elements[found], (np.cumsum(counts) - counts)[counts > 0])
    return hashes


def _ascii_digits(text: str) -> str:
    return text if text.isascii() else "".join(str(unicodedata.decimal(c, c)) for c in text)


def _numbers(text: str) -> Counter[int]:
    return Counter(_values(_GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text)))


def _numbers_with_spaces(text: str) -> Counter[int]:
    """The numbers of a text, with `10 000` as one number too."""
    return _numbers(_SPACED.sub(lambda match: match[0].replace(" ", ""), text))


def _values(text: str) -> Iterable[int]:
    # longer runs are codes, distinguished by their endings, and Python refuses to parse thousands of digits
    return (int(digits[-18:]) for digits in _DIGITS.findall(text))


def _overlap(one: Counter[int], two: Counter[int]) -> float:
    most = max(one.total(), two.total())
    return (one & two).total() / most if most else 1.0


def _maybe_links(column: pa.ChunkedArray) -> Mask:
    found: Mask = np.zeros(len(column), bool)
    for mark in _MAYBE_LINK:
        found |= pc.match_substring(column, mark, ignore_case=mark == "www.").fill_null(False).to_numpy()
    return found


def _links(text: str) -> set[str]:
    found = (link.lower().rstrip(".,;:!?)]}…。،؟") for link in _LINK.findall(text))
    return {re.sub(r"^(?:https?://)?(?:www\.)?", "", link).rstrip("/") for link in found}
