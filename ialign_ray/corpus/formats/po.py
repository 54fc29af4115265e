"""Gettext PO, with polib (MIT, no dependencies; translate-toolkit is GPL). Raw columns: `source`, `target`, `id`.

Entries that are untranslated, fuzzy or obsolete are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import polib
import pyarrow as pa

from ialign_ray.corpus.chunks import LINE, LONGEST, Chunk, Format, Rejects
from ialign_ray.corpus.formats import xliff
from ialign_ray.corpus.formats.files import first_line
from ialign_ray.corpus.formats.text import texts, why_bad
from ialign_ray.errors import DataError


def read(chunk: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
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
    rows = [e for e in entries if not _waiting(e)]
    rejects.notes.left_out.update(Counter(reason for e in entries if (reason := _waiting(e))))
    yield pa.table(
        {
            "source": pa.array([e.msgid_plural or e.msgid for e in rows], pa.string()),
            "target": pa.array([_translation(e) for e in rows], pa.string()),
            "id": pa.array([e.msgctxt for e in rows], pa.string()),
            LINE: pa.array([e.linenum for e in rows], pa.int64()),
        }
    )


def _waiting(entry: polib.POEntry) -> str | None:
    """The reason to leave an entry out; None if it is translated."""
    if entry.obsolete:
        return "obsolete"
    return "fuzzy" if entry.fuzzy else None if entry.translated() else "untranslated"


def _translation(entry: polib.POEntry) -> str:
    return str(entry.msgstr or entry.msgstr_plural[max(entry.msgstr_plural)])


def _limited(path: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for block in blocks:
        size += len(block)
        if size > LONGEST:
            raise DataError(f"{path} is larger than {LONGEST >> 20} MB, which no PO file is; check it")
        yield block


FORMAT = Format(xliff.plan, read, suffixes=(".po",), version=2)
