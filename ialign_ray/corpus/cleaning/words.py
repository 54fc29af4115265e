"""Hashes of texts and of their words in the normal form in which two texts count as the same.

The normal form: NFKC, lower case, letters, marks and digits only, everyday spellings of a letter as one (`spellings`).
Anything between them separates words; format characters, variation selectors and apostrophes are removed. Each
character of a script written without spaces is a separate word, with its marks.

Case is folded character by character: `İ`, `I` and `i` are equal and differ from `ı`; final sigma is a sigma.
`ialign_ray.corpus.identity.text_key` keeps punctuation and spellings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.corpus.cleaning import hashing
from ialign_ray.corpus.cleaning.codepoints import (
    NORMALISED_END,
    UNICODE,
    Offsets,
    Points,
    Table,
    Texts,
    blocks,
    decode,
    encode,
    look_up,
    matching,
    normal_characters,
    normalised,
    row_sums,
)
from ialign_ray.corpus.cleaning.hashing import Hashes
from ialign_ray.corpus.cleaning.spellings import LETTERS, OMITTED, SEQUENCES
from ialign_ray.corpus.cleaning.step import Mask

_APART = 0  # code point for anything that separates words
_WORD = r"[\p{L}\p{M}\p{N}]"
_IGNORED = rf"[{OMITTED}\p{{Cf}}\x{{34F}}\x{{180B}}-\x{{180F}}\x{{FE00}}-\x{{FE0F}}\x{{E0100}}-\x{{E01EF}}]"
_SPACELESS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\x{3099}\x{309A}\x{30FC}]"
_CASED_END = 0x20000  # no character beyond has case


def normalised_words(column: pa.ChunkedArray | pa.Array) -> tuple[Hashes, Offsets]:
    """Hashes of the words of each text in normal form, and the n + 1 offsets at which the texts' words begin.

    The hash of a word depends only on the word. A null has no words.
    """
    parts = [_words(folded(block)) for block in blocks(column)]
    hashes = np.concatenate([np.zeros(0, np.uint64), *(part for part, _ in parts)])
    counts = np.concatenate([np.zeros(1, np.int64), *(count for _, count in parts)])
    return hashes, np.cumsum(counts)


def ngram_hashes(hashes: Hashes, offsets: Offsets, n: int) -> tuple[Hashes, Offsets]:
    """Hashes of every n consecutive words within a text; texts of fewer than n words have no hash."""
    counts = np.maximum(np.diff(offsets) - (n - 1), 0)
    begins = np.concatenate([[0], np.cumsum(counts)])
    first = np.arange(begins[-1]) + np.repeat(offsets[:-1] - begins[:-1], counts)
    # n passes over all n-grams at once, instead of a window for each
    sums = np.zeros(len(first), np.uint64)
    for place, factor in enumerate(hashing.powers(n)):
        sums += hashes[first + place] * factor
    return hashing.mix(sums), begins


def text_hashes(column: pa.ChunkedArray | pa.Array, lanes: int = 1) -> npt.NDArray[np.uint64]:
    """[lanes, n] hashes of texts in normal form without spaces; 0 for null and for texts without letter or digit.

    Lanes are independent of each other: two make a 128-bit hash.
    """
    parts = [_text_hashes(folded(block), lanes) for block in blocks(column)]
    return np.concatenate([np.zeros((lanes, 0), np.uint64), *parts], axis=1)


def folded(array: pa.Array) -> Texts:
    """Texts in normal form, with code point 0 for every character that is not part of a word."""
    folding, texts = _folding(), decode(array)
    ignored = look_up(folding.ignored, texts.points)
    if ignored.any():
        texts = texts.keep(~ignored)
        array = encode(texts)
    context = texts.any(look_up(folding.context, texts.points)) | _with_sequences(texts)
    if context.any():
        # only where a character's form depends on its neighbours: several times as slow as the table
        composed = _respelled(array.filter(pa.array(context)))
        texts = decode(pc.replace_with_mask(array, pa.array(context), composed))
        # a presentation form may hold them
        ignored = look_up(folding.ignored, texts.points)
        texts = texts.keep(~ignored) if ignored.any() else texts
    return Texts(look_up(folding.form, texts.points), texts.offsets, texts.present)


def _respelled(array: pa.Array) -> pa.Array:
    """Texts in NFKC, one spelling for each sequence of letters that has several."""
    for mark in "\u0326\u0329":  # before they compose: l with a comma below is also l with a cedilla
        array = pc.replace_substring(array, mark, chr(LETTERS[ord(mark)]))
    composed = normalised(array, "NFKC")
    rows = pa.array(_with_sequences(decode(composed)))
    texts = [_pattern().sub(lambda found: SEQUENCES[found[0]], text) for text in composed.filter(rows).to_pylist()]
    return pc.replace_with_mask(composed, rows, pa.array(texts, pa.string()))


def _with_sequences(texts: Texts) -> Mask:
    """Mask of the texts that may hold one of `SEQUENCES`."""
    alone, first, second = _sequence_masks()
    begins = look_up(first, texts.points)
    if not begins.any():
        return np.zeros(len(texts.present), bool)
    begins[:-1] &= look_up(second, texts.points)[1:] | look_up(alone, texts.points)[:-1]
    return texts.any(begins)


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, SEQUENCES)))


@lru_cache(maxsize=1)
def _sequence_masks() -> tuple[Table, Table, Table]:
    """Masks of characters that are a sequence, begin one, and end one of two characters."""
    alone, first, second = np.zeros((3, UNICODE), bool)
    for sequence in SEQUENCES:
        alone[ord(sequence[0])] |= len(sequence) == 1
        first[ord(sequence[0])] = True
        second[ord(sequence[-1])] |= len(sequence) == 2
    return alone, first, second


@dataclass(frozen=True)
class _Folding:
    form: Points
    """Normal form of a character, 0 if it separates words."""
    context: Table
    """Characters whose normal form is several characters, or may compose with their neighbours."""
    ignored: Table


@lru_cache(maxsize=1)
def _folding() -> _Folding:
    composed = normal_characters("NFKC")
    several = pc.not_equal(pc.utf8_length(composed), 1).to_numpy(zero_copy_only=False)
    wordy = pc.match_substring_regex(composed, _WORD).to_numpy(zero_copy_only=False)
    joins = pc.match_substring_regex(composed, r"[\p{M}\x{1100}-\x{11FF}]").to_numpy(zero_copy_only=False)
    ignored, cases = matching(_IGNORED), _cases()
    form, context = np.where(matching(_WORD), cases, np.uint32(_APART)), matching(r"\p{M}").copy()
    # of several characters only the first, which is not used: `context` sends their texts through NFKC whole
    first = decode(pc.utf8_slice_codeunits(composed, 0, 1)).points
    form[:NORMALISED_END] = np.where(wordy, cases[first], _APART)
    context[:NORMALISED_END] = (several & wordy) | joins
    spelt = np.arange(UNICODE, dtype=np.uint32)
    spelt[list(LETTERS)] = list(LETTERS.values())
    return _Folding(spelt[form], context & ~ignored, ignored)


@lru_cache(maxsize=1)
def _cases() -> Points:
    cases = np.arange(UNICODE, dtype=np.uint32)
    for point in range(_CASED_END):
        character = chr(point)
        small = character.casefold()
        # the table has one entry per character: `ß` would fold to two, and `İ` is two in lower case
        cases[point] = ord(small if len(small) == 1 else character.lower()[0])
    return cases


@lru_cache(maxsize=4)
def _elements(lane: int) -> Hashes:
    """A hash of every character of the normal form, 0 for separators of words."""
    # lanes differ above all code points, so no two share an element
    elements = hashing.mix(np.arange(UNICODE, dtype=np.uint64) + np.uint64(lane << 32))
    elements[_APART] = 0
    return elements


def _words(texts: Texts) -> tuple[Hashes, npt.NDArray[np.int64]]:
    starts = np.flatnonzero(_word_starts(texts))
    hashes = hashing.stretches(look_up(_elements(0), texts.points), starts)
    return hashes, np.diff(np.searchsorted(starts, texts.offsets))


def _word_starts(texts: Texts) -> Table:
    wordy: Table = texts.points != _APART
    heads = texts.offsets[:-1][texts.filled()]
    starts = wordy & ~_previous(wordy, heads)
    alone = look_up(matching(_SPACELESS), texts.points)
    if alone.any():
        bases = wordy & ~look_up(matching(r"\p{M}"), texts.points)
        # also where such a character is followed by another script; marks stay with their base
        starts |= bases & (alone | _previous(alone, heads))
    return starts


def _previous(flags: Table, heads: Offsets) -> Table:
    """The flag of the previous character, False at the start of a text."""
    before = np.zeros_like(flags)
    before[1:] = flags[:-1]
    before[heads] = False
    return before


def _text_hashes(texts: Texts, lanes: int) -> npt.NDArray[np.uint64]:
    kept = texts.points != _APART
    counts = row_sums(kept, texts.offsets)
    filled = counts > 0
    starts = (np.cumsum(counts) - counts)[filled]
    hashes = np.zeros((lanes, len(counts)), np.uint64)
    points = texts.points[kept]
    for lane in range(lanes):
        hashes[lane, filled] = hashing.stretches(look_up(_elements(lane), points), starts)
    return hashes
