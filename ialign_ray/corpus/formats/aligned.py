"""One text file per language: aligned line by line (Moses, FLORES) or article by article (UDHR)."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.corpus.chunks import LINE, LONGEST, ROWS, WHOLE, Chunk, Format, ReadRequest, Rejects, parts
from ialign_ray.corpus.formats.files import beside, exists, is_folder, listing, matches, stamp, stored
from ialign_ray.corpus.formats.text import (
    Longs,
    Reject,
    TextRecords,
    chunk_records,
    is_utf8,
    splittable,
    unmarked,
    why_bad,
)
from ialign_ray.errors import DataError

SLOT = "{language}"
_FINEST = 4096
"""Number of lines between places where a chunk can begin."""


def file_sets(path: str, languages: Sequence[str]) -> list[tuple[str, ...]]:
    """The files of each aligned set, in the order of `languages`.

    `path` contains {language}, or is a folder with one file `<language>.<anything>` each, or the prefix of files
    `<path>.<language>`, which may be compressed. Raises DataError for a language without a file, or with several in
    a folder.
    """
    if not languages:
        raise DataError(f"{path}: aligned text files need their languages; name them in `columns`")
    if SLOT in path:
        return _slotted(path, languages)
    if is_folder(path):
        return [tuple(_in_folder(path, code) for code in languages)]
    return [tuple(beside(path, code) for code in languages)]


def are_there(path: str, languages: Sequence[str]) -> bool:
    """Return True if the path is the prefix of aligned files, or a folder of them."""
    if not languages:
        return False
    if is_folder(path):
        return all(listing(f"{glob.escape(path.rstrip('/'))}/{glob.escape(code)}.*") for code in languages)
    return any(exists(beside(path, code)) for code in languages)


def _in_folder(path: str, code: str) -> str:
    pattern = f"{path.rstrip('/')}/{code}.*"
    found = listing(f"{glob.escape(path.rstrip('/'))}/{glob.escape(code)}.*")
    if len(found) != 1:
        what = "no file" if not found else f"{len(found)} files"
        raise DataError(f"{pattern} matches {what}; it must be one for each language in `columns`")
    return found[0]


def _slotted(path: str, languages: Sequence[str]) -> list[tuple[str, ...]]:
    found = {code: matches(path.replace(SLOT, code)) for code in languages}
    if all(len(names) == 1 for names in found.values()):  # whatever wildcards match: `*.{language}.sgm`
        return [tuple(found[code][0] for code in languages)]
    keyed = {code: {_wild(path, code, name): name for name in names} for code, names in found.items()}
    for code, names in keyed.items():
        for key in keyed[languages[0]].keys() ^ names.keys():
            file = names.get(key) or keyed[languages[0]][key]
            raise DataError(f"{file} has no partner in {code if key not in names else languages[0]!r}; add or move it")
    return [tuple(keyed[code][key] for code in languages) for key in sorted(keyed[languages[0]])]


def _wild(path: str, code: str, name: str) -> tuple[str, ...]:
    """The parts of a file's name that the wildcards of a pattern match."""
    kinds = {"**": "(.*)", "*": "([^/]*)", "?": "([^/])"}
    pieces = re.split(r"(\*\*|\*|\?|\[[^]]*\])", path.replace(SLOT, code))
    pattern = "".join(kinds.get(p) or (f"({p})" if p.startswith("[") else re.escape(p)) for p in pieces)
    found = re.fullmatch(pattern, name)
    return found.groups() if found else (name,)


def plan_lines(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks over the same lines of all files. Raises DataError if their numbers of lines differ."""
    marks = tuple(stamp(f) for f in files)
    cuts = [((0,) * len(files), 1)]
    if not request.whole and all(splittable(f, request.source) for f in files):
        cuts = _cuts(request, files)
    ends = [start for start, _ in cuts[1:]] + [(-1,) * len(files)]
    return [
        Chunk(request.source, files, request.columns, file, start, end, line, marks)
        for (start, line), end in zip(cuts, ends, strict=True)
    ]


def _cuts(request: ReadRequest, files: tuple[str, ...]) -> list[tuple[tuple[int, ...], int]]:
    step = max(1, min(_FINEST, request.size >> 10))
    scans = [_offsets(f, request, step) for f in files]
    # the scan has counted the lines anyway, so a wrong set is refused before anything is read
    _same_length(files, [count for _, count in scans], "lines")
    offsets = np.stack([o for o, _ in scans], axis=1)  # (possible cuts, files)
    cuts = [((0,) * len(files), 1)]
    last = 0
    for k, total in enumerate(offsets.sum(axis=1)):
        if total - last >= request.size:
            cuts.append((tuple(int(o) for o in offsets[k]), (k + 1) * step + 1))
            last = total
    return cuts


def _offsets(path: str, request: ReadRequest, step: int) -> tuple[Longs, int]:
    """(where every `step`-th line ends, number of lines) of a file."""
    found, count, at, last = [np.zeros(0, np.int64)], 0, 0, b"\n"
    for block in stored(path):
        if not at:
            unmarked(path, block)  # refuses UTF-16 before it is cut in the middle of characters
        feeds = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
        # the feeds whose number, counted over the whole file, is a multiple of `step`
        found.append(feeds[(step - 1 - count) % step :: step] + at + 1)
        count, at, last = count + len(feeds), at + len(block), block[-1:]
    # a last line without line feed is a line
    torn = last != b"\n"
    ends = np.concatenate(found)
    if not torn and count and count % step == 0:
        ends = ends[:-1]  # no line begins there
    return ends, count + torn


def _same_length(files: Sequence[str], counts: Sequence[int], what: str) -> None:
    if len(set(counts)) > 1:
        first, *others = (f"{f} {n:,}" for f, n in zip(files[1:], counts[1:], strict=True))
        counted = ", ".join([f"{files[0]} has {counts[0]:,} {what}", first, *others])
        raise DataError(f"{counted}; aligned files must have as many, so fetch them again or fix the alignment")


def read_lines(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with one column per file; a line that is bad in one file is dropped from all."""
    dropped: set[int] = set()
    streams = [_lines(chunk, k, rejects, dropped) for k in range(len(chunk.files))]
    held: list[pa.Array] = [pa.array([], pa.string())] * len(streams)
    line = chunk.line
    while True:
        # an exhausted stream leaves its slot empty, which ends the loop; leftovers of another reveal unequal files
        held = [h if len(h) else next(s, h) for h, s in zip(held, streams, strict=True)]
        count = min([ROWS, *(len(h) for h in held)])
        if not count:
            break
        table = pa.table([h.slice(0, count) for h in held], names=list(chunk.names))
        table = table.append_column(LINE, pa.array(range(line, line + count), pa.int64()))
        if dropped:
            table = table.filter(pc.invert(pc.is_in(table[LINE], value_set=pa.array(sorted(dropped), pa.int64()))))
        yield table
        held, line = [h.slice(count) for h in held], line + count
    if any(len(h) for h in held):  # compressed files, which no scan has counted
        counts = [line - 1 + len(h) + sum(len(a) for a in s) for h, s in zip(held, streams, strict=True)]
        _same_length(chunk.files, counts, "lines")


def _lines(chunk: Chunk, k: int, rejects: Rejects, dropped: set[int]) -> Iterator[pa.Array]:
    """The lines of one file as arrays; bad ones are null and listed in `dropped`."""
    bad: list[int] = []

    def reject(line: int, reason: str) -> None:
        bad.append(line)
        dropped.add(line)
        rejects(chunk.files[k], line, reason)

    due = chunk.line
    for records in chunk_records(chunk, reject, k=k):
        array = _array(records, chunk, reject)
        if bad:  # also those that were too long to be in `records`
            array = _gapless(array, records.lines, due)
        due += len(array)
        if len(array):
            yield array
    if bad and due <= max(bad):
        yield pa.nulls(max(bad) + 1 - due, pa.string())


def _gapless(array: pa.Array, lines: Longs, due: int) -> pa.Array:
    places = np.full(int(lines[-1]) + 1 - due, -1) if len(lines) else np.zeros(0, np.int64)
    places[lines - due] = np.arange(len(lines))
    return array.take(pa.array(places, mask=places < 0))


def _array(records: TextRecords, chunk: Chunk, reject: Reject) -> pa.Array:
    """One string per record, without its line end; null if it is bad."""
    if not len(records):
        return pa.array([], pa.string())
    if b"\0" in records.data or not is_utf8(records.data):
        return pa.array([_text(records, k, chunk, reject) for k in range(len(records))], pa.string())
    # 30 million lines a second, against 4 for bytes.split and pa.array
    offsets = np.concatenate([records.starts[:1], records.ends + 1]).astype(np.int32)
    data = pa.py_buffer(records.data)
    return pc.utf8_rtrim(pa.StringArray.from_buffers(len(records), pa.py_buffer(offsets), data), characters="\r\n")


def _text(records: TextRecords, k: int, chunk: Chunk, reject: Reject) -> str | None:
    if reason := why_bad(records[k], chunk.source):
        reject(int(records.lines[k]), reason)
        return None
    return records[k].rstrip(b"\r").decode()


def plan_articles(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk, since a scan of lines cannot find where article k begins."""
    many = len(files)
    marks = tuple(stamp(f) for f in files)
    start, end, line = WHOLE
    return [Chunk(request.source, files, request.columns, file, (start,) * many, (end,) * many, line, marks)]


def read_articles(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with one row per article, its lines joined by line feeds; `__line` is its line in the first file."""
    streams = [_articles(part, rejects) for part in parts(chunk, 1)]
    counts, rows = [0] * len(streams), list[tuple[tuple[int, str | None], ...]]()
    for row in zip_longest(*streams):
        counts = [n + (article is not None) for n, article in zip(counts, row, strict=True)]
        if None not in row and all(text is not None for _, text in row):
            rows.append(row)
        if len(rows) == 1000:
            yield _article_table(rows, chunk)
            rows = []
    _same_length(chunk.files, counts, "articles")
    if rows:
        yield _article_table(rows, chunk)


def _article_table(rows: list[tuple[tuple[int, str | None], ...]], chunk: Chunk) -> pa.Table:
    columns = {n: pa.array([row[k][1] for row in rows], pa.string()) for k, n in enumerate(chunk.names)}
    return pa.table(columns | {LINE: pa.array([row[0][0] for row in rows], pa.int64())})


def _articles(part: Chunk, rejects: Rejects) -> Iterator[tuple[int, str | None]]:
    """(first line, text) of each article; the text is None if one of its lines is bad."""
    reject = partial(rejects, part.files[0])
    first, held, size, sound = 0, list[str](), 0, True
    for records in chunk_records(part, reject):
        for k in range(len(records)):
            text = _text(records, k, part, reject)
            if text is not None and not text.strip():
                if first:
                    yield first, "\n".join(held) if sound else None
                first, held, size, sound = 0, [], 0, True
                continue
            first, size = first or int(records.lines[k]), size + len(text or "")
            if sound and size > LONGEST:
                reject(first, f"begins an article of more than {LONGEST >> 20} MB; separate articles by blank lines")
            sound = sound and text is not None and size <= LONGEST
            held = [] if not sound else held
            held.append(text or "")
    if first:
        yield first, "\n".join(held) if sound else None


LINES = Format(plan_lines, read_lines, layout="aligned")
ARTICLES = Format(plan_articles, read_articles, layout="aligned")
