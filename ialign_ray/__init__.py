"""Teach an instruction-tuned language model new languages without losing the old ones."""

from ialign_ray.config import Experiment, load_experiment
from ialign_ray.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    IalignError,
    ModelError,
)

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "Experiment",
    "IalignError",
    "ModelError",
    "load_experiment",
]

__version__ = "0.1.0"
"""Read by the packaging too. A job takes the code along, so the package need not be installed where it runs."""
