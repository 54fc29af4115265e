"""`storage.mirror`: a second copy of a run on an object store, from which it resumes after losing its disk.

A copy is a list of the run's files with their SHA-256 hashes (`copies/step-00000100.json`), and the files under those
hashes (`objects/...`), so that what did not change is not sent again. The list is written last and files are hashed
again when they are downloaded: a copy that was torn in the upload, or damaged later, is skipped for an older one.

The driver uploads in parallel to training, after each checkpoint; files newer than the checkpoint (records, ledger) are
cut by the run that resumes, as after any crash.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.errors import CheckpointError, first_line
from ialign_ray.storage import file_hash, is_intact
from ialign_ray.terminal import say
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.full_disk import CURE

MODEL = "model"
LAST = ("checkpoints", MODEL)
"""Folders that mark a run as having a state: put in place last."""
PARTS = (
    *("experiment.yaml", "record.json", "batching.json", "metrics.jsonl", "validation.jsonl", "warnings.txt"),
    *("ending.json", "ledger", "flagged", *LAST),
)
"""Contents of a copy; `data/` is rebuilt from the experiment, curves and predictions from the run."""
KEPT = 2
"""Number of newest copies to keep on the mirror."""
LOOK_SECONDS = 2.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Mirror:
    """The copies of one run at an address that fsspec knows. Raises CheckpointError if it does not answer."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        local = "://" not in address or address.startswith("file:")
        with self._asking():  # an object store has no folders to create
            self._system, self._root = fsspec.core.url_to_fs(self.address, **{"auto_mkdir": True} if local else {})

    def names(self) -> list[str]:
        """Copies by name, newest first, complete or not."""
        with self._asking():
            self._system.invalidate_cache()
            found = self._system.glob(f"{self._root}/copies/*.json")
        return sorted((Path(p).stem for p in found), reverse=True)

    def push(self, run: Path, name: str, fingerprint: str) -> None:
        """Send the run's current files; the copy counts once all of them are there."""
        with frozen(run) as folder, self._asking():
            files = {p.relative_to(folder).as_posix(): file_hash(p) for p in folder.rglob("*") if p.is_file()}
            there = self._objects()
            for path, digest in files.items():
                # an object of a different size was left by a torn upload
                if there.get(digest) != (folder / path).stat().st_size:
                    self._system.put_file(str(folder / path), self._object(digest))
            listed = json.dumps({"fingerprint": fingerprint, "files": files}, indent=2).encode()
            self._system.pipe_file(f"{self._root}/copies/{name}.json", listed)
            self._prune()

    def pull(self, run: Path, fingerprint: str, report: Callable[[str], object]) -> str | None:
        """Replace a run's files by the newest complete copy; return its name, None if the mirror has no such copy.

        Raises CheckpointError for a copy of a run with other settings or data, or if the local disk is full.
        """
        run.parent.mkdir(parents=True, exist_ok=True)
        for name in self.names():
            with room_at(str(run), CURE):
                scratch = Path(tempfile.mkdtemp(dir=run.parent, prefix=f".{run.name}."))
            try:
                if (lacking := self._fetch(name, fingerprint, scratch, run)) is None:
                    with room_at(str(run), CURE):
                        _take_place(scratch, run)
                    return name
                report(f"warning: copy {name} at {self.address} is torn ({lacking}); using the previous one")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return None

    def _fetch(self, name: str, fingerprint: str, scratch: Path, run: Path) -> str | None:
        """Download a copy's files; return the first that is missing or differs from its hash, else None."""
        with self._asking():
            listed = self._list(name)
            if listed is None:
                return "its list cannot be read"
            if listed["fingerprint"] != fingerprint:
                raise CheckpointError(
                    f"{self.address} contains this run with other settings or data; give it another --run name, or "
                    "remove the copies there"
                )
            for path, digest in listed["files"].items():
                target = scratch / path
                try:
                    with room_at(str(run), CURE):  # otherwise the mirror would be blamed
                        target.parent.mkdir(parents=True, exist_ok=True)
                        self._system.get_file(self._object(digest), str(target))
                except FileNotFoundError:
                    return f"{path} is missing"
                if file_hash(target) != digest:
                    return f"{path} differs from its hash"
        return None

    def _list(self, name: str) -> dict[str, Any] | None:
        """A copy's fingerprint and files, None if they cannot be read or point outside of the run."""
        try:
            listed = json.loads(self._system.cat_file(f"{self._root}/copies/{name}.json"))
            inside = all(not Path(p).is_absolute() and ".." not in Path(p).parts for p in listed["files"])
            return {"fingerprint": listed["fingerprint"], "files": dict(listed["files"])} if inside else None
        except (ValueError, KeyError, TypeError):
            return None

    def _objects(self) -> dict[str, int]:
        """Hash -> size in bytes of every file that is there."""
        self._system.invalidate_cache()
        found = self._system.find(f"{self._root}/objects", detail=True)
        return {Path(path).name: int(info["size"]) for path, info in found.items()}

    def _object(self, digest: str) -> str:
        return f"{self._root}/objects/{digest}"

    def _prune(self) -> None:
        """Remove copies beyond those to keep, and then the files that no copy names."""
        names = self.names()
        # lists first: a kill in between leaves files that no list names, which the next push removes
        for name in names[KEPT:]:
            self._system.rm_file(f"{self._root}/copies/{name}.json")
        named: set[str] = set()
        for name in names[:KEPT]:
            named |= set((self._list(name) or {"files": {}})["files"].values())
        for digest in self._objects().keys() - named:
            self._system.rm_file(self._object(digest))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with room_at(f"storage.mirror {self.address}", "free space or raise the quota there"):
                yield
        except CheckpointError:
            raise
        except Exception as error:  # each remote file system has its own tree of exceptions
            said = first_line(error)
            raise CheckpointError(
                f"storage.mirror {self.address} does not answer ({said}); set credentials in the environment, fix the "
                "address, or install ialign_ray[s3] or [gs]"
            ) from error


@contextmanager
def room_at(place: str, cure: str) -> Iterator[None]:
    """Turn an error of a full disk into a CheckpointError that names the place and the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise CheckpointError(f"{place} could not be written ({error.strerror}); {cure}") from error


@contextmanager
def frozen(run: Path) -> Iterator[Path]:
    """A snapshot folder of a run's files next to it: training may sweep and append while it is read."""
    with tempfile.TemporaryDirectory(dir=run.parent, prefix=f".{run.name}.") as scratch:
        folder = Path(scratch)
        for part in map(run.joinpath, PARTS):
            if part.is_file():  # grows while it is read
                shutil.copy(part, folder / part.name)
            elif part.is_dir():
                hidden = shutil.ignore_patterns(".*")  # partially written
                shutil.copytree(part, folder / part.name, copy_function=_link, ignore=hidden)
        yield folder


def _link(source: str, target: str) -> None:
    """Files in folders are written once; one that was swept between listing and linking is skipped."""
    with suppress(FileNotFoundError):
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            shutil.copy(source, target)


def mirror_of(experiment: Experiment, run: Path) -> Mirror | None:
    """The run's mirror, if the experiment has one."""
    address = experiment.storage.mirror
    return Mirror(f"{address.rstrip('/')}/{experiment.name}/{run.name}") if address else None


def bring_back(mirror: Mirror, run: Path, checkpoints: Checkpoints, console: Console) -> None:
    """Restore the run from its mirror if the copy there has more steps than the local run."""
    report = partial(say, console)
    newest = mirror.names()[:1]
    if not newest or newest[0] <= state_of(run, checkpoints):
        return
    if name := mirror.pull(run, checkpoints.fingerprint, report):
        report(f"{run.name}: restored from {mirror.address}, {name}")


def state_of(run: Path, checkpoints: Checkpoints) -> str:
    """Name of a copy of the run's current state: its newest complete checkpoint, and a mark if its model is finished.

    Names sort in the order in which a run reaches them.
    """
    newest = checkpoints.newest()
    if newest is None:
        return ""
    return f"{newest.name}-{MODEL}" if is_intact(run / MODEL) else newest.name


@contextmanager
def mirrored(mirror: Mirror | None, run: Path, checkpoints: Checkpoints, console: Console) -> Iterator[None]:
    """Send each new checkpoint while the body trains, and the final state, however it ends."""
    if mirror is None:
        yield
        return
    sender, stop = _Sender(mirror, run, checkpoints, console), threading.Event()
    thread = threading.Thread(target=sender.follow, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sender.send_new()


class _Sender:
    def __init__(self, mirror: Mirror, run: Path, checkpoints: Checkpoints, console: Console) -> None:
        self._mirror, self._run, self._checkpoints, self._console = mirror, run, checkpoints, console
        self._seen: list[Path] = []
        self._sent = ""

    def follow(self, stop: threading.Event) -> None:
        """Poll for new checkpoints until `stop` is set."""
        while not stop.wait(LOOK_SECONDS):
            if (found := self._checkpoints.found()) != self._seen:  # hashes are read only for new ones
                self._seen = found
                self.send_new()

    def send_new(self) -> None:
        """Send new files; if the mirror refuses them, warn and continue."""
        try:
            state = state_of(self._run, self._checkpoints)
            if state > self._sent:
                self._mirror.push(self._run, state, self._checkpoints.fingerprint)
                self._sent = state
        except (CheckpointError, OSError, shutil.Error) as error:
            text = f"warning: {error}; the run continues, and its next checkpoint is sent again"
            say(self._console, text)


def _take_place(scratch: Path, run: Path) -> None:
    """Replace local files by the downloaded ones; folders that mark a state are removed first and added last."""
    for name in reversed(LAST):
        shutil.rmtree(run / name, ignore_errors=True)
    run.mkdir(exist_ok=True)
    fetched = sorted(scratch.iterdir(), key=lambda p: (LAST.index(p.name) if p.name in LAST else -1, p.name))
    for path in fetched:
        target = run / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
