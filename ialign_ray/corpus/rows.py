"""Parallel rows in the common schema, made from the raw tables of any reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ialign_ray.config import CorpusConfig, LongLayout
from ialign_ray.corpus.chunks import LINE, BadRow, Chunk, ReadNotes, Rejects
from ialign_ray.corpus.identity import text_key
from ialign_ray.corpus.nested import as_text, pick
from ialign_ray.corpus.readers import CHUNK, chosen, plan_chunks, read_parts, sample
from ialign_ray.corpus.schema import schema
from ialign_ray.errors import DataError

_KEY = "__key"
"""The identity without the corpus' name, null if the text identifies the row."""
_FILE = "__file"
_WITHIN = "\0"
"""Line feed inside a segment of a list, while texts are split into units: no text contains a NUL."""


def corpus_chunks(corpus: CorpusConfig, base: str, size: int = CHUNK) -> list[Chunk]:
    """Chunks of a corpus; only one if a row depends on all others, for `limit` or `long.join`."""
    whole = corpus.long is not None and corpus.long.join is not None
    return plan_chunks(corpus, base, _wanted(corpus), size, whole)


def _wanted(corpus: CorpusConfig) -> list[str]:
    long = corpus.long
    extra = [*long.languages, long.text, long.join] if long else []
    return list(dict.fromkeys(c for c in [*corpus.columns.values(), corpus.id, *extra] if c))


def read_rows(
    corpus: CorpusConfig, chunk: Chunk, bad: list[BadRow], notes: ReadNotes | None = None
) -> Iterator[pa.Table]:
    """Tables of `corpus.table`, after `where` and `limit`; texts without outer white space, null if empty.

    An id is `<corpus>:<identity>`: the value of the id column, of `long.join`, or a hash of the text of the first
    language that the row has; with `units`, `/1`, `/2` and so on follow.
    """
    rejects = Rejects(corpus, bad)
    raw = _raw(corpus, chunk, bad, notes)
    if corpus.limit is not None:
        raw = _sampled(raw, corpus.limit)
    rows: Iterator[pa.Table] = (_rows(table, corpus) for table in raw)
    if corpus.long and corpus.long.join:
        rows = _joined(rows, corpus, chunk, rejects)
    for table in rows:
        made = _identified(table, corpus)
        if made.num_rows:
            yield _split(made, corpus.languages) if corpus.units else made


def _raw(corpus: CorpusConfig, chunk: Chunk, bad: list[BadRow], notes: ReadNotes | None) -> Iterator[pa.Table]:
    for file, table in read_parts(chunk, bad, notes):
        kept = chosen(table, corpus, corpus.origin)
        columns = {name: pick(kept, name) for name in _wanted(corpus)}
        # one object of JSON Lines may lack a column, and another have it as a number
        texts = {n: _text(c, n, corpus, kept.num_rows) for n, c in columns.items()}
        yield pa.table(texts | {LINE: kept[LINE], _FILE: pa.array(np.full(kept.num_rows, file, np.int32))})


def _text(column: pa.ChunkedArray | None, name: str, corpus: CorpusConfig, rows: int) -> pa.ChunkedArray | pa.Array:
    if column is None:
        return pa.nulls(rows, pa.string())
    # a segment of a list is one unit, whatever is in it
    return as_text(column, name, corpus.origin, _WITHIN if corpus.units else "\n")


def _sampled(tables: Iterable[pa.Table], limit: int) -> Iterator[pa.Table]:
    held = list(tables)
    if held:
        yield sample(pa.concat_tables(held).combine_chunks(), limit)


def _rows(table: pa.Table, corpus: CorpusConfig) -> pa.Table:
    """Columns `__key`, `__file`, `__line` and the languages, of raw text columns."""
    texts = {code: _trimmed(table[name]) for code, name in corpus.columns.items()}
    key = corpus.id
    if corpus.long:
        table, texts = _spoken(table, texts, corpus.long)
        key = corpus.long.join or key
    keys = table[key] if key else pa.nulls(table.num_rows, pa.string())
    columns = {_KEY: keys, _FILE: table[_FILE], LINE: table[LINE]}
    return pa.table(columns | {code: texts[code] for code in corpus.languages})


def _trimmed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    bare = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(bare, ""), pa.scalar(None, pa.string()), bare)


def _spoken(
    table: pa.Table, texts: dict[str, pa.ChunkedArray], long: LongLayout
) -> tuple[pa.Table, dict[str, pa.ChunkedArray]]:
    """The rows of known languages, with each text in the column of its language."""
    # null if one of several columns is
    spoken = pc.binary_join_element_wise(*(table[name] for name in long.languages), "_")
    known = pc.is_in(spoken, value_set=pa.array(list(long.values.values()), pa.string()))
    table, spoken = table.filter(known), spoken.filter(known)
    texts = {code: column.filter(known) for code, column in texts.items()}
    text, nothing = _trimmed(table[long.text]), pa.scalar(None, pa.string())
    for code, value in long.values.items():
        own = pc.if_else(pc.fill_null(pc.equal(spoken, value), False), text, nothing)
        texts[code] = pc.coalesce(own, texts[code]) if code in texts else own
    return table, texts


def _joined(tables: Iterable[pa.Table], corpus: CorpusConfig, chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """One row for each value of the join column, in the order of their first rows."""
    held = list(tables)
    if not held:
        return
    table = pa.concat_tables(held).combine_chunks()
    for row in table.filter(pc.is_null(table[_KEY])).select([_FILE, LINE]).to_pylist():
        rejects(chunk.files[row[_FILE] - 1], row[LINE], f"has no {_join(corpus)!r} to be joined by; fill it")
    table = table.filter(pc.is_valid(table[_KEY])).combine_chunks()
    if not table.num_rows:
        return
    # the dictionary is in the order of first occurrence, so the rows are too
    keys = table[_KEY].combine_chunks().dictionary_encode()
    group = keys.indices.to_numpy()
    first = _first(group, np.arange(len(group)), len(keys.dictionary))
    texts = {code: _one_each(table, code, group, corpus, chunk) for code in corpus.languages}
    places = {_FILE: table[_FILE].take(pa.array(first)), LINE: table[LINE].take(pa.array(first))}
    yield pa.table({_KEY: keys.dictionary} | places | texts)


def _join(corpus: CorpusConfig) -> str:
    return str(corpus.long and corpus.long.join)


def _first(group: NDArray[np.int32], values: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """The first value of each group, -1 for an empty one."""
    first = np.full(groups, -1, np.int64)
    first[group[::-1]] = values[::-1]  # of several writes the last one stays
    return first


def _one_each(table: pa.Table, code: str, group: NDArray[np.int32], corpus: CorpusConfig, chunk: Chunk) -> pa.Array:
    """The text of each group in a language. Raises DataError if a group has two."""
    encoded = table[code].combine_chunks().dictionary_encode()
    there = np.flatnonzero(encoded.is_valid().to_numpy(zero_copy_only=False))
    text = encoded.indices.fill_null(-1).to_numpy()
    first = _first(group[there], there, int(group.max()) + 1)
    if len(two := there[text[there] != text[first[group[there]]]]):
        rows = [int(first[group[two[0]]]), int(two[0])]
        at = [f"{chunk.files[table[_FILE][k].as_py() - 1]}, line {table[LINE][k].as_py()}" for k in rows]
        raise DataError(
            f"corpus {corpus.name!r}: {_join(corpus)} = {table[_KEY][rows[0]].as_py()!r} has two texts in {code!r} "
            f"({at[0]}, and {at[1]}); choose one version with `where`"
        )
    return encoded.dictionary.take(pa.array(np.where(first < 0, -1, text[first]), mask=first < 0))


def _identified(table: pa.Table, corpus: CorpusConfig) -> pa.Table:
    key = table[_KEY].combine_chunks() if table.num_rows else table[_KEY]
    if key.null_count:
        # without an id a sentence is known by its text, so that it is one sentence in every pair file
        spoken = pc.coalesce(*(table[code] for code in corpus.languages), pa.scalar("", pa.string()))
        key = pc.coalesce(key, pa.array([text_key(t).hex() for t in spoken.to_pylist()], pa.string()))
    ids = pc.binary_join_element_wise(f"{corpus.name}:", key, "")
    columns = [ids, table[_FILE], table[LINE], *(table[code] for code in corpus.languages)]
    return pa.table(columns, schema=schema(corpus.languages))


def _split(table: pa.Table, languages: Sequence[str]) -> pa.Table:
    """Split rows whose languages have the same number of lines, above one, into one row per line; keep the others."""
    table = table.combine_chunks()
    counts = np.stack([_lines(table[code]) for code in languages])
    there = counts > 0
    most = counts.max(axis=0)
    whole = (most < 2) | ((counts != most) & there).any(axis=0)
    rows, pieces = np.flatnonzero(~whole), most[~whole]
    parent, k = np.repeat(rows, pieces), np.concatenate([[0], *(np.arange(n) for n in pieces)])[1:].astype(np.int64)
    ids = pc.binary_join_element_wise(table["id"].take(parent), pa.array(k + 1).cast(pa.string()), "/")
    columns = {"id": ids, "file": table["file"].take(parent), "line": table["line"].take(parent)}
    for code in languages:
        columns[code] = _pieces(table[code].combine_chunks(), parent, k)
    units = pa.table(columns, schema=table.schema)
    units, parent = _without_empty(units, parent, languages)
    order = np.argsort(np.concatenate([np.flatnonzero(whole), parent]), kind="stable")
    made = pa.concat_tables([table.filter(pa.array(whole)), units]).take(pa.array(order))
    restored = [pc.replace_substring(made[code], _WITHIN, "\n") for code in languages]
    return pa.table([made["id"], made["file"], made["line"], *restored], schema=table.schema)


def _lines(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Number of lines of each text, 0 if it is null."""
    return np.asarray(pc.fill_null(pc.add(pc.count_substring(column, "\n"), 1), 0)).astype(np.int64)


def _pieces(column: pa.Array, parent: NDArray[np.int64], k: NDArray[np.int64]) -> pa.Array:
    """The k-th line of the text of each parent row."""
    # all lines of all texts as one array, indexed by each unit
    lines = pc.split_pattern(column, "\n")
    start = np.concatenate([[0], np.cumsum(pc.fill_null(pc.list_value_length(lines), 0).to_numpy())])
    absent = pc.is_null(column).to_numpy(zero_copy_only=False)[parent]
    return _trimmed(pc.list_flatten(lines).take(pa.array(start[parent] + k, mask=absent)))


def _without_empty(
    units: pa.Table, parent: NDArray[np.int64], languages: Sequence[str]
) -> tuple[pa.Table, NDArray[np.int64]]:
    """Drop blank lines between paragraphs, which are not units."""
    some = np.any([pc.is_valid(units[code]).to_numpy() for code in languages], axis=0)
    return units.filter(pa.array(some)), parent[some]
