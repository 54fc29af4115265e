"""XML as a stream of events in constant memory, safe against entities, with exact lines.

Uses the standard library's expat, with the handlers that defusedxml would set: declarations of entities and references
to external ones are refused, and no DTD is ever fetched. Not lxml, which keeps a tree and, for a document type, its
entities; not defusedxml, whose SAX reader refuses the `<!DOCTYPE tmx SYSTEM "tmx14.dtd">` of every other TMX.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol
from xml.parsers import expat

import pyarrow as pa

from ialign_ray.corpus.chunks import LINE, LONGEST, ROWS, Chunk, Rejects
from ialign_ray.corpus.formats.files import stored
from ialign_ray.corpus.formats.text import codec, texts
from ialign_ray.errors import DataError

_FEED = 1 << 20
_LONGEST_TAG = 16 << 20
"""Longest tag in bytes: expat reads a tag again from its start with each block, so an endless one costs quadratic
time."""


class Events(Protocol):
    """Handler of a format's events; texts go into `rows` by column, and the line of each row into `lines`."""

    rows: dict[str, list[str | None]]
    lines: list[int]
    text: Gathered
    line: Callable[[], int]
    """Return the parser's line; a call, since there are many events and few need it."""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Handle the start of an element."""

    def end(self, name: str) -> None:
        """Handle the end of an element."""


def tables(
    events: Events, chunk: Chunk, rejects: Rejects, before: bytes = b"", after: bytes = b""
) -> Iterator[pa.Table]:
    """Tables of a chunk between two synthetic parts. A torn or malformed file is one bad row: earlier rows are kept."""
    path = chunk.files[0]
    # the synthetic part before a chunk has no line feed, so lines count from the chunk's first
    shift = chunk.line - 1
    parser = _parser(events, path, shift, chunk)
    try:
        parser.Parse(before, False)
        fed = len(before)
        for block in _blocks(chunk):
            parser.Parse(block, False)
            fed += len(block)
            if fed - parser.CurrentByteIndex > _LONGEST_TAG:
                raise DataError(
                    f"{path}, line {parser.CurrentLineNumber + shift} begins a tag of over 16 MB; shorten it"
                )
            yield from taken(events)
        parser.Parse(after, True)
    except expat.ExpatError as error:
        yield from taken(events)
        reason = expat.ErrorString(error.code)
        rejects(path, error.lineno + shift, f"is malformed XML ({reason}); fetch it again or fix it")
    except (ValueError, LookupError) as error:  # raised by pyexpat for a declared encoding that it lacks
        raise DataError(f"{path} declares an encoding that cannot be read ({error}); set `encoding`") from error
    yield from taken(events)


def _blocks(chunk: Chunk) -> Iterator[bytes]:
    path, (start,), (end,) = chunk.files[0], chunk.start, chunk.end
    if codec(chunk.source) == "utf-8":
        return stored(path, start, end, _FEED)
    return texts(path, chunk.source, start, end, _FEED)


def _parser(events: Events, path: str, shift: int, chunk: Chunk) -> expat.XMLParserType:
    # an encoding that the user names overrides the one that the file declares
    parser = expat.ParserCreate(None if codec(chunk.source) == "utf-8" else "utf-8")
    # otherwise expat passes a text in parts, broken at line ends and references
    parser.buffer_text = True

    def refuse(what: str, cure: str) -> DataError:
        return DataError(f"{path}, line {parser.CurrentLineNumber + shift} {what}; {cure}")

    def declared(name: str, *_: object) -> None:
        raise refuse(f"declares the entity {name!r}", "remove the declaration and write the text itself")

    def external(context: str | None, base: str | None, system: str | None, public: str | None) -> int:
        raise refuse(f"refers to the external entity {system!r}", "put its text in the file")

    def skipped(name: str, is_parameter: bool) -> None:
        raise refuse(f"uses the entity {name!r}, which XML does not know", "write the character itself")

    parser.EntityDeclHandler = declared
    parser.ExternalEntityRefHandler = external
    parser.SkippedEntityHandler = skipped
    parser.StartElementHandler = events.start
    parser.EndElementHandler = events.end
    parser.CharacterDataHandler = events.text.data
    events.line = lambda: parser.CurrentLineNumber + shift
    return parser


def taken(events: Events) -> Iterator[pa.Table]:
    """Tables of the rows that were made, which are taken from the handler."""
    for k in range(0, len(events.lines), ROWS):
        columns = {n: pa.array(texts[k : k + ROWS], pa.string()) for n, texts in events.rows.items()}
        yield pa.table(columns | {LINE: pa.array(events.lines[k : k + ROWS], pa.int64())})
    events.lines.clear()
    for kept in events.rows.values():
        kept.clear()


class Gathered:
    """The text between two tags, without formatting code."""

    def __init__(self, codes: frozenset[str]) -> None:
        self.codes = codes
        self.pieces: list[str] | None = None
        self.size = self.depth = 0

    def open(self) -> None:
        """Start a text."""
        self.pieces, self.size, self.depth = [], 0, 0

    def start(self, name: str) -> None:
        """Open a tag inside the text; everything inside a tag of code is code."""
        if self.pieces is not None and (self.depth or name in self.codes):
            self.depth += 1

    def end(self) -> None:
        """Close a tag."""
        if self.depth:
            self.depth -= 1

    def data(self, text: str) -> None:
        """Add characters, if they are text."""
        if self.pieces is not None and not self.depth and self.size <= LONGEST:
            self.pieces.append(text)
            self.size += len(text)

    def close(self) -> str | None:
        """Return the text; None if it is too long."""
        pieces, self.pieces = self.pieces or [], None
        return "".join(pieces) if self.size <= LONGEST else None
