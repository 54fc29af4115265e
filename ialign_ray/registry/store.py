"""MLflow's Model Registry as `ialign` uses it: versions, aliases and tags, and the files behind them.

A version's files are artifacts of a separate MLflow run, below `version/`, and the version's source is
`runs:/ID/version`: the same calls serve a SQLite file and any server. They are plain files with our manifest, no
`MLmodel`; its hash is in the version's tags, so that downloaded files are verified to be the registered ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialign_ray.errors import RegistryError, first_line
from ialign_ray.storage import MANIFEST, cache_folder, json_hash, read_json, spoiled_file

TAG = "ialign."
_FILES = "version"  # folder of a version's files in its MLflow run
_DATABASE = "mlflow.db"
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")  # each with the unique index that `decisions` relies on


@dataclass(frozen=True)
class Version:
    """A version in the registry."""

    name: str
    number: int
    run_id: str
    created: float
    """Seconds since 1970."""
    tags: Mapping[str, str]
    """Tags without the prefix `ialign.`: base, base_revision, `dose` (the replay ratio), seed, content, metrics, ..."""

    @property
    def title(self) -> str:
        """Name on the command line: `mine/3`."""
        return f"{self.name}/{self.number}"

    @property
    def content(self) -> str:
        """Hash of its files."""
        return self.tags.get("content", "")


class MlflowError(RegistryError):
    """MLflow's refusal, as a sentence; `code` is MLflow's error code, such as RESOURCE_DOES_NOT_EXIST."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def registry_uri(location: str) -> str:
    """Normalise a URI: that of a server or database is unchanged; a folder of runs becomes the SQLite file in it."""
    return location if "://" in location else f"sqlite:///{Path(location).absolute() / _DATABASE}"


def has_registry(location: str) -> bool:
    """Return True if the registry exists; a server is assumed to exist."""
    uri = registry_uri(location)
    return not uri.startswith("sqlite:") or Path(uri.partition(":///")[2]).exists()


UNFINISHED = 3600.0
"""Seconds after which a registration without a version counts as failed."""


class Registry:
    """One registry. Every call raises RegistryError with one sentence if MLflow refuses or cannot be reached."""

    def __init__(self, location: str, *, artifacts: str | None = None, create: bool = False) -> None:
        self.uri = registry_uri(location)
        self._artifacts = artifacts
        scheme = self.uri.partition("://")[0].partition("+")[0]
        if scheme not in (*_DATABASES, "http", "https", "databricks"):
            raise RegistryError(
                f"registry {self.uri} is neither an MLflow server nor a database; give http(s)://, sqlite:///FILE or a "
                "folder of runs"
            )
        if scheme == "sqlite":
            _check_file(self._file, create)
        os.environ.setdefault(
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
        )  # MLflow's default of 7 takes minutes to report an unreachable server
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        with _in_sentences(self.uri):  # opens a database, and checks its schema
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One call of MlflowClient; raises MlflowError."""
        with _in_sentences(self.uri):
            return getattr(self._client, method)(*args, **kwargs)

    def names(self) -> list[str]:
        """All registered models that `ialign` created."""
        found = _all_pages(self.call, "search_registered_models")
        return sorted(m.name for m in found if f"{TAG}kind" in m.tags)

    def model(self, name: str) -> Any:
        """MLflow's registered model: its aliases and tags."""
        try:
            return self.call("get_registered_model", name)
        except MlflowError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(self.names()) or "none yet"
            raise RegistryError(
                f"registry {self.uri} has no model {name!r} (it has: {known}); name one, or `ialign register` a run"
            ) from error

    def aliases(self, name: str) -> dict[str, int]:
        """Alias -> version number."""
        return {alias: int(number) for alias, number in self.model(name).aliases.items()}

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, oldest first."""
        self.model(name)
        found = _all_pages(self.call, "search_model_versions", filter_string=f"name='{name}'")
        return sorted((_version(v) for v in found), key=lambda v: v.number)

    def version(self, name: str, number: int) -> Version:
        """One version."""
        try:
            return _version(self.call("get_model_version", name, str(number)))
        except MlflowError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = ", ".join(str(v.number) for v in self.versions(name)) or "none"
            raise RegistryError(
                f"model {name!r} has no version {number} (it has: {known}); name one of them"
            ) from error

    def add(self, name: str, folder: Path, tags: Mapping[str, str], card: str) -> Version:
        """Upload a version's folder and register it. A failure midway leaves no version."""
        where = self._experiment(f"registry/{name}", self._location(name))
        run = self.call("create_run", where, run_name=f"{tags.get('run', name)} {time.strftime('%Y-%m-%d %H:%M:%S')}")
        # files before the version: a failure midway leaves a run without a version
        self.call("log_artifacts", run.info.run_id, str(folder), _FILES)
        self.call("set_terminated", run.info.run_id, "FINISHED")
        self._ensure_model(name)
        source = f"runs:/{run.info.run_id}/{_FILES}"
        marked = {TAG + key: value for key, value in tags.items()}
        made = self.call("create_model_version", name, source, run.info.run_id, tags=marked, description=card[:5000])
        return _version(made)

    def clean(self, name: str, older: float = UNFINISHED) -> tuple[int, int]:
        """Remove leftovers of failed registrations: their runs, and their files if those are on this machine.

        A registration younger than `older` seconds may still be running. Returns the number of registrations and of
        bytes; a tracking server removes the files itself, by `mlflow gc`.
        """
        found = self.call("get_experiment_by_name", f"registry/{name}")
        if found is None:
            return 0, 0
        kept = {version.run_id for version in self.versions(name)} if name in self.names() else set()
        removed = size = 0
        for run in _all_pages(self.call, "search_runs", experiment_ids=[found.experiment_id]):
            if run.info.run_id in kept or time.time() - run.info.start_time / 1000 < older:
                continue
            self.call("delete_run", run.info.run_id)
            removed += 1
            folder = Path(run.info.artifact_uri.removeprefix("file://")).parent
            if "://" not in run.info.artifact_uri.removeprefix("file://") and folder.name == run.info.run_id:
                size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                shutil.rmtree(folder, ignore_errors=True)
        return removed, size

    def fetch(self, version: Version) -> Path:
        """A verified local copy of a version's folder, kept in the user's cache."""
        # by content: versions with equal files share a copy, and a changed file never replaces another's
        target = cache_folder() / "registry" / (version.content or "unknown")
        if _is(target, version.content):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
            folder = self._download(version, Path(scratch))
            if not _is(target, version.content):
                shutil.rmtree(target, ignore_errors=True)
            try:
                folder.rename(target)
            except OSError:  # another process was faster
                if not _is(target, version.content):
                    raise
        return target

    @contextmanager
    def downloaded(self, version: Version) -> Iterator[Path]:
        """A version's folder as it currently is in the registry, verified; never a cached copy."""
        with tempfile.TemporaryDirectory(prefix="ialign-") as scratch:
            yield self._download(version, Path(scratch))

    def _download(self, version: Version, scratch: Path) -> Path:
        if not version.content:
            raise RegistryError(f"{version.title} was not registered by ialign, so its files cannot be verified")
        try:
            folder = Path(self.call("download_artifacts", version.run_id, _FILES, str(scratch)))
        except RegistryError as error:
            raise RegistryError(
                f"{version.title}: its files cannot be read ({error}); register its run again"
            ) from error
        verify(folder, version)
        return folder

    def _ensure_model(self, name: str) -> None:
        try:
            self.call("create_registered_model", name, tags={f"{TAG}kind": "adapter"})
        except MlflowError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, name: str, location: str | None) -> str:
        try:
            return str(self.call("create_experiment", name, artifact_location=location))
        except MlflowError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self.call("get_experiment_by_name", name)
        if self._artifacts is not None and location != found.artifact_location:
            raise RegistryError(
                f"tracking.artifacts is {self._artifacts}, but this model's versions are at {found.artifact_location}; "
                "remove it, or register under another name"
            )
        return str(found.experiment_id)

    def _location(self, name: str) -> str | None:
        if self._artifacts is not None:
            root = self._artifacts if "://" in self._artifacts else str(Path(self._artifacts).absolute())
            return f"{root.rstrip('/')}/{name}"
        return str(self._file.parent / "registry" / name) if self.uri.startswith("sqlite:") else None

    @property
    def _file(self) -> Path:
        return Path(self.uri.partition(":///")[2]).absolute()


def content_hash(folder: Path) -> str:
    """One hash of all files of a whole folder, from its manifest."""
    return json_hash(read_json(folder / MANIFEST)["files"])


def verify(folder: Path, version: Version) -> None:
    """Raise RegistryError, naming the file, if a version's folder differs from what was registered."""
    spoiled = spoiled_file(folder)
    if spoiled is None and content_hash(folder) != version.content:
        spoiled = MANIFEST
    if spoiled is not None:
        raise RegistryError(
            f"{version.title}: {spoiled} is missing or does not match the hash it was registered with; the version is "
            "refused, register its run again"
        )


def _is(folder: Path, content: str) -> bool:
    return spoiled_file(folder) is None and content_hash(folder) == content


def _version(found: Any) -> Version:
    tags = {k.removeprefix(TAG): v for k, v in found.tags.items() if k.startswith(TAG)}
    return Version(found.name, int(found.version), found.run_id, found.creation_timestamp / 1000, tags)


def _all_pages(call: Any, method: str, **kwargs: Any) -> list[Any]:
    found, token = [], None
    while True:
        page = call(method, page_token=token, **kwargs)
        found += page
        if not (token := page.token):
            return found


def _check_file(path: Path, create: bool) -> None:
    """Refuse a file that is missing or not a SQLite database: MLflow would create one, or retry for minutes."""
    if not path.exists():
        if not create:
            raise RegistryError(
                f"{path} does not exist, so there is no registry; `ialign register` a run first, or name the folder "
                "of runs or the server with --registry"
            )
        return
    try:
        with path.open("rb") as file:
            # every SQLite file begins with these 16 bytes; an empty file is a database without tables
            head = file.read(16)
    except OSError as error:
        raise RegistryError(
            f"registry {path} cannot be read ({error.strerror}); name another with --registry"
        ) from error
    if head and head != b"SQLite format 3\0":
        raise RegistryError(f"registry {path} is not a SQLite database; name another with --registry")


@contextmanager
def _in_sentences(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database or its connection into MlflowError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        raise MlflowError(_sentence(error, uri), error.error_code) from error
    except (SQLAlchemyError, RequestException, OSError) as error:
        raise MlflowError(_sentence(error, uri), "") from error
    except Exception as error:
        if type(error).__module__.startswith("alembic."):  # migrations of another MLflow version
            raise MlflowError(_sentence(error, uri), "") from error
        raise


def _sentence(error: Exception, uri: str) -> str:
    text = str(error)
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"registry {uri} was made by another version of MLflow; back it up and run `mlflow db upgrade {uri}`, or "
            "install the MLflow that made it"
        )
    first = first_line(error)
    if "API request to" in text or "Max retries" in text:
        return f"registry {uri} cannot be reached ({first[:300]}); check the address and the server"
    return f"registry {uri} refuses: {first[:300]}"
