"""Teach an instruction-tuned language model new languages without losing the old ones.

from ialign_ray import align, evaluate, load_experiment

experiment = load_experiment("experiment.yaml", ["train.steps=500"])
run = align(experiment)
verdict = evaluate(experiment, [run])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ialign_ray.config import Experiment, load_experiment
from ialign_ray.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DataError,
    IalignError,
    ModelError,
    RegistryError,
    StoppedError,
)
from ialign_ray.version import __version__

if TYPE_CHECKING:
    from ialign_ray.workflows.align import align
    from ialign_ray.workflows.compare import compare
    from ialign_ray.workflows.evaluate import evaluate
    from ialign_ray.workflows.promote import promote, register
    from ialign_ray.workflows.tune import tune

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "Experiment",
    "IalignError",
    "ModelError",
    "RegistryError",
    "StoppedError",
    "__version__",
    "align",
    "compare",
    "evaluate",
    "load_experiment",
    "promote",
    "register",
    "tune",
]

_WORKFLOWS = {
    "align": "align",
    "compare": "compare",
    "evaluate": "evaluate",
    "promote": "promote",
    "register": "promote",
    "tune": "tune",
}
"""Function -> module of `workflows`: imported on first use, as torch and Ray take ten seconds."""


def __getattr__(name: str) -> Any:
    if name not in _WORKFLOWS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ialign_ray.workflows.{_WORKFLOWS[name]}"), name)
