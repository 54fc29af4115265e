"""Data in a zip archive: the aligned files of the languages, or the only file of a known format.

OPUS packs `Tatoeba.en-sw.en`, `Tatoeba.en-sw.sw`, a README, a LICENSE and tables of ids and links in one archive.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from ialign_ray.corpus.formats.files import compression, members, suffix
from ialign_ray.errors import DataError

_APART = re.compile(r"^[._]|^(readme|licen[cs]e|copying|changelog|about)\b", re.IGNORECASE)
"""Names of files that are not data; also hidden files, and those that a Mac adds."""
_LINKS = frozenset({".xml", ".ids", ".scores", ".info"})
"""OPUS' tables about aligned files."""
_ALIGNED = frozenset({"auto", "lines", "articles"})


def inside(archive: str, languages: Sequence[str], named: str, endings: Sequence[str]) -> str:
    """Path of the data in an archive, for `languages` (or columns), the format's name and the endings of formats.

    Raises DataError if nothing fits, or more than one thing does.
    """
    names = [n for n in members(archive) if not any(_APART.search(part) for part in PurePosixPath(n).parts)]
    found = _stems(names, languages) if named in _ALIGNED and languages else []
    if not found:
        found = [n for n in names if suffix(n) in endings and suffix(n) not in _LINKS]
    if not found and named not in _ALIGNED:
        found = [n for n in names if suffix(n) not in _LINKS]  # the user has said what it is
    if len(found) == 1:
        return f"{archive}!/{found[0]}"
    listed = ", ".join(sorted(found or members(archive))[:10])
    if found:
        raise DataError(f"{archive} has several sets of data ({listed}); name one, as in {archive}!/{sorted(found)[0]}")
    wanted = " or ".join(map(repr, languages)) or "a known suffix"
    raise DataError(
        f"{archive} has no file that ends in {wanted}, and none of a known format; it has {listed}: name one, as in "
        f"{archive}!/NAME"
    )


def _stems(names: Sequence[str], languages: Sequence[str]) -> list[str]:
    """Prefixes to which every language can be added, and patterns in which it can take the place of {language}."""
    plain = [n[: -len(PurePosixPath(n).suffix)] if compression(n) else n for n in names]
    ends = [{n.removesuffix(f".{code}") for n in plain if n.endswith(f".{code}")} for code in languages]
    if both := set.intersection(*ends):
        return sorted(both)
    begins = [
        {
            re.sub(rf"(^|/){re.escape(code)}\.", r"\1{language}.", n)
            for n in names
            if re.search(rf"(^|/){re.escape(code)}\.", n)
        }
        for code in languages
    ]
    return sorted(set.intersection(*begins))
