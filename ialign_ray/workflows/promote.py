"""`ialign register` and `promote`: from a finished run to a version, and from a version to the champion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ialign_ray.config import Experiment
from ialign_ray.errors import RegistryError
from ialign_ray.registry import promotion
from ialign_ray.registry.promotion import CHAMPION, Moved
from ialign_ray.registry.run_evidence import prompted_experiment
from ialign_ray.registry.store import Registry, Version, has_registry
from ialign_ray.training.runs import MODEL, model_folder, run_experiment

DEFAULT_REGISTRY = "runs"


@dataclass(frozen=True)
class Registered:
    """A registered run."""

    version: Version
    new: bool
    """True unless the same files were registered before."""
    registry: str
    """Location of the registry: an MLflow server or database, or a folder of runs."""


def register(
    run: Path | str,
    name: str | None = None,
    *,
    experiment: Experiment | None = None,
    control: Path | str | None = None,
    context: str | None = None,
    registry: str | None = None,
) -> Registered:
    """Add a finished, evaluated run to the registry: model, settings, predictions and scores, hashed.

    `name` defaults to the experiment's, `registry` to the run's. `experiment` is the one that the run was evaluated
    with, if not its own; `control` the replay-only run, if not the experiment's. With a `context` of
    `evaluate.contexts` the version's prompts have it, and `run` may be the folder of `ialign icl`: then the version is
    the base with that context. Raises RegistryError if the run is unfinished, damaged or not evaluated.
    """
    folder = Path(run).absolute()
    if not folder.is_dir():
        raise RegistryError(f"{folder} does not exist; name a version number or a run folder")
    if context is None or (folder / MODEL).exists() or folder.name == MODEL:
        folder = model_folder(folder)
        own, folder = experiment or run_experiment(folder), folder.parent
    else:
        own = experiment or prompted_experiment(folder)
    where = registry or own.tracking.mlflow_uri or str(_runs_above(folder))
    store = Registry(where, artifacts=own.tracking.artifacts, create=True)
    beside = Path(control).absolute() if control else None
    return Registered(*promotion.register(store, folder, name or own.name, experiment, beside, context), where)


def promote(
    name: str,
    candidate: int | Path | str,
    *,
    alias: str = CHAMPION,
    force: str | None = None,
    context: str | None = None,
    registry: str | None = None,
) -> Moved:
    """Move the alias to a version, by number or by the folder of its run, if it passes the gate.

    `context` is that of a run, see `register`.

    `force` is a reason to skip the gate, which is recorded. Raises RegistryError with the gate's reasons.
    """
    if force is not None and not force.strip():
        raise RegistryError("--force is empty; give the reason, which is recorded in the history")
    if str(candidate).isdecimal():
        if context is not None:
            raise RegistryError(f"--context is for a run folder, and {candidate} is a version; remove it")
        return promotion.promote(Registry(registry or DEFAULT_REGISTRY), name, int(str(candidate)), alias, force)
    added = register(str(candidate), name, context=context, registry=registry)
    return promotion.promote(Registry(added.registry), name, added.version.number, alias, force)


def _runs_above(run: Path) -> Path:
    """The folder of all runs: `runs` of `runs/mine/align` and of `runs/mine/search/trials/trial-…`."""
    return next((each for each in run.parents[1:4] if has_registry(str(each))), run.parent.parent)
