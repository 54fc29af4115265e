"""Translation memories (TMX 1.4), in constant memory and cut between units.

A `tuv` belongs to the columns that name its language. Real memories contain several variants of one language in a
unit: the one nearest to the column's tag is kept (`ialign_ray.languages.tag_distance`), of equally near ones the first
that is not empty. Text in `bpt`, `ept`, `ph`, `it`, `ut` and `sub` is formatting code and skipped; `hi` is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from ialign_ray.corpus.chunks import LONGEST, WHOLE, Chunk, Format, ReadRequest, Rejects, Span, chunks_of
from ialign_ray.corpus.formats.files import stamp, stored
from ialign_ray.corpus.formats.markup import Gathered, tables
from ialign_ray.corpus.formats.text import Reject, splittable
from ialign_ray.errors import DataError
from ialign_ray.languages import EQUAL, LAST_RESORT, tag_distance

ID = "tuid"
_UNIT = re.compile(rb"<tu[\s>]")
_SPOKEN = re.compile(rb"<tuv\b[^>]*?\s(?:xml:)?lang\s*=\s*[\"']([^\"']+)[\"']")
_TAG = 1024
"""Bytes that contain any tag that begins a variant."""
_OPAQUE = (b"<!--", b"<![CDATA[", b"<?")
"""Constructs that may contain `<tu` without a unit: such a file is read as one chunk."""
_FOREIGN = re.compile(rb"encoding\s*=\s*[\"'](?!utf-?8[\"']|us-ascii[\"']|ascii[\"'])", re.IGNORECASE)
_CODES = frozenset({"bpt", "ept", "ph", "it", "ut", "sub"})
_BEFORE = b"<tmx><body>"
_AFTER = b"</body></tmx>"


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """Chunks of a file, each from the start of a unit to that of another."""
    (path,) = files
    if not [c for c in request.columns if c != ID]:
        raise DataError(f"{path} is a translation memory; name the languages to read in `columns`")
    spans = [WHOLE]
    if not request.whole and splittable(path, request.source):
        spans = _spans(path, request.size)
    return chunks_of(request, files, file, spans, request.columns, stamp(path))


def _spans(path: str, size: int) -> list[Span]:
    spans: list[Span] = []
    start, line, at, here, rest = 0, 1, 0, 1, b""  # of the span; of the bytes held
    for block in stored(path):
        first, data = not at and not rest, rest + block
        if _whole_only(data, first):
            return [WHOLE]
        low, counted = 0, 0
        # no cut before the span is long enough
        while found := _UNIT.search(data, max(low, start + size - at)):
            here, counted = here + data.count(b"\n", counted, found.start()), found.start()
            if at + counted > start:
                spans.append((start, at + counted, line))
                start, line = at + counted, here
            low = counted + 1
        cut = max(counted, len(data) - len(_OPAQUE[1]))  # a mark may be split between two blocks
        here, at, rest = here + data.count(b"\n", counted, cut), at + cut, data[cut:]
    return [*spans, (start, -1, line)]


def _whole_only(data: bytes, first: bool) -> bool:
    if not first:
        return any(mark in data for mark in _OPAQUE)
    head, body = data[:1024], data[data.find(b"?>") + 2 if data.lstrip(b"\xef\xbb\xbf").startswith(b"<?xml") else 0 :]
    document = body.find(b"<!DOCTYPE")
    declares = document >= 0 and b"[" in body[document : body.find(b">", document)]
    return bool(declares or b"\0" in head or _FOREIGN.search(head) or any(mark in body for mark in _OPAQUE))


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with a column for each language (and `tuid`) that the chunk names."""
    # a chunk begins or ends between two units; synthetic tags make it a document
    before = _BEFORE if chunk.start[0] else b""
    after = _AFTER if chunk.end[0] >= 0 else b""
    yield from tables(Units(chunk.names, partial(rejects, chunk.files[0])), chunk, rejects, before, after)


class Units:
    """Makes rows of the units of a memory."""

    def __init__(self, names: tuple[str, ...], reject: Reject) -> None:
        self.rows: dict[str, list[str | None]] = {name: [] for name in names}
        self.lines: list[int] = []
        self._languages = [n for n in names if n != ID]
        self._known: dict[str, list[tuple[str, int]]] = {}
        self._reject = reject
        self.text = Gathered(_CODES)
        self._unit: dict[str, tuple[int, str]] | None = None
        self.line: Callable[[], int] = lambda: 0
        self._line = 0
        self._spoken = ""
        self._bad = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open a unit, a variant, its text, or a tag in it."""
        if self.text.pieces is not None:
            self.text.start(name)
        elif name == "seg":
            self.text.open()
        elif name == "tuv":
            # `lang` is its name in older memories
            self._spoken = attributes.get("xml:lang") or attributes.get("lang") or ""
        elif name == "tu":
            self._unit, self._line, self._bad = {}, self.line(), False
            if ID in self.rows and ID in attributes:
                self._unit[ID] = (0, attributes[ID])

    def end(self, name: str) -> None:
        """Close one of them; the end of a unit makes a row."""
        if self.text.depth:
            self.text.end()
        elif name == "seg":
            self._keep(self.text.close())
        elif name == "tuv":
            self._spoken = ""
        elif name == "tu" and self._unit is not None:
            if not self._bad:
                self.lines.append(self._line)
                for column, kept in self.rows.items():
                    kept.append(self._unit[column][1] if column in self._unit else None)
            self._unit = None

    def _keep(self, text: str | None) -> None:
        if self._unit is None:
            return
        if text is None:
            self._bad = True
            self._reject(self.line(), f"ends a segment of more than {LONGEST >> 20} MB; shorten it")
            return
        if text.strip():
            for column, distance in self._columns():
                if distance < self._unit.get(column, (LAST_RESORT + 1, ""))[0]:
                    self._unit[column] = (distance, text)

    def _columns(self) -> list[tuple[str, int]]:
        """Columns that a text of this variant may fill, and its distance from each; those that name it come alone."""
        if self._spoken not in self._known:
            far = [(c, d) for c in self._languages if (d := tag_distance(c, self._spoken)) is not None]
            self._known[self._spoken] = [(c, d) for c, d in far if d <= EQUAL] or far
        return self._known[self._spoken]


def languages_in(path: str) -> set[str]:
    """Language codes of the variants of a memory, as written."""
    found, rest = set[str](), b""
    for block in stored(path):
        data = rest + block
        found |= {code.decode(errors="replace") for code in _SPOKEN.findall(data)}
        rest = data[-_TAG:]  # a tag may be split between two blocks
    return found


FORMAT = Format(plan, read, suffixes=(".tmx",), version=2)
