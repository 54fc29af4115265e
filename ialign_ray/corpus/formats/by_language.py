"""Files of one language each in a format with columns, such as `{language}.jsonl`: one text column of each, joined.

Rows belong together that have the same value in the source's `id` column; without one, those at the same place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import LINE, ROWS, WHOLE, Chunk, Format, ReadRequest, Rejects
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.nested import as_text, pick
from ialign_ray.errors import DataError

_KEY = "__key"


def languages_of(source: DataSource, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that name a language of a set of files: all but those that every file has."""
    return tuple(c for c in columns if c not in _shared(source))


def _shared(source: DataSource) -> list[str]:
    return list(dict.fromkeys(c for c in (getattr(source, "id", None), *source.where) if c))


def plan(found: Format, request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk: files are joined as wholes. Raises DataError for a file without the text column or a shared one."""
    names = languages_of(request.source, request.columns)
    if not found.by_language:
        raise DataError(
            f"{files[0]}: a file of the format {request.source.format} has several languages; name them in `columns` "
            "without {language} in the path, or set `format: lines` if each line is a text"
        )
    _inner(found, request.source, files)
    start, end, line = WHOLE
    marks = tuple(stamp(path) for path in files)
    return [Chunk(request.source, files, names, file, (start,) * len(files), (end,) * len(files), line, marks, True)]


def _inner(found: Format, source: DataSource, files: tuple[str, ...]) -> list[list[Chunk]]:
    columns = tuple(dict.fromkeys([source.text, *_shared(source)]))
    return [found.plan(ReadRequest(source, columns, True, 1, True), (path,), 1) for path in files]


def read(found: Format, chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with a column for each language and shared column; null if a file lacks the row."""
    source, before = chunk.source, len(rejects.bad)
    key = getattr(source, "id", None)
    others = [c for c in _shared(source) if c != key]
    sides: list[pa.Table] = []
    for path, planned in zip(chunk.files, _inner(found, source, chunk.files), strict=True):
        raw = [table for part in planned for table in found.read(part, rejects)]
        sides.append(_side(raw, path, source, key, rejects))
    if key is None and len(rejects.bad) > before:
        first = rejects.bad[before]
        raise DataError(f"{first.path}, line {first.line} {first.reason}; without an `id` no row can be dropped")
    if key is None and len({len(side) for side in sides}) > 1:
        counted = ", ".join(f"{path} has {len(side):,} rows" for path, side in zip(chunk.files, sides, strict=True))
        raise DataError(f"{counted}; name the `id` column that they are joined by, or fetch them again")
    # the dictionary is in the order of first occurrence, so the rows are too
    keys = pa.concat_arrays([side[_KEY].combine_chunks() for side in sides]).dictionary_encode()
    columns: dict[str, pa.Array] = {}
    at = 0
    for name, side, path in zip(chunk.names, sides, chunk.files, strict=True):
        rows = keys.indices[at : at + len(side)].to_numpy()
        at += len(side)
        place = np.full(len(keys.dictionary), -1)
        place[rows] = np.arange(len(side))
        if len(twice := np.flatnonzero(place[rows] != np.arange(len(side)))):
            line, value = side[LINE][int(twice[0])], side[_KEY][int(twice[0])]
            raise DataError(f"{path}, line {line}: duplicate id {value.as_py()!r}; name another column as `id`")
        taken = side.take(pa.array(place, mask=place < 0))
        columns[name] = taken[source.text]
        for shared in [*others, LINE]:
            columns[shared] = pc.coalesce(columns[shared], taken[shared]) if shared in columns else taken[shared]
    made = pa.table(columns | ({key: keys.dictionary} if key else {}))
    for start in range(0, made.num_rows, ROWS):
        yield made.slice(start, ROWS)


def _side(raw: list[pa.Table], path: str, source: DataSource, key: str | None, rejects: Rejects) -> pa.Table:
    """Text, key, shared columns and line of the rows of one file."""
    made = []
    for table in raw:
        texts = {c: pick(table, c) for c in dict.fromkeys([source.text, *_shared(source)])}
        columns = {c: pa.nulls(len(table), pa.string()) if t is None else as_text(t, c, path) for c, t in texts.items()}
        made.append(pa.table(columns | {LINE: table[LINE]}))
    side = pa.concat_tables(made).combine_chunks() if made else pa.table({n: [] for n in (source.text, LINE)})
    if key is None:
        return side.append_column(_KEY, pa.array(range(len(side))).cast(pa.string()))
    for line in side[LINE].filter(pc.is_null(side[key])).to_pylist():
        rejects(path, line, f"has no {key!r} to be joined by; fill it")
    side = side.filter(pc.is_valid(side[key]))
    return side.append_column(_KEY, side[key])
