"""Files that are either whole or absent: atomic writes and content hashes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ialign_ray.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_hash(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: a reader sees the old or the new content, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # next to the target: a rename is atomic within one file system only
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            # before the rename, or a crash may leave the new name with none of the bytes
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)  # noqa: PTH101 - mkstemp's 0600 would lock others out of a shared run
        os.replace(scratch, path)  # noqa: PTH105 - the atomic rename is the point
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; values of types that JSON lacks are written as text."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def whole_folder(target: Path, meta: dict[str, Any] | None = None) -> Iterator[Path]:
    """Fill a scratch folder; on success, add a manifest of hashes and rename it to `target`.

    A failure or a SIGKILL while it is being filled leaves `target` as it was, next to a hidden scratch folder.
    Replacing an existing folder takes two renames: a SIGKILL between them leaves it absent, never torn.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield scratch
        files = {str(p.relative_to(scratch)): file_hash(p) for p in sorted(scratch.rglob("*")) if p.is_file()}
        write_json(scratch / MANIFEST, {"files": files, "meta": meta or {}})
        # mkdtemp's 0700 would lock others out of a shared folder
        scratch.chmod(0o755)
        _take_place(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _take_place(scratch: Path, target: Path) -> None:
    if not target.exists():
        scratch.rename(target)
        return
    # a folder with files in it cannot be renamed over
    discarded = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        target.rename(discarded / "old")
        scratch.rename(target)
    except OSError:
        if not target.exists():
            # the old one was moved and the new one was not: restore the old one
            (discarded / "old").rename(target)
        discarded.rmdir()
        raise
    shutil.rmtree(discarded, ignore_errors=True)  # the new one is in place; leftovers of the old one do not matter


def is_intact(folder: Path) -> bool:
    """Return True if a folder written by `whole_folder` has every file with its hash."""
    return spoiled_file(folder) is None


def spoiled_file(folder: Path) -> str | None:
    """The first file of a folder written by `whole_folder` that is missing or differs from its hash, else None."""
    try:
        files = dict(read_json(folder / MANIFEST)["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return MANIFEST
    return next((name for name, digest in files.items() if not _has_hash(folder / name, digest)), None)


def _has_hash(path: Path, digest: str) -> bool:
    try:
        return file_hash(path) == digest
    except OSError:
        return False


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """Create a cached folder on first use; two processes that do so at once both get a complete one."""
    if not is_intact(target):
        with whole_folder(target) as scratch:
            make(scratch)
    return target


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Lock a folder, which need not exist, for one process, named `what`. Raises ConfigError if another holds the lock.

    It is a kernel lock on a file next to the folder: it is released when its process ends, even if killed. On a file
    system without locks, the work continues with a warning.
    """
    from filelock import FileLock, Timeout

    # the fallback is a file that a killed process would leave behind
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), fallback_to_soft=False)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigError(
            f"{folder} is in use by another {what}; wait for it or stop it, or give the experiment another name"
        ) from error
    except OSError as error:  # such as NFS without lockd; a read-only disk is reported by the work itself
        logging.getLogger("ialign_ray").warning(
            "%s cannot be locked (%s); make sure that no other %s uses it", folder, error.strerror or error, what
        )
    try:
        _await_writers(folder, what)
        yield
    finally:
        lock.release()


WRITERS_SECONDS = 120.0
"""Seconds that a command waits for the workers of a killed predecessor to end."""


def _writers(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.writers.lock")


def join_writers(folder: Path) -> IO[str] | None:
    """Mark this process as a writer of a folder, until it ends or closes the returned file.

    A worker outlives a driver that is killed, by seconds or, cut off from its cluster, by minutes: `alone` waits.
    Returns None if the file system has no locks.
    """
    if fcntl is None:
        return None
    file = _writers(folder).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _await_writers(folder: Path, what: str) -> None:
    if fcntl is None:
        return
    until = time.monotonic() + WRITERS_SECONDS
    with _writers(folder).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise ConfigError(
                        f"workers of an earlier {what} still write to {folder}; stop their Ray cluster first"
                    ) from error
            except OSError:
                return  # a file system without locks, of which `alone` has warned
            else:
                return
            time.sleep(0.5)


def cache_folder() -> Path:
    """Folder of cached artefacts: `IALIGN_CACHE`, or the user's cache folder."""
    root = os.environ.get("IALIGN_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "ialign"
    return Path(root).expanduser()
