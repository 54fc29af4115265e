"""XLIFF 1.2 and 2.0, with Trados' and memoQ's dialects of 1.2 (`.sdlxliff`, `.mqxliff`).

Raw columns: `source`, `target`, `id`. What waits for a translator is left out and counted by the file's own word: a
state that is new, initial or in need of something, a draft, a rejected or unconfirmed segment, `translate="no"`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from ialign_ray.corpus.chunks import LONGEST, WHOLE, Chunk, Format, ReadRequest, Rejects, chunks_of
from ialign_ray.corpus.formats.files import stamp
from ialign_ray.corpus.formats.markup import Gathered, tables
from ialign_ray.errors import DataError

COLUMNS = ("source", "target", "id")
_CODES = frozenset({"bpt", "ept", "ph", "it", "sub", "x", "bx", "ex", "sc", "ec"})
_UNITS = ("trans-unit", "unit")
_SCOPES = ("file", "group", *_UNITS)
_SIDES = ("source", "seg-source", "target")
_ASIDE = ("alt-trans", "matches", "ignorable", "bin-unit")
"""Proposals, white space between segments, and elements without text."""
_FINISHED = ("translated", "reviewed", "signed-off", "final")


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk: these files are small."""
    (path,) = files
    for column in request.columns:
        if column not in COLUMNS:
            raise DataError(f"{path} has no column {column!r}; it has {', '.join(COLUMNS)}")
    return chunks_of(request, files, file, [WHOLE], request.names, stamp(path))


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with one row per `trans-unit`, or per segment of one."""
    yield from tables(Segments(rejects, chunk.files[0]), chunk, rejects)


class Segments:
    """Makes rows of the units of an XLIFF file."""

    def __init__(self, rejects: Rejects, path: str) -> None:
        self.rows: dict[str, list[str | None]] = {name: [] for name in COLUMNS}
        self.lines: list[int] = []
        self.text = Gathered(_CODES)
        self.line: Callable[[], int] = lambda: 0
        self._reject, self._left_out = partial(rejects, path), rejects.notes.left_out
        self._aside = 0
        self._translate = [True]
        """For each open file, group and unit: False if its text is not for translation."""
        self._side = ""
        self._inner: list[tuple[str | None, int]] = []
        """For each open tag in a side: its segment, and the number of pieces of text before it."""
        self._unit: dict[str, str] = {}
        self._begun = 0
        self._made: list[tuple[str, str, str, int]] = []
        """Finished segments of the unit: id, source, target, line."""
        self._held = _Held()

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open a unit, a side, or a tag in it."""
        name = name.rpartition(":")[2]
        if self.text.pieces is not None:
            is_segment = name == "mrk" and attributes.get("mtype") == "seg"
            self._inner.append((attributes.get("mid", "") if is_segment else None, len(self.text.pieces)))
            self.text.start(name)
        elif self._aside or name in _ASIDE:
            self._aside += 1
        elif name in _SCOPES:
            own = attributes.get("translate")
            self._translate.append(self._translate[-1] if own is None else own != "no")
            if name in _UNITS:
                self._unit, self._begun, self._held = attributes, self.line(), _Held()
        elif name == "segment":
            self._begun, self._held = self.line(), _Held(marks=attributes)
        elif name in _SIDES:
            self._side = name
            self.text.open()
            if name == "target":
                self._held.marks |= attributes
        elif name == "seg-defs":
            self._held.states = {}
        elif name == "seg" and self._held.states is not None:
            self._held.states[attributes.get("id", "")] = attributes.get("conf", "none")

    def end(self, name: str) -> None:
        """Close one of them; the end of a unit makes its rows."""
        name = name.rpartition(":")[2]
        if self.text.pieces is not None:
            self._end_inside(self.text.pieces)
        elif self._aside:
            self._aside -= 1
        elif name == "segment":
            self._finish(self._held.marks.get("id") or str(len(self._made) + 1))
        elif name in _SCOPES:
            if name in _UNITS:
                self._finish("")
                self._end_unit()
            self._translate.pop()

    def _end_inside(self, pieces: list[str]) -> None:
        """Close a tag in a side, or the side."""
        if not self._inner:
            text = self._held.sides[self._side] = self.text.close()
            if text is None:
                self._reject(self.line(), f"ends a {self._side} of more than {LONGEST >> 20} MB; shorten it")
            return
        segment, before = self._inner.pop()
        if self.text.depth:
            self.text.end()
        elif segment is not None:
            self._held.parts.setdefault(self._side, {})[segment] = "".join(pieces[before:])

    def _finish(self, segment: str) -> None:
        """Keep the segments of a unit of 1.2, or one segment of 2.0."""
        held, self._held = self._held, _Held()
        if None in held.sides.values():
            return  # too long, which is reported
        parts = held.parts.get("seg-source") or held.parts.get("source") or {}
        targets = held.parts.get("target", {})
        if parts and (targets or not (held.sides.get("target") or "").strip()):
            for mid, source in parts.items():
                state = None if held.states is None else held.states.get(mid, "none")
                self._keep(mid, source, targets.get(mid), held.marks, state)
        elif held.sides:
            state = next(iter(held.states.values()), "none") if held.states else None
            self._keep(segment, held.sides.get("source"), held.sides.get("target"), held.marks, state)

    def _keep(
        self, segment: str, source: str | None, target: str | None, marks: Mapping[str, str], conf: str | None
    ) -> None:
        if not (source or "").strip():
            return
        if reason := _waiting(target, self._translate[-1], marks, conf, self._unit.get("mq:status")):
            self._left_out[reason] += 1
        else:
            self._made.append((segment, source or "", target or "", self._begun))

    def _end_unit(self) -> None:
        unit = self._unit.get("id", "")
        for segment, source, target, line in self._made:
            self.lines.append(line)
            identity = unit if len(self._made) == 1 else f"{unit}/{segment}"
            for column, text in zip(COLUMNS, (source, target, identity), strict=True):
                self.rows[column].append(text)
        self._made = []


@dataclass
class _Held:
    """State of an open unit of 1.2, or segment of 2.0."""

    sides: dict[str, str | None] = field(default_factory=dict)
    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    """Side -> segment -> text."""
    marks: dict[str, str] = field(default_factory=dict)
    """Attributes of the target, and of the segment of 2.0."""
    states: dict[str, str] | None = None
    """Segment -> state, in Trados' files."""


def _waiting(
    target: str | None, translate: bool, marks: Mapping[str, str], conf: str | None, status: str | None
) -> str | None:
    """The reason to leave a segment out, in the file's words; None if it is translated."""
    state, qualifier = marks.get("state", ""), marks.get("state-qualifier", "")
    if not translate:
        return "translate=no"
    if not (target or "").strip():
        return "untranslated"
    if state in {"new", "initial"} or state.startswith("needs-"):
        return f"state={state}"
    if qualifier.startswith("rejected") or (qualifier == "fuzzy-match" and state not in _FINISHED):
        return f"state-qualifier={qualifier}"
    if conf is not None and (conf in {"none", "Draft"} or conf.startswith("Rejected")):
        return f"conf={conf}"
    if status is not None and not any(word in status for word in ("Confirmed", "Proofread", "Reviewed")):
        return f"status={status}"
    return None


FORMAT = Format(plan, read, suffixes=(".xliff", ".xlf", ".sdlxliff", ".mqxliff"), version=2)
