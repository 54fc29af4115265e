"""Tatoeba's export: sentences of all languages in one table, and the links between their numbers in another.

One row per link between a sentence of a pivot (the first language, if the source names none) and one of another
language; its `id` is both numbers, `PIVOT-OTHER`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import CorpusConfig
from ialign_ray.corpus.chunks import LINE, ROWS, Chunk, Format, ReadRequest, Rejects
from ialign_ray.corpus.formats import delimited
from ialign_ray.corpus.formats.files import matches, stamp
from ialign_ray.corpus.formats.text import Longs
from ialign_ray.errors import DataError

ID = "id"
_TABLE = {"format": "tsv", "delimiter": "\t", "quote": "none", "header": "none"}


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk of all tables: a link may join any two sentences."""
    if not request.source.links:
        raise DataError(f"{files[0]}: the format tatoeba needs the table of links; name it in `links`")
    names = tuple(c for c in request.columns if c != ID)
    if len(names) < 2:
        raise DataError(f"{files[0]} has sentences of many languages; name those to read in `columns`")
    both = (*files, *matches(request.source.links))
    ends = (0,) * len(both), (-1,) * len(both)
    return [Chunk(request.source, both, names, file, *ends, 1, tuple(map(stamp, both)))]


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with a column for each language, of which a row has the pivot's and one other, and `id`."""
    links = set(matches(str(chunk.source.links)))
    sentences = _sentences(chunk, [f for f in chunk.files if f not in links], rejects)
    number, spoken = sentences["1"].to_numpy(), sentences["2"].combine_chunks().dictionary_encode()
    codes = spoken.dictionary.to_pylist()
    language = spoken.indices.to_numpy()
    pairs = np.concatenate([_links(chunk, path, number, rejects) for path in chunk.files if path in links])
    # either direction may be the one that is listed
    pairs = np.unique(np.concatenate([pairs, pairs[:, ::-1]]), axis=0)
    sides = language[np.searchsorted(number, pairs)]
    pivots = [codes.index(p) for p in _pivots(chunk)]
    pairs, sides = (a[np.isin(sides[:, 0], pivots) & ~np.isin(sides[:, 1], pivots)] for a in (pairs, sides))
    for start in range(0, len(pairs), ROWS):
        yield _table(chunk, sentences, codes, pairs[start : start + ROWS], sides[start : start + ROWS])


def _pivots(chunk: Chunk) -> list[str]:
    source = chunk.source
    return [source.columns[p] for p in source.pivots] if isinstance(source, CorpusConfig) else [chunk.names[0]]


def _tables(chunk: Chunk, path: str, columns: list[str], rejects: Rejects) -> Iterator[pa.Table]:
    k = chunk.files.index(path)
    source = chunk.source.model_copy(update=_TABLE)
    part = replace(chunk, source=source, files=(path,), names=(), start=(0,), end=(-1,), stamp=chunk.stamp[k : k + 1])
    for table in delimited.TSV.read(part, rejects):
        if missing := [c for c in columns if c not in table.column_names]:
            raise DataError(f"{path} has no column {missing[0]} of Tatoeba's table; fetch it again")
        yield table.select([*columns, LINE])


def _sentences(chunk: Chunk, files: list[str], rejects: Rejects) -> pa.Table:
    """Number, language, text and line of the sentences of the languages, in the order of their numbers."""
    found, others = [], Counter[str]()
    for path in files:
        for table in _tables(chunk, path, ["1", "2", "3"], rejects):
            others.update(pc.unique(table["2"]).to_pylist())
            known = table.filter(pc.is_in(table["2"], value_set=pa.array(chunk.names, pa.string())))
            found.append(known.set_column(0, "1", _numbers(known["1"], path)))
    if absent := [name for name in chunk.names if not others[name]]:
        listed = ", ".join(sorted(code for code in others if code)[:40])
        raise DataError(f"{files[0]} has no sentence in {absent[0]!r}; it has {listed}")
    sentences = pa.concat_tables(found).sort_by("1").combine_chunks()
    numbers = sentences["1"].to_numpy()
    if len(twice := np.flatnonzero(numbers[1:] == numbers[:-1])):
        raise DataError(f"{files[0]} has sentence {numbers[twice[0]]} twice; name each table once")
    return sentences


def _numbers(column: pa.ChunkedArray, path: str) -> pa.ChunkedArray:
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not a table of Tatoeba: {error}; a sentence's number is expected") from error


def _links(chunk: Chunk, path: str, numbers: Longs, rejects: Rejects) -> Longs:
    """The links between known sentences."""
    kept = [np.zeros((0, 2), np.int64)]
    for table in _tables(chunk, path, ["1", "2"], rejects):
        pairs = np.stack([_numbers(table[c], path).to_numpy() for c in ("1", "2")], axis=1)
        kept.append(pairs[np.isin(pairs, numbers).all(axis=1)])
    return np.concatenate(kept)


def _table(chunk: Chunk, sentences: pa.Table, codes: list[str], pairs: Longs, sides: Longs) -> pa.Table:
    places = np.searchsorted(sentences["1"].to_numpy(), pairs)
    columns: dict[str, pa.ChunkedArray] = {}
    for name in chunk.names:
        of = sides == codes.index(name)
        columns[name] = sentences["3"].take(
            pa.array(np.where(of[:, 0], places[:, 0], places[:, 1]), mask=~of.any(axis=1))
        )
    columns[ID] = pa.array([f"{a}-{b}" for a, b in pairs.tolist()], pa.string())
    return pa.table(columns | {LINE: sentences[LINE].take(pa.array(places[:, 0]))})


FORMAT = Format(plan, read, layout="together", settings=frozenset({"links"}))
