"""Translators' files of two languages: XLIFF 1.2 and 2.0, and gettext PO. Raw columns: `source`, `target`, `id`.

Uses the XML stream of TMX, and polib (MIT, no dependencies); translate-toolkit reads both, but is GPL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import polib
import pyarrow as pa

from ialign_ray.corpus.chunks import LINE, LONGEST, WHOLE, Chunk, Format, ReadRequest, Rejects, chunks_of
from ialign_ray.corpus.formats.files import first_line, stamp
from ialign_ray.corpus.formats.markup import Gathered, tables
from ialign_ray.corpus.formats.text import Reject, texts, why_bad
from ialign_ray.errors import DataError

COLUMNS = ("source", "target", "id")
_CODES = frozenset({"bpt", "ept", "ph", "it", "sub", "x", "bx", "ex", "sc", "ec"})
_UNITS = ("trans-unit", "unit")


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk: these files are small."""
    (path,) = files
    for column in request.columns:
        if column not in COLUMNS:
            raise DataError(f"{path} has no column {column!r}; it has {', '.join(COLUMNS)}")
    return chunks_of(request, files, file, [WHOLE], request.names, stamp(path))


def read_xliff(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with one row per `trans-unit` (1.2) or `segment` (2.0)."""
    yield from tables(Segments(partial(rejects, chunk.files[0])), chunk, rejects)


class Segments:
    """Makes rows of the units of an XLIFF file; proposals in `alt-trans` and `mtc:matches` are skipped."""

    def __init__(self, reject: Reject) -> None:
        self.rows: dict[str, list[str | None]] = {name: [] for name in COLUMNS}
        self.lines: list[int] = []
        self._reject = reject
        self.text = Gathered(_CODES)
        self._held: dict[str, str | None] = {}
        self._unit: str | None = None
        self.line: Callable[[], int] = lambda: 0
        self._line = self._aside = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open a unit, a side, or a tag in it."""
        name = name.rpartition(":")[2]
        if self.text.pieces is not None:
            self.text.start(name)
        elif self._aside or name in {"alt-trans", "matches"}:
            self._aside += 1
        elif name in _UNITS:
            self._unit, self._line, self._held = attributes.get("id", ""), self.line(), {}
        elif name == "segment":
            self._line = self.line()
        elif name in {"source", "target"}:
            self.text.open()

    def end(self, name: str) -> None:
        """Close one of them; the end of a segment, or of a unit without segments, makes a row."""
        name = name.rpartition(":")[2]
        if self.text.depth:
            self.text.end()
        elif self.text.pieces is not None:
            if name in {"source", "target"}:
                self._held[name] = self.text.close()
                if self._held[name] is None:
                    self._reject(self.line(), f"ends a {name} of more than {LONGEST >> 20} MB; shorten it")
        elif self._aside:
            self._aside -= 1
        elif name in {"segment", *_UNITS} and self._held:
            self.lines.append(self._line)
            for column, text in {**dict.fromkeys(COLUMNS), **self._held, "id": self._unit}.items():
                self.rows[column].append(text)
            self._held = {}


def read_po(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """A table of the entries that are translated and not fuzzy; of a plural, the last form. `id` is the context."""
    path = chunk.files[0]
    data = b"".join(_limited(path, texts(path, chunk.source)))
    for number, line in enumerate(data.split(b"\n"), start=1):
        if reason := why_bad(line, chunk.source):
            raise DataError(f"{path}, line {number} {reason}")
    try:
        # a comment at the end: polib would open a file whose name the text is
        entries = list(polib.pofile(data.decode() + "\n# end\n"))
    except Exception as error:  # polib raises IndexError and others for malformed files
        reason = first_line(error).replace("Syntax error in po file (", "syntax error (").replace("None ", "")
        raise DataError(f"{path} is malformed: {reason}; fix it with msgfmt --check") from error
    rows = [e for e in entries if e.translated() and not e.obsolete]
    yield pa.table(
        {
            "source": pa.array([e.msgid_plural or e.msgid for e in rows], pa.string()),
            "target": pa.array([_translation(e) for e in rows], pa.string()),
            "id": pa.array([e.msgctxt for e in rows], pa.string()),
            LINE: pa.array([e.linenum for e in rows], pa.int64()),
        }
    )


def _translation(entry: polib.POEntry) -> str:
    return str(entry.msgstr or entry.msgstr_plural[max(entry.msgstr_plural)])


def _limited(path: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > LONGEST:
            raise DataError(f"{path} is larger than {LONGEST >> 20} MB, which no PO file is; check it")
        yield block


XLIFF = Format(plan, read_xliff, suffixes=(".xliff", ".xlf"))
PO = Format(plan, read_po, suffixes=(".po",))
