"""The formats of sources, and the choice of a path's format.

An installed package adds a format by an entry point of the group `ialign.formats` that names a `Format`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ialign_ray.config import DataSource
from ialign_ray.corpus.chunks import SETTINGS, Chunk, Format, ReadRequest
from ialign_ray.corpus.formats import (
    aligned,
    by_language,
    columnar,
    delimited,
    json_files,
    jsonl,
    po,
    spreadsheet,
    tatoeba,
    tmx,
    wmt,
    xliff,
)
from ialign_ray.corpus.formats.archives import inside
from ialign_ray.corpus.formats.files import exists, is_folder, is_folder_error, matches, suffix
from ialign_ray.errors import DataError
from ialign_ray.plugins import Extensible

__all__ = ["FORMATS", "Format", "format_name", "format_of", "is_by_language", "plan"]

FORMATS: Extensible[Format] = Extensible(
    "ialign.formats",
    Format,
    {
        "parquet": columnar.PARQUET,
        "jsonl": jsonl.FORMAT,
        "json": json_files.FORMAT,
        "csv": delimited.CSV,
        "tsv": delimited.TSV,
        "tmx": tmx.FORMAT,
        "xliff": xliff.FORMAT,
        "po": po.FORMAT,
        "sheet": spreadsheet.FORMAT,
        "lines": aligned.LINES,
        "articles": aligned.ARTICLES,
        "disk": columnar.SAVED,
        "tatoeba": tatoeba.FORMAT,
        "wmt": wmt.FORMAT,
    },
)


def format_of(source: DataSource) -> Format:
    """Return the format that a source names. Raises ConfigError for an unknown name."""
    return FORMATS.find(source.format, f"`format` of {source.origin}")


def plan(path: str, request: ReadRequest) -> list[list[Chunk]]:
    """Chunks of each file, or aligned set of files, of a path; the source of each chunk names its format.

    Raises ConfigError for an unknown `format`, DataError for a path that is missing or of no known format.
    """
    paths = _unpacked(path, request)
    name = format_name(paths[0], request)
    request = replace(request, source=request.source.model_copy(update={"format": name}))
    found = format_of(request.source)
    _check_settings(path, request.source, found.settings)
    languages = by_language.languages_of(request.source, request.columns)
    planned: list[list[Chunk]] = []
    for each in paths:
        joined = found.layout == "file" and is_by_language(each, languages)
        if joined or found.layout == "aligned":
            sets = aligned.file_sets(each, languages if joined else request.columns)
        else:
            names = [each] if found.layout == "folder" else matches(each)
            sets = [tuple(names)] if found.layout == "together" else [(name,) for name in names]
        for files in sets:
            number = len(planned) + 1
            planned.append(
                by_language.plan(found, request, files, number) if joined else found.plan(request, files, number)
            )
    return planned


def _unpacked(path: str, request: ReadRequest) -> list[str]:
    """The paths to read in the zip archives of a path; the path itself if it is of no archive."""
    if not path.lower().endswith(".zip") or aligned.SLOT in path:
        return [path]
    named = request.source.format
    endings = [e for n, f in FORMATS.builtin.items() for e in f.suffixes if named in {"auto", n}]
    languages = by_language.languages_of(request.source, request.columns)
    return [inside(archive, languages, named, endings) for archive in matches(path)]


def is_by_language(path: str, languages: Sequence[str]) -> bool:
    """Return True if a path is that of several files, one for each language."""
    return aligned.SLOT in path or ((not exists(path) or is_folder(path)) and aligned.are_there(path, languages))


def _check_settings(path: str, source: DataSource, known: Collection[str]) -> None:
    """Raise DataError for a setting that the format has no use for."""
    for name in SETTINGS:
        if getattr(source, name) != DataSource.model_fields[name].default and name not in known:
            users = [n for n, other in FORMATS.builtin.items() if name in other.settings]
            raise DataError(
                f"{path}: `{name}` is for the formats {', '.join(users)}, and this is {source.format}; remove it"
            )


def format_name(path: str, request: ReadRequest) -> str:
    """Return the format that the source names, or that the path's name or folder implies."""
    path = _unpacked(path, request)[0]
    if request.source.format != "auto":
        format_of(request.source)
    if path.startswith("hub:"):
        return "disk"
    if request.source.format != "auto":
        return request.source.format
    if known := _by_suffix(path):
        return known
    languages = by_language.languages_of(request.source, request.columns)
    if aligned.SLOT in path:
        return "lines"
    if exists(f"{path}/state.json") or exists(f"{path}/dataset_dict.json"):
        return "disk"
    if aligned.are_there(path, languages):
        first = aligned.file_sets(path, languages)[0][0]
        # the end of a prefix's file is its language: `tab` is Tabasaran
        return (None if first == f"{path}.{languages[0]}" and "." not in languages[0] else _by_suffix(first)) or "lines"
    found = matches(path)[0]
    if known := _by_suffix(found):
        return known
    if not exists(found):
        raise DataError(f"{path} does not exist; name a file, or set storage.data to the folder it is in")
    if is_folder(found):
        raise is_folder_error(path)
    endings = ", ".join(ending for known in FORMATS.values() for ending in known.suffixes)
    raise DataError(
        f"{path}: format {suffix(found)!r} is not known; use one of {endings} (also with .gz, .zst, .bz2 or .xz), or "
        "set `format`"
    )


def _by_suffix(path: str) -> str | None:
    if not (ending := suffix(path)):
        return None
    for formats in (FORMATS.builtin, FORMATS):  # plug-ins are imported only if no built-in format fits
        if found := [name for name, known in formats.items() if ending in known.suffixes]:
            if len(found) > 1:
                raise DataError(f"{path}: {ending} is the suffix of {' and '.join(found)}; set `format` to one of them")
            return found[0]
    return None
