"""Columns of text as flat arrays of code points, so that every character of a corpus is looked up in one numpy call.

A lookup in a table over all of Unicode costs about 1 ns per character; the equivalent regular expression costs 20-100
times as much if it matches often. Columns are worked through in blocks that fit the processor's cache.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.corpus.cleaning.step import Mask

Points = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
Table = npt.NDArray[np.bool_]

_Entry = TypeVar("_Entry", bound=np.generic)

Form = Literal["NFC", "NFKC", "NFD", "NFKD"]

UNICODE = 0x110000
NORMALISED_END = 0x30000
"""First code point from which normalisation changes no character."""
_BETWEEN = "\uffff"  # no text should contain it, and it composes with nothing
_BLOCK_ROWS = 1 << 15
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class Texts:
    """The characters of n texts one after another, and the start of each text."""

    points: Points
    """Code points of all texts."""
    offsets: Offsets
    """n + 1 positions in `points`."""
    present: Mask
    """False if the text is null (and has no characters)."""

    def keep(self, kept: Mask) -> Texts:
        """The texts without the characters where `kept` is False."""
        lengths = row_sums(kept, self.offsets)
        return Texts(self.points[kept], np.concatenate([[0], np.cumsum(lengths)]), self.present)

    def any(self, flags: Mask) -> Mask:
        """Mask of the texts with a flagged character. Cheap if few are flagged."""
        found: Mask = np.zeros(len(self.present), bool)
        found[self.rows(np.flatnonzero(flags))] = True
        return found

    def rows(self, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """The text that each position in `points` belongs to."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def filled(self) -> Mask:
        """Mask of the texts that have a character."""
        return self.offsets[1:] > self.offsets[:-1]


def blocks(column: pa.ChunkedArray | pa.Array) -> Iterator[pa.Array]:
    """A column of text in pieces of at most 32,768 rows and about 4 MiB; rows keep their order."""
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        chunk = chunk if chunk.type == pa.string() else chunk.cast(pa.string())
        # by the chunk's mean bytes per row; rows of very different length make blocks of different size
        step = max(1, min(_BLOCK_ROWS, len(chunk) * _BLOCK_BYTES // max(chunk.nbytes, 1)))
        for start in range(0, len(chunk), step):
            yield chunk.slice(start, step)


def decode(array: pa.Array) -> Texts:
    """Code points of an array of strings."""
    present = array.is_valid().to_numpy(zero_copy_only=False)
    # a null may hide bytes, which would shift everything behind it
    array = array.fill_null("") if array.null_count else array
    lengths = pc.utf8_length(array).to_numpy(zero_copy_only=False)
    # a slice shares its parent's buffers, so the bounds begin at its own offset
    _, starts, data = array.buffers()
    bounds = np.frombuffer(starts, np.int32, len(array) + 1, array.offset * 4) if len(array) else np.zeros(1, np.int32)
    raw = data.slice(int(bounds[0]), int(bounds[-1] - bounds[0])).to_pybytes() if data is not None else b""
    points = np.frombuffer(raw.decode().encode("utf-32-le"), np.dtype("<u4")).astype(np.uint32, copy=False)
    return Texts(points, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), present)


def encode(texts: Texts) -> pa.Array:
    """The reverse of `decode`."""
    points = texts.points
    # bytes of each character in UTF-8
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    bounds = np.concatenate([[0], np.cumsum(row_sums(sizes, texts.offsets))]).astype(np.int32)
    raw = points.astype("<u4", copy=False).tobytes().decode("utf-32-le").encode()
    valid = None if texts.present.all() else pa.array(texts.present).buffers()[1]
    return pa.Array.from_buffers(pa.string(), len(texts.present), [valid, pa.py_buffer(bounds), pa.py_buffer(raw)])


def row_sums(values: npt.NDArray[Any], offsets: Offsets) -> npt.NDArray[Any]:
    """Sum of each row's values (flags are counted), 0 for an empty row; unsigned integers wrap around."""
    kind = np.uint64 if values.dtype == np.uint64 else np.int64
    sums = np.zeros(len(offsets) - 1, kind)
    filled = offsets[1:] > offsets[:-1]
    # for an empty stretch reduceat gives the element at its start instead of 0
    sums[filled] = np.add.reduceat(values, offsets[:-1][filled], dtype=kind)
    return sums


def look_up(table: npt.NDArray[_Entry], points: Points) -> npt.NDArray[_Entry]:
    """The entry of each character in a table."""
    # "clip" saves numpy a check of every index, which halves the time
    return table.take(points, mode="clip")


@lru_cache(maxsize=1)
def every_character() -> pa.Array:
    """All code points as strings; a surrogate, which no text can contain, is a space."""
    points = np.arange(UNICODE, dtype=np.uint32)
    points[0xD800:0xE000] = 0x20
    return encode(Texts(points, np.arange(UNICODE + 1), np.ones(UNICODE, bool)))


def normalised(array: pa.Array, form: Form) -> pa.Array:
    """Texts (none null) in a Unicode normalisation form.

    All are normalised as one string: one call per text costs several times as much. pyarrow's `utf8_normalize` would be
    the natural choice, but does not compose: in 25.0.1 its NFC is NFD.
    """
    texts = array.to_pylist()
    joined = _BETWEEN.join(texts)
    # a text contains the separator itself: one call per text
    if joined.count(_BETWEEN) != max(len(texts) - 1, 0):
        return pa.array([unicodedata.normalize(form, text) for text in texts], pa.string())
    if unicodedata.is_normalized(form, joined):
        return array
    return pa.array(unicodedata.normalize(form, joined).split(_BETWEEN), pa.string())


@lru_cache(maxsize=4)
def normal_characters(form: Form) -> pa.Array:
    """Each code point below `NORMALISED_END` in a normalisation form."""
    return pa.array([unicodedata.normalize(form, c) for c in every_character()[:NORMALISED_END].to_pylist()])


@lru_cache(maxsize=64)
def matching(pattern: str) -> Table:
    """Mask of characters that match an RE2 pattern such as `[\\p{L}\\p{N}]`, over all of Unicode (1.1 MB, cached)."""
    return np.asarray(pc.match_substring_regex(every_character(), pattern).to_numpy(zero_copy_only=False))


def per_block(column: pa.ChunkedArray | pa.Array, judge: Callable[[pa.Array], Mask]) -> Mask:
    """Judge a column block by block."""
    return np.concatenate([np.zeros(0, bool), *map(judge, blocks(column))])
