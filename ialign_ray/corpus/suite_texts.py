"""Undeclared texts of an evaluation file: the same sentences in other languages, which would leak its rows.

Named columns are texts. So are other columns that resemble them: prose rather than ids, addresses or codes, of many
distinct values (labels and topics have few), and about as long. Files with one language each (aligned lines, a
translation memory) are searched for the languages that were not named.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import DataSource, SuiteSource
from ialign_ray.corpus import formats
from ialign_ray.corpus.chunks import ReadRequest
from ialign_ray.corpus.cleaning.words import normalised_words
from ialign_ray.corpus.formats.files import listing, matches, resolve
from ialign_ray.corpus.formats.tmx import languages_in
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError

SEEN = 2_000
"""Number of rows, spread over a file, by which a column is judged."""
MANY = 20
"""Fewest distinct values of a column of texts rather than labels, unless the declared texts have fewer."""
WORDS = 3.0
"""Fewest mean words of a column of texts; fewer if the declared texts are shorter."""
_CODE = r"^[\x21-\x7e]*[0-9_/:@#=\\][\x21-\x7e]*$|^\w+://|^\P{L}*$"
"""Ids, addresses, dates: one ASCII piece with a digit or a mark of code in it; or no letter at all."""


ANSWERS = (
    *("targets", "completion", "response", "output", "answer", "messages", "conversations", "conversation"),
    *("id", "source", "system", "system_prompt"),
)
"""Columns of an instruction file other than the requests: many requests have the same answer."""


def aside(suite: SuiteSource) -> set[str]:
    """Columns that a suite names for something other than text."""
    named = (getattr(suite, field, None) for field in ("id", "label", "answer", "split_column", "checks"))
    return {c for c in (*named, suite.long and suite.long.language) if c}


def file_texts(
    source: DataSource, base: str, declared: Sequence[str], aside: Collection[str] = ()
) -> dict[str, pa.Array]:
    """Column (`struct.field` where nested) -> its texts, null if there is no text; all of a row at the same index.

    `declared` columns come first and must exist; of the others, those that resemble text are added, except `aside`
    (ids, labels, splits). Raises DataError as `read_table` does.
    """
    table = _read(source, base, declared)
    columns: dict[str, pa.Array] = {}
    known: dict[str, pa.Array] = {}
    others = []
    for column in table.column_names:
        if column not in aside or column in declared:
            strings = dict(_strings(column, table[column].combine_chunks()))
            columns |= strings
            known |= strings if column in declared else {}
            others += [column] if column in declared and not strings else []
    known |= {n: pc.cast(table[n].combine_chunks(), pa.string()) for n in others}  # say, numbers
    lengths = [_mean_words(a) for a in known.values()]
    distinct = [_distinct(a) for a in known.values()]
    words = min([WORDS, *(n / 2 for n in lengths if n)])
    many = min([MANY, *(max(3.0, n / 2) for n in distinct if n)])
    found = {n: a for n, a in columns.items() if n not in known and _reads_like_text(a, words, many)}
    return known | found


def text_columns(table: pa.Table, fewest: float = MANY) -> dict[str, pa.Array]:
    """Column (`struct.field`, `list.2`) -> its texts, of the columns that resemble texts; `fewest` distinct values at
    most separate texts from labels."""
    found = (strings for name in table.column_names for strings in _strings(name, table[name].combine_chunks()))
    return {name: column for name, column in found if _reads_like_text(column, WORDS, min(MANY, fewest))}


def _read(source: DataSource, base: str, declared: Sequence[str]) -> pa.Table:
    """Extend a source to every language in its file, or in aligned files next to it."""
    others = _undeclared_languages(source, base, declared)
    table = read_table(source, base, [*declared, *others.get("memory", ())], structured=True)
    for code in others.get("aligned", ()):
        try:
            beside = read_table(source, base, [*declared[:1], code])
        except DataError:  # other lines: a different text in the same place
            continue
        table = table.append_column(code, beside[code])
    return table


def _undeclared_languages(source: DataSource, base: str, declared: Sequence[str]) -> dict[str, list[str]]:
    if source.hub or not declared:
        return {}
    path = resolve(str(source.path), base)
    named = formats.format_name(path, ReadRequest(source, tuple(declared), True, 1, True))
    if named == "tmx":
        spoken = {code for file in matches(path) for code in languages_in(file)}
        return {"memory": sorted(spoken - set(declared))}
    if not formats.is_by_language(path, declared):
        return {}
    return {"aligned": sorted(set(_codes(path, declared)) - set(declared))}


def _codes(path: str, declared: Sequence[str]) -> Iterator[str]:
    """Language parts in the names of files that otherwise match the declared ones."""
    if "{language}" in path:
        before, _, after = path.partition("{language}")
        place = len(Path(before + "x").parts) - 1
        ending = re.escape(re.split(r"[/*?\[{]", after)[0])
        pattern = re.compile(re.escape(before.rpartition("/")[2]) + r"([\w-]+)" + ending)
        for file in listing(path.replace("{language}", "*")):
            if found := pattern.match(Path(file).parts[place]):
                yield found[1]
    elif Path(path).is_dir():
        own = [file for code in declared for file in listing(f"{glob.escape(path)}/{glob.escape(code)}.*")]
        endings = {name.partition(".")[2] for name in map(_name, own)}
        for name in map(_name, listing(f"{glob.escape(path)}/*.*")):
            if name.partition(".")[2] in endings:
                yield name.partition(".")[0]
    else:
        for file in listing(f"{glob.escape(path)}.*"):
            yield file.removeprefix(f"{path}.")


def _name(file: str) -> str:
    return Path(file).name


def _strings(name: str, column: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The strings in a column: one array per place in its structure, each as long as the column."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _strings(name, column.dictionary_decode())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield name, column.cast(pa.string())
    elif pa.types.is_struct(kind):
        for field in kind:
            yield from _strings(f"{name}.{field.name}", pc.struct_field(column, field.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        most = pc.max(pc.list_value_length(column)).as_py() or 0
        for place in range(min(most, 64)):
            has = pc.greater(pc.fill_null(pc.list_value_length(column), 0), place)
            item = pc.list_element(column.filter(has), place)
            back = pc.subtract(pc.cumulative_sum(pc.cast(has, pa.int64())), 1)
            yield from _strings(f"{name}.{place}", item.take(pc.if_else(has, back, None)))


def _reads_like_text(column: pa.Array, words: float, many: float) -> bool:
    seen = _seen(column)
    if not len(seen) or _distinct(column) < many:
        return False
    codes = pc.mean(pc.cast(pc.match_substring_regex(seen, _CODE), pa.float64())).as_py()
    return bool(codes < 0.5 and _mean_words(seen) >= words)


def _seen(column: pa.Array) -> pa.Array:
    filled = column.filter(pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False))
    return filled.take(pa.array(np.arange(0, len(filled), max(1, len(filled) // SEEN))))


def _mean_words(column: pa.Array) -> float:
    seen = _seen(column)
    return len(normalised_words(seen)[0]) / len(seen) if len(seen) else 0.0


def _distinct(column: pa.Array) -> int:
    return int(pc.count_distinct(column).as_py())
