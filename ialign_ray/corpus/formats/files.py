"""Paths, globs and compressed, archived or remote files as streams of bytes; faults are reported in one sentence.

A member of a zip archive is the path `ARCHIVE.zip!/MEMBER`, which every reader takes like that of a file.
"""

from __future__ import annotations

import glob
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa

from ialign_ray.corpus.chunks import BLOCK, Stamp
from ialign_ray.errors import DataError, IalignError
from ialign_ray.pocket import POCKET, pocket_file

_COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}
_MEMBER = re.compile(r"(.+?\.zip)!/(.*)", re.IGNORECASE | re.DOTALL)
_CHAIN = re.compile(r"zip://(.+)::(.+)", re.DOTALL)
_BOMB, _LARGE = 200, 1 << 30
"""A member that is larger than this many times its compressed size, and than this many bytes, is refused: no text
is."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def resolve(path: str, base: str) -> str:
    """Absolute path or URL of a data path; `pocket:` sets are generated on first use."""
    if path.startswith(POCKET):
        return str(pocket_file(path))
    if chained := _CHAIN.fullmatch(path):  # as fsspec writes a member
        path = f"{chained[2]}!/{chained[1]}"
    if "://" in path:
        return path
    if "://" in base and not Path(path).is_absolute():
        return f"{base.rstrip('/')}/{path}"
    return str(Path(base, path).expanduser().absolute())


def compression(path: str) -> str | None:
    """Compression of a file by its name; None for a plain file."""
    return _COMPRESSION.get(Path(path).suffix.lower())


def beside(path: str, code: str) -> str:
    """Return `<path>.<code>`, or the compressed file of that name if there is only this one."""
    plain = f"{path}.{code}"
    packed = [plain + ending for ending in _COMPRESSION if exists(plain + ending)]
    return packed[0] if packed and not exists(plain) else plain


def suffix(path: str) -> str:
    """The suffix that names the format: `.jsonl` of `a.jsonl.gz`."""
    return Path(Path(path).stem if compression(path) else path).suffix.lower()


@contextmanager
def asking(path: str) -> Iterator[None]:
    """Turn errors of a file into a DataError of one sentence."""
    try:
        yield
    except IalignError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; name a file, or set storage.data to the folder it is in") from error
    except IsADirectoryError as error:
        raise is_folder_error(path) from error
    except Exception as error:
        if "://" in path:  # each remote file system has its own tree of exceptions
            raise DataError(_unreachable(path, error)) from error
        if isinstance(error, OSError):
            raise DataError(f"{path} cannot be read: {first_line(error)}; fix the file or its permissions") from error
        if isinstance(error, ValueError) and "null byte" in str(error):
            raise DataError(f"{path!r} contains a NUL byte; fix the name") from error
        raise


def is_folder_error(path: str) -> DataError:
    """The message for a folder where a file should be."""
    return DataError(f"{path} is a folder; name a file in it, or a pattern such as {path.rstrip('/')}/*.parquet")


def first_line(error: BaseException) -> str:
    """First line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _unreachable(path: str, error: Exception) -> str:
    scheme = path.partition("://")[0]
    cure = "set credentials or fix the address"
    if extra := _EXTRAS.get(scheme):
        cure = f"set credentials, fix the address, or install ialign_ray[{extra}]"
    return f"{path} cannot be opened: {first_line(error)}; {cure}"


def member_of(path: str) -> tuple[str, str] | None:
    """Archive and member of a path; None for a path outside archives."""
    found = _MEMBER.fullmatch(path)
    return (found[1], found[2]) if found else None


def members(archive: str) -> dict[str, zipfile.ZipInfo]:
    """Files of an archive by name. Raises DataError for one that is torn."""
    return _members(archive, stamp(archive))


@lru_cache(maxsize=16)
def _members(archive: str, mark: Stamp) -> dict[str, zipfile.ZipInfo]:
    with raw(archive) as file, _unzipping(archive), zipfile.ZipFile(file) as opened:
        return {info.filename: info for info in opened.infolist() if not info.is_dir()}


@contextmanager
def _unzipping(archive: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive} is not a whole zip file ({first_line(error)}); fetch it again") from error


@contextmanager
def _opened(archive: str, member: str) -> Iterator[BinaryIO]:
    path = f"{archive}!/{member}"
    if (info := members(archive).get(member)) is None:
        raise DataError(f"{path} does not exist; the archive has {', '.join(sorted(members(archive))[:20])}")
    if info.flag_bits & 1:
        raise DataError(f"{path} is encrypted; unpack it")
    if info.file_size > max(_LARGE, _BOMB * info.compress_size):
        raise DataError(
            f"{path} unpacks to {info.file_size >> 20:,} MB, too many for its size; check it, and unpack it"
        )
    with raw(archive) as file, _unzipping(archive), zipfile.ZipFile(file) as opened, opened.open(info) as unpacked:
        yield unpacked  # type: ignore[misc]  # an IO[bytes] with all that readers use


def _remote(path: str) -> tuple[Any, str]:
    system, key = fsspec.core.url_to_fs(path)
    return system, key


def exists(path: str) -> bool:
    """Return True if the file or folder exists."""
    if inside := member_of(path):
        return inside[1] in members(inside[0]) or is_folder(path)
    with asking(path):
        if "://" not in path:
            return Path(path).exists()
        system, key = _remote(path)
        return bool(system.exists(key))


def is_folder(path: str) -> bool:
    """Return True if a path is a folder."""
    if inside := member_of(path):
        return any(name.startswith(f"{inside[1].rstrip('/')}/") for name in members(inside[0]))
    with asking(path):
        if "://" not in path:
            return Path(path).is_dir()
        system, key = _remote(path)
        return bool(system.isdir(key))


def listing(pattern: str) -> list[str]:
    """Files that match a pattern, sorted by name."""
    if inside := member_of(pattern):
        names = [f"{a}!/{name}" for a in listing(inside[0]) for name in members(a) if fnmatchcase(name, inside[1])]
        return sorted(names)
    with asking(pattern):
        if "://" not in pattern:
            return sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())  # noqa: PTH207
        system, key = _remote(pattern)
        return sorted(str(system.unstrip_protocol(p)) for p in system.glob(key) if system.isfile(p))


def matches(path: str) -> list[str]:
    """The file of a path, or the files of a pattern; at least one."""
    if not glob.has_magic(path) or ("://" not in path and not member_of(path) and Path(path).exists()):
        return [path]
    found = listing(path)
    if not found:
        raise DataError(f"{path} matches no file; fix the pattern, or set storage.data to the folder it is in")
    return found


def stamp(path: str) -> Stamp:
    """Marks of a file that change with its contents."""
    if inside := member_of(path):
        info = members(inside[0]).get(inside[1])
        return (info.file_size, info.CRC, *stamp(inside[0])) if info else (0, *stamp(inside[0]))
    with asking(path):
        if "://" not in path:
            known = Path(path).stat()
            if Path(path).is_dir():
                raise is_folder_error(path)
            return known.st_size, known.st_mtime_ns
        system, key = _remote(path)
        info = system.info(key)
        if info.get("type") == "directory":
            raise is_folder_error(path)
        mark = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("LastModified")
        return str(info.get("size")), str(mark or info.get("created") or "")


@contextmanager
def raw(path: str) -> Iterator[BinaryIO]:
    """A file's bytes as stored."""
    if inside := member_of(path):
        with _opened(*inside) as file:
            yield file
        return
    with asking(path):
        if "://" in path:
            system, key = _remote(path)
            with system.open(key, "rb") as file:
                yield file
        else:
            with Path(path).open("rb") as file:
                yield file


def stored(path: str, start: int = 0, end: int = -1, block: int | None = None) -> Iterator[bytes]:
    """Blocks of a file's bytes from `start` to `end`, decompressed if its name implies compression."""
    block = block or BLOCK
    how = compression(path)
    with raw(path) as file:
        if how is None:
            file.seek(start)
            left = end - start if end >= 0 else None
            while data := file.read(block if left is None else min(block, left)):
                left = None if left is None else left - len(data)
                yield data
        else:
            yield from _decompressed(path, file, how, block)


def _stream(file: BinaryIO, how: str) -> Any:
    if how == "xz":
        return lzma.LZMAFile(file)
    return pa.CompressedInputStream(pa.PythonFile(file, "r"), how)


def _decompressed(path: str, file: BinaryIO, how: str, block: int) -> Iterator[bytes]:
    try:
        # pyarrow detects a torn stream in all of these, and reads files of many members
        stream = _stream(file, how)
        while data := stream.read(block):
            yield data
    except (EOFError, OSError, lzma.LZMAError) as error:
        said = first_line(error)
        if isinstance(error, EOFError) or "Truncated" in said:
            raise DataError(f"{path} ends in the middle of its {how} stream; fetch it again") from error
        raise DataError(f"{path} is not a whole {how} file ({said}); fetch it again, or fix its suffix") from error
