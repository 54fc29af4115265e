"""Paths, globs and compressed or remote files as streams of bytes; faults are reported in one sentence."""

from __future__ import annotations

import glob
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa

from ialign_ray.corpus.chunks import BLOCK, Stamp
from ialign_ray.errors import DataError, IalignError
from ialign_ray.pocket import POCKET, pocket_file

_COMPRESSION = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bz2", ".xz": "xz"}
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}


def resolve(path: str, base: str) -> str:
    """Absolute path or URL of a data path; `pocket:` sets are generated on first use."""
    if path.startswith(POCKET):
        return str(pocket_file(path))
    if "://" in path:
        return path
    if "://" in base and not Path(path).is_absolute():
        return f"{base.rstrip('/')}/{path}"
    return str(Path(base, path).expanduser().absolute())


def compression(path: str) -> str | None:
    """Compression of a file by its name; None for a plain file."""
    return _COMPRESSION.get(Path(path).suffix.lower())


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


def _remote(path: str) -> tuple[Any, str]:
    system, key = fsspec.core.url_to_fs(path)
    return system, key


def exists(path: str) -> bool:
    """Return True if the file or folder exists."""
    with asking(path):
        if "://" not in path:
            return Path(path).exists()
        system, key = _remote(path)
        return bool(system.exists(key))


def is_folder(path: str) -> bool:
    """Return True if a path is a folder."""
    with asking(path):
        if "://" not in path:
            return Path(path).is_dir()
        system, key = _remote(path)
        return bool(system.isdir(key))


def listing(pattern: str) -> list[str]:
    """Files that match a pattern, sorted by name."""
    with asking(pattern):
        if "://" not in pattern:
            return sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())  # noqa: PTH207
        system, key = _remote(pattern)
        return sorted(str(system.unstrip_protocol(p)) for p in system.glob(key) if system.isfile(p))


def matches(path: str) -> list[str]:
    """The file of a path, or the files of a pattern; at least one."""
    if not glob.has_magic(path) or ("://" not in path and Path(path).exists()):
        return [path]
    found = listing(path)
    if not found:
        raise DataError(f"{path} matches no file; fix the pattern, or set storage.data to the folder it is in")
    return found


def stamp(path: str) -> Stamp:
    """Marks of a file that change with its contents."""
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
