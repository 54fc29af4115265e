"""Every error that a user can cause, as one tree.

    IalignError
    ├── ConfigError      the experiment file or a --set override
    ├── DataError        a corpus, replay or evaluation file
    ├── ModelError       a model, tokenizer or adapter
    ├── CheckpointError  a torn or foreign checkpoint
    └── ClusterError     too few resources, a job that failed

Each message is one sentence that names the field or file, the value and the cure. The command line
prints it and exits with code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class IalignError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(IalignError):
    """The experiment file or an override is wrong."""


class DataError(IalignError):
    """A corpus, replay or evaluation file is missing, empty or malformed."""


class ModelError(IalignError):
    """A model, tokenizer or adapter cannot be loaded or does not fit the request."""


class CheckpointError(IalignError):
    """A checkpoint is torn or belongs to another run."""


class ClusterError(IalignError):
    """The cluster is too small, or a distributed job failed."""
