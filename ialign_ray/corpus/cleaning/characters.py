"""Steps on characters: Unicode normalisation, white space, and characters that carry no text."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config.cleaning import CharactersStep, NormaliseStep
from ialign_ray.corpus.cleaning.codepoints import (
    NORMALISED_END,
    Form,
    Table,
    Texts,
    blocks,
    decode,
    encode,
    every_character,
    look_up,
    matching,
    normal_characters,
    normalised,
    per_block,
)
from ialign_ray.corpus.cleaning.step import Mask, Outcome, Scope

_SPACE = 0x20
_ZWJ = 0x200D
_NARROW = 0x202F
# White_Space of Unicode, and the four separators among the ASCII controls, at which Python's `split` splits too
_WHITE = r"[\t-\r\x1C-\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}]"
_CONTROLS = r"\x00-\x08\x0E-\x1B\x7F-\x{84}\x{86}-\x{9F}"
_FORMATS = (
    r"\x{AD}\x{61C}\x{180E}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}"
    r"\x{FEFF}\x{FFF9}-\x{FFFB}\x{E0000}-\x{E007F}"
)
_NONCHARACTERS = r"\x{FDD0}-\x{FDEF}" + "".join(rf"\x{{{plane:X}FFFE}}\x{{{plane:X}FFFF}}" for plane in range(17))
_TEXTLESS = rf"[{_CONTROLS}{_FORMATS}{_NONCHARACTERS}]"
_DAMAGE = 0xFFFD

_UNSHAPED = (
    r"[\p{Common}\p{Latin}\p{Greek}\p{Cyrillic}\p{Armenian}\p{Georgian}\p{Ethiopic}\p{Cherokee}\p{Han}\p{Hangul}"
    r"\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Thai}\p{Lao}\x{300}-\x{36F}\x{1AB0}-\x{1AFF}\x{1DC0}-\x{1DFF}"
    r"\x{20D0}-\x{20FF}\x{FE20}-\x{FE2F}]"
)
"""Characters whose form U+200C and U+200D do not change; next to any other letter or mark they are part of the text."""
_BROKEN = (
    r"[\p{Khmer}\p{Thai}\p{Lao}\p{Myanmar}\p{Tibetan}\p{Javanese}\p{Balinese}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}"
    r"\p{Tai_Viet}\p{Cham}\p{Batak}\p{Buginese}\p{Rejang}\p{Makasar}\p{Kawi}\p{Sundanese}\p{Lepcha}\p{Ahom}]"
)
"""Letters between which U+200B marks the ends of words."""
_MONGOLIAN = r"[\p{Mongolian}]"
"""Letters that U+180E and U+202F join to a suffix."""
_ZAWGYI = (
    r"[\x{105A}\x{1060}-\x{1097}]|\x{1039}(?:[^\x{1000}-\x{1021}]|$)"
    r"|(?:^|[^\x{1000}-\x{1028}\x{103B}-\x{103F}\x{1050}-\x{108F}\x{AA60}-\x{AA7F}])\x{1031}"
)
"""Sequences of Zawgyi, and of other languages in the Burmese script: few texts need the detector."""
_SURELY = 0.95
_EMOJI = r"[\p{So}\x{FE0F}\x{1F3FB}-\x{1F3FF}]"
_TAGS = r"[\x{E0020}-\x{E007F}]"


class Normalise:
    """Step `normalise`: a Unicode normalisation form; runs of any white space as one space, none at the ends.

    U+202F next to a Mongolian letter joins a suffix to its word and stays.
    """

    version = 2

    def __init__(self, settings: NormaliseStep) -> None:
        self.form = settings.form

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Normalise every language."""
        return _rewrite(table, scope, lambda _: self._block)

    def _block(self, array: pa.Array) -> tuple[pa.Array, int]:
        texts = decode(array)
        suspects = texts.any(look_up(_unstable(self.form), texts.points))
        composed = array
        if suspects.any():
            composed = pc.replace_with_mask(
                array, pa.array(suspects), normalised(array.filter(pa.array(suspects)), self.form)
            )
            texts = decode(composed)
        tidy = _spaced(texts)
        result = composed if tidy is None else encode(tidy)
        changed = 0 if result is array else int(pc.sum(pc.not_equal(result, array)).as_py() or 0)
        return result, changed


class Characters:
    """Step `characters`: remove invisible characters without meaning; drop texts with U+FFFD.

    Removed are C0 and C1 controls except white space, soft hyphens, byte order marks, marks of writing direction, word
    joiners, interlinear and tag characters, noncharacters. Whether a format character is needed is judged by its
    neighbours, not by the language: U+200C and U+200D stay next to letters that they shape, U+200B next to those whose
    words it separates, U+180E next to Mongolian ones, U+200D between two emoji, and tags behind an emoji (the flag of
    Wales). U+FFFD means that a decoder met bytes it could not read: the text there is lost. Burmese in the encoding of
    the font Zawgyi, whose code points are other letters in Unicode, is dropped too.
    """

    version = 2

    def __init__(self, settings: CharactersStep) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Clean every language."""
        outcome = _rewrite(table, scope, lambda _: _cleaned)
        for code in scope.languages:
            damaged = pc.match_substring(outcome.table[code], chr(_DAMAGE)).fill_null(False)
            outcome.dropped[code] = damaged.to_numpy() | in_zawgyi(outcome.table[code])
        return outcome


def in_zawgyi(column: pa.ChunkedArray) -> Mask:
    """Mask of the texts that are surely in Zawgyi, by the detector of Google's myanmar-tools."""
    return per_block(column, _in_zawgyi)


def _in_zawgyi(array: pa.Array) -> Mask:
    found = np.zeros(len(array), bool)
    points = decode(array).points
    if ((points >= 0x1031) & (points <= 0x1097)).any():  # regular expressions cost much more, and few texts need them
        suspects = pc.match_substring_regex(array, _ZAWGYI).fill_null(False)
        texts = array.filter(suspects).to_pylist()
        found[suspects.to_numpy(zero_copy_only=False)] = [
            _zawgyi_detector().get_zawgyi_probability(text) > _SURELY for text in texts
        ]
    return found


@lru_cache(maxsize=1)
def _zawgyi_detector() -> Any:
    from myanmartools import ZawgyiDetector

    return ZawgyiDetector()


Rewrite = Callable[[pa.Array], tuple[pa.Array, int]]


def _rewrite(table: pa.Table, scope: Scope, of: Callable[[str], Rewrite]) -> Outcome:
    outcome = Outcome(table)
    for code in scope.languages:
        rewrite = of(code)
        parts = [rewrite(block) for block in blocks(table[code])]
        outcome.changed[code] = sum(count for _, count in parts)
        column = pa.chunked_array([part for part, _ in parts], pa.string())
        if outcome.changed[code]:
            at = outcome.table.schema.get_field_index(code)
            outcome.table = outcome.table.set_column(at, code, column)
    return outcome


@lru_cache(maxsize=4)
def _unstable(form: Form) -> Table:
    """Characters that the form may change, alone or with their neighbours."""
    # marks and Hangul letters compose with preceding characters, even if neither changes alone
    unstable = matching(r"[\p{M}\x{1100}-\x{11FF}]").copy()
    changes = pc.not_equal(normal_characters(form), every_character()[:NORMALISED_END])
    unstable[:NORMALISED_END] |= changes.to_numpy(zero_copy_only=False)
    return unstable


def _spaced(texts: Texts) -> Texts | None:
    """White space in order: one plain space between words, none at the ends; None if it is so already."""
    white = look_up(matching(_WHITE), texts.points)
    narrow = texts.points == _NARROW
    if narrow.any():
        white &= ~(narrow & _beside(texts, _MONGOLIAN))
    heads, ends = texts.offsets[:-1][texts.filled()], texts.offsets[1:][texts.filled()]
    after = np.concatenate([white[1:], [True]])[: len(white)]
    after[ends - 1] = True
    spare = white & after
    other = white & (texts.points != _SPACE)
    if not (spare.any() or other.any() or white[heads].any()):
        return None
    points = np.where(other, np.uint32(_SPACE), texts.points)
    tidy = Texts(points, texts.offsets, texts.present).keep(~spare)
    # one space is left of a run at the start of a text
    heads = tidy.offsets[:-1][tidy.filled()]
    kept = np.ones(len(tidy.points), bool)
    kept[heads] = tidy.points[heads] != _SPACE
    return tidy.keep(kept)


def _cleaned(array: pa.Array) -> tuple[pa.Array, int]:
    texts = decode(array)
    removed = look_up(matching(_TEXTLESS), texts.points)
    if removed.any():
        removed &= ~_needed(texts)
    touched = texts.any(removed)
    if not touched.any():
        return array, 0
    bare = texts.keep(~removed)
    # removed characters may have hidden white space from `normalise`, only in these texts
    clean = encode(_spaced(bare) or bare)
    return pc.if_else(pa.array(touched), clean, array), int(touched.sum())


def _needed(texts: Texts) -> Mask:
    """Format characters that are part of the text, by their neighbours."""
    points = texts.points
    joiner, zwj = (points == 0x200C) | (points == _ZWJ), points == _ZWJ
    needed = np.zeros(len(points), bool)
    if joiner.any():
        # the left emoji may carry a skin tone or U+FE0F
        family = zwj & _neighbour(texts, _EMOJI, -1) & _neighbour(texts, r"\p{So}", 1)
        needed |= (joiner & _beside(texts, r"[\p{L}\p{M}]", _UNSHAPED)) | family
    for point, letters in ((0x200B, _BROKEN), (0x180E, _MONGOLIAN)):
        if (here := points == point).any():
            needed |= here & _beside(texts, letters)
    tags = look_up(matching(_TAGS), points)
    if tags.any():
        needed |= tags & _tagged(texts, tags)
    return needed


def _beside(texts: Texts, pattern: str, but: str = "") -> Mask:
    """Characters with a neighbour in their text that matches the pattern, and not `but`."""
    return _neighbour(texts, pattern, -1, but) | _neighbour(texts, pattern, 1, but)


def _neighbour(texts: Texts, pattern: str, side: int, but: str = "") -> Mask:
    """Characters whose neighbour before (-1) or after (1) them in their text matches."""
    table = matching(pattern) & ~matching(but) if but else matching(pattern)
    here, found = look_up(table, texts.points), np.zeros(len(texts.points), bool)
    if side < 0:
        found[1:] = here[:-1]
        found[texts.offsets[:-1][texts.filled()]] = False
    else:
        found[:-1] = here[1:]
        found[texts.offsets[1:][texts.filled()] - 1] = False
    return found


def _tagged(texts: Texts, tags: Mask) -> Mask:
    """Characters whose nearest character before them, apart from tags, is an emoji of the same text."""
    places = np.arange(len(tags))
    before = np.maximum.accumulate(np.where(tags, 0, places))
    found: Mask = look_up(matching(_EMOJI), texts.points)[before]
    same: Mask = texts.rows(before) == texts.rows(places)
    return found & same
