"""Every error that a user can cause, as one tree.

    IalignError
    ├── ConfigError      the experiment file or a --set override
    ├── DataError        a corpus, replay or evaluation file
    ├── ModelError       a model, tokenizer or adapter
    ├── CheckpointError  a torn checkpoint, one of another run, or a disk that cannot be written to
    ├── ClusterError     too few resources, a job that failed
    ├── RegistryError    the model registry, a version in it, or a promotion that is refused
    ├── DetachedError    a job that is no longer followed but keeps running
    └── StoppedError     a run that was asked to stop and can be resumed

Each message is one sentence that names the field or file, the value and the cure. The command line prints it and exits
with code 2 (143 after SIGTERM, as shells report it and schedulers expect, and 130 when the user stops following a job);
anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping


class IalignError(Exception):
    """Base of every error that a user can cause and fix."""

    exit_code = 2


class ConfigError(IalignError):
    """The experiment file or an override is wrong."""


class DataError(IalignError):
    """A corpus, replay or evaluation file is missing, empty or malformed."""


class ModelError(IalignError):
    """A model, tokenizer or adapter cannot be loaded or does not fit the request."""


class CheckpointError(IalignError):
    """A checkpoint is torn, belongs to another run or cannot be written."""


class ClusterError(IalignError):
    """The cluster is too small, or a distributed job failed."""


class RegistryError(IalignError):
    """The model registry cannot be reached, lacks what was asked for, or refuses a promotion."""


class StoppedError(IalignError):
    """A run was asked to stop; its checkpoint is written."""

    exit_code = 143


class DetachedError(IalignError):
    """The user no longer follows a job, which keeps running."""

    exit_code = 130


def dump(error: IalignError) -> dict[str, str]:
    """Serialise an error as JSON, to be raised again in another process."""
    return {"kind": type(error).__name__, "message": str(error)}


def load(data: Mapping[str, str]) -> IalignError:
    """Return the error that `dump` serialised."""
    # errors of other modules take other arguments and are never passed between processes
    own = {kind.__name__: kind for kind in IalignError.__subclasses__() if kind.__module__ == __name__}
    return own.get(data["kind"], IalignError)(data["message"])


def first_line(error: BaseException) -> str:
    """First line of a message, or the exception's name for an empty one: libraries explain at length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
