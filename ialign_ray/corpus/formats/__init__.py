"""The formats of sources, each with a `plan` of chunks and a `read` of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa

from ialign_ray.corpus.chunks import Chunk, ReadRequest, Rejects
from ialign_ray.corpus.formats import aligned, bilingual, columnar, delimited, jsonl, spreadsheet, tmx
from ialign_ray.corpus.formats.files import exists, is_folder, is_folder_error, matches, suffix
from ialign_ray.errors import DataError

SUFFIXES = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tmx": "tmx",
    ".xliff": "xliff",
    ".xlf": "xliff",
    ".po": "po",
    ".ndjson": "jsonl",
    ".tab": "tsv",
    ".xlsx": "sheet",
    ".xls": "sheet",
    ".ods": "sheet",
}
_MARKS = {"csv": b",", "tsv": b"\t"}
ALIGNED = {"lines", "articles"}


def format_of(path: str, request: ReadRequest) -> str:
    """Which reader a path is for: what the source says, or what its name or folder shows."""
    if path.startswith("hub:"):
        return "disk"
    if request.source.format != "auto":
        return request.source.format
    if aligned.SLOT in path:
        return "lines"
    if known := SUFFIXES.get(suffix(path)):
        return known
    if exists(f"{path}/state.json") or exists(f"{path}/dataset_dict.json"):
        return "disk"
    if aligned.are_there(path, request.columns):
        return "lines"
    found = matches(path)[0]
    if known := SUFFIXES.get(suffix(found)):
        return known
    if not exists(found):
        raise DataError(f"{path} does not exist; name a file, or set storage.data to the folder it is in")
    if is_folder(found):
        raise is_folder_error(path)
    raise DataError(
        f"{path}: format {suffix(found)!r} is not known; use one of {', '.join(SUFFIXES)} (also with .gz, .zst, .bz2 "
        "or .xz), or set `format`"
    )


def plan(path: str, request: ReadRequest) -> list[list[Chunk]]:
    """Chunks of each file, or aligned set of files, of a path; the format stands in the source of each chunk."""
    kind = format_of(path, request)
    request = replace(request, source=request.source.model_copy(update={"format": kind}))
    if kind in ALIGNED:
        planner = aligned.plan_lines if kind == "lines" else aligned.plan_articles
        sets = aligned.file_sets(path, request.columns)
        return [planner(request, files, k) for k, files in enumerate(sets, start=1)]
    files = [path] if kind == "disk" else matches(path)
    return [_plan_file(kind, request, name, k) for k, name in enumerate(files, start=1)]


def _plan_file(kind: str, request: ReadRequest, path: str, file: int) -> list[Chunk]:
    if kind in _MARKS:
        return delimited.plan(request, path, file, _MARKS[kind])
    planners: dict[str, Callable[[ReadRequest, str, int], list[Chunk]]] = {
        "parquet": columnar.plan_parquet,
        "disk": columnar.plan_saved,
        "jsonl": jsonl.plan,
        "tmx": tmx.plan,
        "xliff": bilingual.plan,
        "po": bilingual.plan,
        "sheet": spreadsheet.plan,
    }
    return planners[kind](request, path, file)


def read(part: Chunk, rejects: Rejects) -> Iterator[pa.Table]:
    """Tables of a chunk of a single file or aligned set."""
    kind = part.source.format
    if kind in _MARKS:
        return delimited.read(part, rejects, _MARKS[kind])
    plain = {"parquet": columnar.read_parquet, "disk": columnar.read_saved, "sheet": spreadsheet.read}
    if kind in plain:
        return plain[kind](part)
    readers: dict[str, Callable[[Chunk, Rejects], Iterator[pa.Table]]] = {
        "lines": aligned.read_lines,
        "articles": aligned.read_articles,
        "jsonl": jsonl.read,
        "tmx": tmx.read,
        "xliff": bilingual.read_xliff,
        "po": bilingual.read_po,
    }
    return readers[kind](part, rejects)
