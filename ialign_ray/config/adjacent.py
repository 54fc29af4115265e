"""Data files next to the experiment file, which are found before those of `storage.data`."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FIELDS = ("path", "links")
_SLOT = "{language}"


def use_adjacent_files(data: Mapping[str, Any], folder: Path) -> None:
    """Make the relative path of each data source absolute if there are such files in the folder; in place."""
    storage = data.get("storage")
    base = str(storage.get("data") or ".") if isinstance(storage, Mapping) else "."
    for source in _sources(data):
        for field in _FIELDS:
            path = source.get(field)
            # left as it is where both folders are one: a path in the records should not depend on where they are
            if (
                isinstance(path, str)
                and _is_relative(path)
                and not _is_same(folder, base)
                and _exists(folder, source, path)
            ):
                source[field] = str((folder / path).absolute())


def _sources(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = [data.get("corpora")]
    for section, field in (("replay", "sources"), ("evaluate", "suites"), ("decontamination", "sets")):
        below = data.get(section)
        lists.append(below.get(field) if isinstance(below, Mapping) else None)
    return (item for items in lists if isinstance(items, list) for item in items if isinstance(item, dict))


def _is_relative(path: str) -> bool:
    return "://" not in path and not path.startswith("pocket:") and not Path(path).expanduser().is_absolute()


def _is_same(folder: Path, base: str) -> bool:
    return "://" not in base and os.path.realpath(folder) == os.path.realpath(Path(base).expanduser())


def _exists(folder: Path, source: Mapping[str, Any], path: str) -> bool:
    """Return True if a file, a pattern, the archive of a member or the prefix of a language's file is in the folder."""
    full, here = str(folder / path.split("!/")[0]), glob.escape(str(folder))
    pattern = f"{here}/{path.split('!/')[0].replace(_SLOT, '*')}"
    if Path(full).exists() or glob.glob(pattern, recursive=True):  # noqa: PTH207
        return True
    columns = source.get("columns")
    codes = [c for c in columns.values() if isinstance(c, str)] if isinstance(columns, Mapping) else []
    return any(glob.glob(glob.escape(f"{full}.{code}") + end) for code in codes for end in ("", ".*"))  # noqa: PTH207
