"""Test sets of the Conference on Machine Translation: `.xml` (since 2021) and the older `.sgm`, one language a file.

A column is a language, or `LANGUAGE:NAME` for the translator of a reference or the system of an output; `text` is the
only language of a file. Outputs of systems are read only under their names. `id` is `DOCUMENT:SEGMENT`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa

from ialign_ray.corpus.chunks import LONGEST, WHOLE, Chunk, Format, ReadRequest, Rejects, chunks_of
from ialign_ray.corpus.formats.files import stamp, suffix
from ialign_ray.corpus.formats.markup import Gathered, tables, taken
from ialign_ray.corpus.formats.text import Reject, texts, why_bad
from ialign_ray.errors import DataError

ID, TEXT = "id", "text"
_SETS = {"src": "lang", "ref": "lang", "hyp": "lang", "srcset": "srclang", "refset": "trglang", "tstset": "trglang"}
"""Elements of one language -> the attribute that names it."""
_OUTPUTS = frozenset({"hyp", "tstset"})
_TAG = re.compile(rf"<(/?)({'|'.join(_SETS)}|doc|seg|p|hl)\b((?:[^<>\"']|\"[^\"]*\"|'[^']*')*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"([\w:.-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_REFERENCE = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6}));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def plan(request: ReadRequest, files: tuple[str, ...], file: int) -> list[Chunk]:
    """One chunk: these files are small."""
    (path,) = files
    if not [c for c in request.columns if c != ID]:
        raise DataError(f"{path} is a test set of WMT; name the languages to read in `columns`")
    return chunks_of(request, files, file, [WHOLE], request.columns, stamp(path))


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables with one row per segment. Raises DataError for a language that the file lacks."""
    path, documents = chunk.files[0], Documents(chunk.names, chunk.files[0])
    if suffix(path) == ".xml":
        yield from tables(documents, chunk, rejects)
    else:
        _feed(documents, chunk, partial(rejects, path))
        yield from taken(documents)
    documents.check()


class Documents:
    """Makes rows of the segments of a test set."""

    def __init__(self, names: tuple[str, ...], path: str) -> None:
        self.rows: dict[str, list[str | None]] = {name: [] for name in names}
        self.lines: list[int] = []
        self.text = Gathered(frozenset())
        self.line: Callable[[], int] = lambda: 0
        self._path = path
        self._found: dict[str, None] = {}
        """Languages, and names of their versions, that the file has."""
        self._outputs: set[str] = set()
        """Versions that are outputs of systems."""
        self._used: set[str] = set()
        self._language = self._version = ""
        self._output = self._named_below = False
        self._document = self._segment = ""
        self._begun = 0
        self._held: dict[str, tuple[int, dict[str, str]]] = {}
        """Segment of the open document -> its line, and its texts by language and version."""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open a set, a document or a segment."""
        if self.text.pieces is not None:
            return
        if name in _SETS:
            self._language, self._output = attributes.get(_SETS[name], ""), name in _OUTPUTS
            self._version = attributes.get("translator") or attributes.get("system") or ""
            self._named_below = name in {"refset", "tstset"}
        elif name == "doc":
            self._document, self._held = attributes.get("docid") or attributes.get("id") or "", {}
            if self._named_below:
                self._version = attributes.get("sysid", "")
        elif name == "seg":
            self._segment, self._begun = attributes.get("id") or str(len(self._held) + 1), self.line()
            self.text.open()

    def end(self, name: str) -> None:
        """Close one of them; the end of a document makes its rows."""
        if name == "seg" and self.text.pieces is not None:
            text = self.text.close()
            version = f"{self._language}:{self._version}" if self._version or self._output else self._language
            self._found[version] = None
            self._outputs |= {version} if self._output else set()
            if text and text.strip():
                self._held.setdefault(self._segment, (self._begun, {}))[1][version] = text
        elif name == "doc":
            chosen = {column: self._choice(column) for column in self.rows if column != ID}
            for segment, (line, found) in self._held.items():
                self.lines.append(line)
                for column, kept in self.rows.items():
                    kept.append(found.get(chosen[column]) if column != ID else f"{self._document}:{segment}")
            self._held = {}

    def _choice(self, column: str) -> str:
        """The version of the open document that a column names. Raises DataError if there are several."""
        there = dict.fromkeys(version for _, found in self._held.values() for version in found)
        texts = [v for v in there if v not in self._outputs]
        versions = [v for v in texts if column == TEXT or v.partition(":")[0] == column]
        versions += [column] * (column in there and column not in versions)
        if column not in versions and len(versions) > 1:
            raise DataError(f"{self._path} has several texts for {column!r}; name one of {', '.join(versions)}")
        self._used.update([column] * bool(versions))
        return column if column in versions else "".join(versions)

    @property
    def unfinished(self) -> bool:
        """True inside a document that has segments."""
        return bool(self._held)

    def check(self) -> None:
        """Raise DataError if nothing was found for a column."""
        if not self._found:
            raise DataError(f"{self._path} has no segment of a test set of WMT; set `format` to what it is")
        if absent := [name for name in self.rows if name not in {*self._used, ID}]:
            raise DataError(f"{self._path} has no text in {absent[0]!r}; it has {', '.join(self._found)}")


def _feed(documents: Documents, chunk: Chunk, reject: Reject) -> None:
    """Send the tags of an SGML file to the handler: unlike XML it may have `&` and `<` as they are in its text."""
    data = b""
    for block in texts(chunk.files[0], chunk.source):
        data += block
        if len(data) > LONGEST:
            raise DataError(f"{chunk.files[0]} is larger than {LONGEST >> 20} MB, which no test set is; check it")
    for number, line in enumerate(data.split(b"\n"), start=1):
        if reason := why_bad(line, chunk.source):
            raise DataError(f"{chunk.files[0]}, line {number} {reason}")
    text = data.decode()
    feeds = [m.start() for m in re.finditer("\n", text)]
    opened: re.Match[str] | None = None
    for tag in _TAG.finditer(text):
        documents.line = partial(_line, feeds, tag.start())
        closing, name = bool(tag[1]), tag[2].lower()
        if opened and not (closing and name == "seg"):
            reject(_line(feeds, opened.start()), "begins a segment that is not closed; close it")
            documents.text.close()
        if opened and closing and name == "seg":
            documents.text.data(_REFERENCE.sub(_character, text[opened.end() : tag.start()]))
        opened = None if closing or name != "seg" else tag
        if closing:
            documents.end(name)
        else:
            documents.start(name, {a[1].lower(): a[2] or a[3] or a[4] or "" for a in _ATTRIBUTE.finditer(tag[3])})
    if opened or documents.unfinished:
        reject(len(feeds) + 1, "ends in the middle of a document; fetch it again")


def _line(feeds: list[int], position: int) -> int:
    return bisect_right(feeds, position) + 1


def _character(found: re.Match[str]) -> str:
    """The character of a reference; an unknown one stays as it is."""
    if found[1]:
        return _NAMED[found[1]]
    code = int(found[2]) if found[2] else int(found[3], 16)
    return chr(code) if 31 < code < 0xD800 or 0xDFFF < code < 0x110000 else found[0]


FORMAT = Format(plan, read, suffixes=(".xml", ".sgm", ".sgml"), by_language=True)
