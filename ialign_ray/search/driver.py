"""`ialign tune`: controls, then trials on Ray Tune, then the results; it can be killed and resumed at any moment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from ialign_ray.cluster.join import cluster
from ialign_ray.cluster.resources import nodes, startable
from ialign_ray.config import Experiment, SearchConfig, dump_yaml, override
from ialign_ray.config.model import DECLARED
from ialign_ray.errors import CheckpointError, ClusterError, ConfigError, IalignError
from ialign_ray.search.actor import SearchTrial, train_control
from ialign_ray.search.budget import Demand, budgets, concurrency, demand, whole_budget
from ialign_ray.search.objective import ESTIMATE, References
from ialign_ray.search.progress import NestedRuns, Progress, shown
from ialign_ray.search.results import STOPPED, TRIALS, WINNER, is_chosen, write_results
from ialign_ray.search.searchers import searcher
from ialign_ray.search.space import Point, check_space, point_name, search_of, trial_count
from ialign_ray.search.trial import read_losses
from ialign_ray.search.trial_context import (
    SearchContext,
    assemble,
    confirmations,
    control_folder,
    control_point,
    own_control_folder,
    own_control_point,
    search_folder,
    seeds,
)
from ialign_ray.storage import is_intact, json_hash, read_json, write_json, write_text
from ialign_ray.training.runs import MODEL
from ialign_ray.training.trainer import in_background

STATE, SETTINGS = "tune", "search.json"
DECIDE = ("languages", "model", "corpora", "cleaning", "decontamination", "replay", "tasks", "train", "search")
"""Sections that must not change within a search."""
TUNE_SETTINGS = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # the default of 10 s and more would lose the trials of that time
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our run folders contain the same and more
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C keeps Python's handler
    "RAY_AIR_NEW_OUTPUT": "0",
}


def search(experiment: Experiment, console: Console, *, resume: bool = False) -> Path:
    """Run or resume the search of an experiment; returns its folder, with table, front and winner.

    Raises IalignError with one sentence; finished trials are always kept.
    """
    # Tune runs each trial in a separate working directory
    experiment = override(experiment, {"storage.runs": str(Path(experiment.storage.runs).absolute())})
    check_space(experiment)
    settings = search_of(experiment)
    budgets(settings, whole_budget(experiment, settings))
    folder = search_folder(experiment)
    experiment = by_stored_rule(experiment, folder)
    settings = search_of(experiment)
    if begin(experiment, folder, resume):
        console.print("The search is finished already", highlight=False)
        return folder
    for key, value in TUNE_SETTINGS.items():
        os.environ.setdefault(key, value)
    for name in ("ray.tune.tune", "ray.tune.analysis.experiment_analysis"):  # they miss files that we do not use
        logging.getLogger(name).setLevel(logging.ERROR)
    with cluster(experiment.scaling) as resources:
        most = concurrency(settings, nodes(), startable())
        shared = assemble(experiment, console, cluster=True)
        need = demand(settings, resources)
        shared = with_references(shared, need, console)
        shared.plan.save(folder / "data" / "plan")  # suites that are added later are searched for in it
        run_trials(shared, folder, need, most, console)
        found = write_results(folder, settings)
        if found and is_chosen(found):
            train_own_control(shared, found["point"], need, console)
            train_again(shared, found["point"], need, console)
    write_json(folder / SETTINGS, read_json(folder / SETTINGS) | {"finished": True})
    return folder


def by_stored_rule(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with the rule of the existing search: those from before `search.feasible` existed use the
    estimate.

    Their winner.json records it from then on.
    """
    if not (folder / SETTINGS).exists() or "feasible" in read_json(folder / SETTINGS):
        return experiment
    if (folder / WINNER).exists():
        write_json(folder / WINNER, {"rule": ESTIMATE} | read_json(folder / WINNER))
    return override(experiment, {"search.feasible": ESTIMATE})


def begin(experiment: Experiment, folder: Path, resume: bool) -> bool:
    """Save the settings, or refuse to mix two searches in one folder; return True if this one is finished."""
    # storage, cluster and tracking may change between attempts; what trials depend on may not
    decides = experiment.model_dump(mode="json", include=set(DECIDE), exclude=DECLARED)
    for free in ("concurrent", "cpus_per_trial", "gpus_per_trial"):  # the cluster may have changed
        decides["search"].pop(free)
    if not decides["search"]["confirm_seeds"]:  # searches that were begun without this field resume
        decides["search"].pop("confirm_seeds")
    rule = decides["search"].pop("feasible")
    key = json_hash(decides)
    known = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else None
    if known and not resume:
        raise ConfigError(
            f"{folder} holds a search; continue with --resume, remove it, or give the experiment another name"
        )
    if known and known.get("feasible", ESTIMATE) != rule:
        raise CheckpointError(
            f"search.feasible is {rule}, but {folder} was made with {known['feasible']}; remove it, or give the "
            "experiment another name"
        )
    if known and known["settings"] != key:
        raise CheckpointError(f"{folder} was made with other settings; remove it, or give the experiment another name")
    write_text(folder / "experiment.yaml", dump_yaml(experiment))
    write_json(folder / SETTINGS, known or {"settings": key, "finished": False, "feasible": rule})
    return bool(known and known["finished"])


def with_references(shared: SearchContext, need: Demand, console: Console) -> SearchContext:
    """Train missing controls, one per seed, and read the losses that trials are compared with."""
    every = seeds(shared.experiment)
    missing = [seed for seed in every if not is_intact(control_folder(shared.experiment, seed) / MODEL)]
    console.print(f"Controls (replay only): {len(missing)} of {len(every)} to train", highlight=False)
    train_controls(shared, {control_folder(shared.experiment, seed): control_point(seed) for seed in missing}, need)
    return replace(shared, references={seed: references(shared, seed) for seed in every})


def train_controls(shared: SearchContext, points: Mapping[Path, Point], need: Demand) -> None:
    """Train controls (run folder -> settings) as tasks; each continues from its checkpoint."""
    remote = ray.remote(train_control).options(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=3)
    # put once: tasks on a host read the same copy
    put = ray.put(shared)
    try:
        in_background(lambda: ray.get([remote.remote(put, point, folder) for folder, point in points.items()]))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, IalignError):
            raise error.cause from error
        raise


def train_own_control(shared: SearchContext, point: Point, need: Demand, console: Console) -> None:
    """Train the control at the winner's rate and rank, unless it is the default one or exists already."""
    own, folder = own_control_point(shared.experiment, point), own_control_folder(shared.experiment, point)
    if own is None or is_intact(folder / MODEL):
        return
    console.print("Control of the winner (replay only, with the winner's settings): to train", highlight=False)
    train_controls(shared, {folder: own}, need)


def train_again(shared: SearchContext, point: Point, need: Demand, console: Console) -> None:
    """Train the winner and its control with each of `search.confirm_seeds`, unless they are there."""
    every = confirmations(shared.experiment, point)
    missing = {folder: again for folder, again in every.items() if not is_intact(folder / MODEL)}
    if missing:
        console.print(f"Winner and control with other seeds: {len(missing)} to train", highlight=False)
        train_controls(shared, missing, need)


def references(shared: SearchContext, seed: int) -> References:
    """Read base and control from the control's folder."""
    folder, l1 = control_folder(shared.experiment, seed), shared.experiment.languages.l1
    return References(read_losses(folder, 0, l1), [(b, read_losses(folder, b, l1)) for b in shared.ends])


def run_trials(shared: SearchContext, folder: Path, need: Demand, most: int, console: Console) -> None:
    """Run all trials under Ray Tune, from the beginning or from the state of a killed search."""
    settings = search_of(shared.experiment)
    trainable = tune.with_resources(
        tune.with_parameters(SearchTrial, shared=shared), {"cpu": need.cpus, "gpu": need.gpus}
    )
    progress = Progress(trial_count(settings), shared.ends[-1], console)
    runs = NestedRuns(shared.experiment, folder, console)
    finished = False
    found: list[Any] = []
    with observed(Observer(folder / TRIALS, progress, runs)), shown(progress):
        try:
            tuner = make_tuner(trainable, shared, folder, most)
            in_background(lambda: found.append(tuner.fit()))
            finished = True
        finally:
            runs.close(finished)
    result = found[0]
    if result.errors:
        raise ClusterError(
            f"{len(result.errors)} trials were lost more than scaling.max_failures times "
            f"({str(result.errors[0]).strip().splitlines()[-1]}); the others are kept, continue with --resume"
        )


def make_tuner(trainable: Any, shared: SearchContext, folder: Path, most: int) -> tune.Tuner:
    """Return a new Tuner, or restore the one of an earlier driver."""
    settings, state = search_of(shared.experiment), folder / STATE
    if tune.Tuner.can_restore(str(state)):
        # errored trials too: a full disk or a lost host is not the fault of the settings
        return tune.Tuner.restore(str(state), trainable, resume_unfinished=True, resume_errored=True)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher(settings, most),
            scheduler=scheduler(settings, shared.ends),
            num_samples=trial_count(settings),
            # a process keeps base model and encoded examples from trial to trial
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=STATE,
            storage_path=str(folder),
            verbose=0,
            callbacks=[Callback()],
            failure_config=tune.FailureConfig(max_failures=shared.experiment.scaling.max_failures),
        ),
    )


class Observer:
    """Shows each result of a trial, and records permanently which trials the scheduler stopped."""

    def __init__(self, trials: Path, progress: Progress, runs: NestedRuns) -> None:
        self._trials, self._progress, self._runs = trials, progress, runs

    def result(self, config: Mapping[str, Any], result: dict[str, Any]) -> None:
        """A trial's outcome at a budget."""
        name = point_name(config["point"])
        self._progress.result(name, dict(config["point"]), result)
        self._runs.result(name, dict(config["point"]), result)

    def complete(self, config: Mapping[str, Any], result: dict[str, Any]) -> None:
        """Record that a trial ended or was stopped before its full budget, so that a resumed search does not continue
        it."""
        name = point_name(config["point"])
        if result and not result.get("last") and not result.get("failed"):
            write_json(self._trials / name / STOPPED, {"budget": result["budget"]})
        self._progress.end(name)
        self._runs.end(name, "FAILED" if result.get("failed") else "FINISHED")


_observer: list[Observer] = []


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Connect Tune's callback, which is pickled with the search's state, to this process' observer."""
    _observer.append(observer)
    try:
        yield
    finally:
        _observer.clear()


class Callback(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Tune's callback in the driver's process."""

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Pass it to the observer."""
        for observer in _observer:
            observer.result(trial.config, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass it to the observer."""
        for observer in _observer:
            observer.complete(trial.config, trial.last_result or {})


def scheduler(search: SearchConfig, ends: Sequence[int]) -> Any:
    """The scheduler for these budgets; `training_iteration` restarts when a search is resumed, a budget does not."""
    from ray.tune import schedulers

    common: dict[str, Any] = {"metric": "score", "mode": "max", "reduction_factor": search.reduction}
    if search.scheduler == "asha":
        return schedulers.AsyncHyperBandScheduler(
            # not stop_last_trials: a trial at its full budget ends on its own, with a finished model
            time_attr="budget",
            grace_period=ends[0],
            max_t=ends[-1],
            stop_last_trials=False,
            **common,
        )
    return schedulers.FIFOScheduler()
