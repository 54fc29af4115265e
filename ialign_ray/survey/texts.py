"""The units of a survey: short parallel texts in many languages, from one file of any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

import pyarrow as pa
from fontTools import unicodedata

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import ReadRequest
from ialign_ray.corpus.formats import format_name, is_by_language
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.readers import read_table, resolve
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.languages import canonical, display_name, normalise, tag_distance, usual_script

FEWEST: Final = 5
"""Units of a language below which no number is given."""
TABLES: Final = frozenset(["parquet", "jsonl", "json", "csv", "tsv", "sheet", "disk"])
"""Formats whose files name their columns; of the others the languages to read must be given."""
LANGUAGE_COLUMNS, TEXT_COLUMNS, UNIT_COLUMNS = ("lang", "language"), ("text",), ("article", "unit", "id")
"""Columns by which a file with one language per row is recognised; others are named by `--long`."""
_NO_LANGUAGES = frozenset(["id", "key", "row", "url", "doc", "src", "tgt", "ref", "set", "tag"])
"""Column names that are language codes as well; read as languages only if asked for."""
_TOGETHER = {"Hira": "Jpan", "Kana": "Jpan"}
_NO_SCRIPT = frozenset(["Zyyy", "Zinh", "Zzzz"])


@dataclass(frozen=True)
class SurveyTexts:
    """Units of each language that are aligned with a unit of the pivot."""

    pivot: str
    """Code of the pivot."""
    units: Mapping[str, Mapping[str, str]]
    """Language code -> unit -> text; the pivot comes first and has every unit."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names that the file gives."""
    scripts: Mapping[str, str] = field(default_factory=dict)
    """ISO 15924 code of the script that most letters of a language's texts are in."""
    longest: int | None = None
    """Most characters in the pivot of a unit that the model reads."""

    def chosen(self, code: str, limit: int) -> list[str]:
        """Units that the model reads in a language: the first `limit` in an order that is the same for all languages.

        The pivot's are those of all the others, so that every number is paired.
        """
        if code != self.pivot:
            return self._first(code, limit)
        wanted = {unit for other in self.units if other != code for unit in self.chosen(other, limit)}
        return sorted(wanted.union(self._first(code, limit)), key=share_of)

    def _first(self, code: str, limit: int) -> list[str]:
        pivot = self.units[self.pivot]
        short = [u for u in self.units[code] if self.longest is None or len(pivot[u]) <= self.longest]
        return sorted(short, key=share_of)[:limit]


def script_of_texts(texts: Sequence[str]) -> str:
    """ISO 15924 code of the script that most letters are in; empty for texts without letters."""
    counts = Counter(unicodedata.script(sign) for sign in "".join(texts)[:4000])
    found = [(n, _TOGETHER.get(script, script)) for script, n in counts.items() if script not in _NO_SCRIPT]
    # Japanese mixes Chinese characters with its own: a few of the latter decide
    if any(script == "Jpan" for _, script in found):
        return "Jpan"
    return max(found, default=(0, ""))[1]


def read_texts(
    path: str,
    base: str = ".",
    *,
    pivot: str = "eng",
    languages: Sequence[str] = (),
    long: Sequence[str] = (),
    longest: int | None = None,
) -> SurveyTexts:
    """Read the units of a file, a folder or a hub data set.

    Args:
        path, base: as `path` of a corpus and `storage.data`.
        pivot: language that the others are aligned with.
        languages: codes to read; all if empty.
        long: columns of language, text and unit in a file with one language per row; found by their names if empty.
        longest: most characters in the pivot of a unit that the model reads; of longer ones only tokens are counted.

    A text of several lines is split into its lines where the pivot's has as many; otherwise it is left out, as is a
    text whose unit the pivot lacks. Of several versions of a language in one script, the one named by the language's
    code is read; versions in another script are a separate language, such as `jav_Java`.

    Raises DataError for a file without the pivot, without a language, with two texts of one unit, or with fewer than 5
    units in a language that is asked for; ConfigError for a language that it does not have, with those whose names are
    near.
    """
    table = _table(path, base, pivot, languages)
    texts, names = _long(table, _long_columns(table, long, path), path) or _wide(table, pivot, languages)
    found = _named(texts, pivot)
    if found is None:
        known = ", ".join(list(texts)[:8])
        raise DataError(f"{path} has no texts in the pivot {pivot!r} (it has: {known}); choose one with --pivot")
    wanted = [found, *(_wanted(code, texts, path) for code in languages)] if languages else [found, *texts]
    aligned = _aligned({code: texts[code] for code in dict.fromkeys(wanted)}, found)
    if all(longest is not None and len(text) > longest for text in aligned[found].values()):
        raise DataError(f"{path} has no unit of at most {longest} characters in {found}; raise --longest")
    if len(aligned) < 2:
        raise DataError(f"{path} has no language but the pivot {found!r}; add one")
    if languages and (few := [code for code, units in aligned.items() if len(units) < FEWEST]):
        raise DataError(
            f"{path} has {len(aligned[few[0]])} units in {few[0]!r} that are aligned with {found!r}; give at least "
            f"{FEWEST}, or leave the language out of --languages"
        )
    scripts = {code: script_of_texts(list(units.values())) for code, units in aligned.items()}
    return SurveyTexts(found, aligned, {code: _name(code, names) for code in aligned}, scripts, longest)


def _table(path: str, base: str, pivot: str, languages: Sequence[str]) -> pa.Table:
    source = DataSource(hub=path.removeprefix("hub:")) if path.startswith("hub:") else DataSource(path=path)
    codes = [pivot, *(code for code in languages if code != pivot)]
    where = path if path.startswith("hub:") else resolve(path, base)
    # a table of all languages is read whole: its columns may be spelled in another way than asked for
    apart = not path.startswith("hub:") and is_by_language(where, codes)
    if not apart and format_name(where, ReadRequest(source, tuple(codes), False, 1, True)) in TABLES:
        return read_table(source, base)
    if not languages:
        raise ConfigError(f"{path} does not list its languages; name those to read with --languages, e.g. jav,sun")
    return read_table(source, base, codes)


def _long_columns(table: pa.Table, long: Sequence[str], path: str) -> tuple[str, str, str] | None:
    if not long:
        kinds = (LANGUAGE_COLUMNS, TEXT_COLUMNS, UNIT_COLUMNS)
        found = [next((name for name in names if name in table.column_names), None) for names in kinds]
        return None if None in found else (str(found[0]), str(found[1]), str(found[2]))
    if len(long) != 3:
        raise ConfigError(f"--long is {','.join(long)!r}; give the columns of language, text and unit: lang,text,id")
    for name in long:
        if name not in table.column_names:
            raise DataError(f"{path} has no column {name!r} (it has: {', '.join(table.column_names)}); see --long")
    return (long[0], long[1], long[2])


Texts = dict[str, dict[str, str]]


def _long(table: pa.Table, columns: tuple[str, str, str] | None, path: str) -> tuple[Texts, dict[str, str]] | None:
    if columns is None:
        return None
    versions: dict[tuple[str, str], dict[str, str]] = {}
    titles: dict[str, str] = {}
    ids = "id" if "id" in table.column_names and columns[2] != "id" else None
    names = "name" if "name" in table.column_names else None
    for row in table.select([c for c in (*columns, ids, names) if c]).to_pylist():
        code, text, unit = (row[c] for c in columns)
        if code is None or unit is None or not (text := str(text or "").strip()):
            continue
        version = str(row[ids]).rpartition(":")[0] if ids else ""
        units = versions.setdefault((str(code), version), {})
        if units.setdefault(str(unit), text) != text:
            raise DataError(f"{path}: {columns[2]} = {unit!r} has two texts in {code!r}; keep one of them")
        if names and row[names]:
            titles.setdefault(str(code), str(row[names]))
    # stable: of equal versions the first of the file
    order = sorted(versions, key=lambda key: (key[1] != key[0], not key[1].startswith(key[0])))
    found: Texts = {}
    for code, version in order:
        units = versions[code, version]
        found.setdefault(_written(code, list(units.values())), units)
    return dict(sorted(found.items())), titles


def _written(code: str, texts: Sequence[str]) -> str:
    """The code of a language with the script of its texts, if that is not the usual one."""
    script = script_of_texts(texts)
    try:
        # the code's own script, such as that of `zho_Hant`, is finer than what single characters show
        usual = {usual_script(code), canonical(code).partition("_")[2]} - {""}
        unusual = script and script not in usual and not (script in {"Hani", "Jpan", "Hang"} and usual & _HAN)
        return f"{normalise(code)}_{script}" if unusual else canonical(code)
    except ConfigError:
        return code


_HAN = frozenset(["Hans", "Hant", "Jpan", "Kore", "Hani"])


def _wide(table: pa.Table, pivot: str, languages: Sequence[str]) -> tuple[Texts, dict[str, str]]:
    columns = [f.name for f in table.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    asked = [_named(dict.fromkeys(columns), code) for code in (pivot, *languages)]
    style = _style(asked[0]) if asked[0] else None
    found: Texts = {}
    for name in columns:
        if name in asked or (style and _style(name) == style and name not in _NO_LANGUAGES):
            texts = {str(k): t.strip() for k, t in enumerate(table[name].to_pylist()) if t and t.strip()}
            code = canonical(name) if _style(name) else name
            found[name if code in found else code] = texts
    return found, {}


def _style(column: str) -> tuple[int, bool] | None:
    """Spelling of a column's code (length, with a script or not), which a file's languages share; None for a word."""
    try:
        canonical(column)
    except ConfigError:
        return None
    first = column.replace("-", "_").split("_")
    return (len(first[0]), len(first) > 1)


def _named(texts: Mapping[str, Any], code: str) -> str | None:
    """The code among `texts` that is nearest to the one asked for."""
    distances = {found: tag_distance(code, found) for found in texts}
    known = {found: far for found, far in distances.items() if far is not None}
    return min(known, key=lambda found: known[found]) if known else None


def _wanted(code: str, texts: Texts, path: str) -> str:
    if found := _named(texts, code):
        return found
    names = {display_name(c) if _style(c) else c: c for c in texts}
    near = get_close_matches(code, texts, 4, 0.5) + [names[n] for n in get_close_matches(code.title(), names, 4, 0.6)]
    hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else f"it has {', '.join(list(texts)[:8])}, ..."
    raise ConfigError(f"--languages: {path} has no texts in {code!r}; {hint}")


def _name(code: str, names: Mapping[str, str]) -> str:
    try:
        return display_name(code)
    except ConfigError:
        return names.get(code.partition("_")[0], code)


def _aligned(texts: Texts, pivot: str) -> Texts:
    lines = {unit: text.split("\n") for unit, text in texts[pivot].items()}
    found: Texts = {}
    for code, units in texts.items():
        found[code] = {
            f"{unit}/{k + 1}" if len(parts) > 1 else unit: part.strip()
            for unit, text in units.items()
            if len(parts := text.split("\n")) == len(lines.get(unit, ()))
            for k, part in enumerate(parts)
        }
    seen: set[str] = set()
    kept = set()
    for unit, text in found[pivot].items():
        # a text that occurs twice has two right answers in retrieval
        if text and text not in seen:
            seen.add(text)
            kept.add(unit)
    return {code: {unit: t for unit, t in units.items() if unit in kept and t} for code, units in found.items()}
