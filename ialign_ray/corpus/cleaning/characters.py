"""Steps on characters: Unicode normalisation, white space, and characters that carry no text."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

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
)
from ialign_ray.corpus.cleaning.step import Mask, Outcome, Scope
from ialign_ray.corpus.cleaning.writing import BREAKING, JOINING, scripts_of

_SPACE = 0x20
_ZWJ = 0x200D
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


class Normalise:
    """Step `normalise`: a Unicode normalisation form; runs of any white space as one space, none at the ends."""

    version = 1

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
    joiners, interlinear and tag characters, noncharacters. U+200C and U+200D stay in scripts whose letters they shape,
    U+200B in those whose words it separates, U+180E in Mongolian, and U+200D between two emoji. U+FFFD means that a
    decoder met bytes it could not read: the text there is lost.
    """

    version = 1

    def __init__(self, settings: CharactersStep) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Clean every language."""
        outcome = _rewrite(table, scope, lambda code: lambda array: _cleaned(array, _textless(scripts_of(code))))
        for code in scope.languages:
            damaged = pc.match_substring(outcome.table[code], chr(_DAMAGE)).fill_null(False)
            outcome.dropped[code] = damaged.to_numpy()
        return outcome


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


@lru_cache(maxsize=256)
def _textless(scripts: tuple[str, ...]) -> Table:
    removed = matching(_TEXTLESS).copy()
    if JOINING.intersection(scripts):
        removed[[0x200C, _ZWJ]] = False
    if BREAKING.intersection(scripts):
        removed[0x200B] = False
    if "Mong" in scripts:
        removed[0x180E] = False
    return removed


def _cleaned(array: pa.Array, textless: Table) -> tuple[pa.Array, int]:
    texts = decode(array)
    removed = look_up(textless, texts.points)
    if removed.any():
        removed &= ~_joins_emoji(texts)
    touched = texts.any(removed)
    if not touched.any():
        return array, 0
    bare = texts.keep(~removed)
    # removed characters may have hidden white space from `normalise`, only in these texts
    clean = encode(_spaced(bare) or bare)
    return pc.if_else(pa.array(touched), clean, array), int(touched.sum())


def _joins_emoji(texts: Texts) -> Mask:
    """Zero-width joiners between two emoji, as in a family; the left one may carry a skin tone or U+FE0F."""
    points = texts.points
    joins: Mask = points == _ZWJ
    if not joins.any():
        return joins
    right = look_up(matching(r"\p{So}"), points)
    left = right | look_up(matching(r"[\x{FE0F}\x{1F3FB}-\x{1F3FF}]"), points)
    before, after = np.zeros_like(joins), np.zeros_like(joins)
    before[1:], after[:-1] = left[:-1], right[1:]
    heads, ends = texts.offsets[:-1][texts.filled()], texts.offsets[1:][texts.filled()]
    before[heads], after[ends - 1] = False, False
    return joins & before & after
