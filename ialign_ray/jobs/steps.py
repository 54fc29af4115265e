"""What each job does: the same functions as the command line calls, always going on with what is there."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment, override
from ialign_ray.errors import ModelError

DEFAULT_RUN = "align"


@dataclass(frozen=True)
class Options:
    """A job's arguments beside the experiment."""

    run: str = DEFAULT_RUN
    """Name of the run under `storage.runs`/`name`, or the path of one elsewhere, as a search's trial."""
    control: str | None = None
    """Name of the replay-only run; `control-sSEED` where it is finished when left out."""
    alias: str = "champion"
    force: str | None = None
    """Reason to promote without proof."""


def build_data(experiment: Experiment, options: Options, console: Console) -> dict[str, Any]:
    """Read, clean, clear and split every corpus."""
    from ialign_ray.workflows.build import build

    built = build(experiment, console)
    return {"corpus": str(built.folder), "warnings": built.counts["warnings"], "outputs": [str(built.folder)]}


def align(experiment: Experiment, options: Options, console: Console) -> dict[str, Any]:
    """Train one run."""
    from ialign_ray.storage import read_json
    from ialign_ray.training.pocket import ensure_model
    from ialign_ray.training.runs import MODEL, RECORD
    from ialign_ray.training.trainer import align as train

    ensure_model(experiment, console)
    run = train(experiment, options.run, resume=True, console=console)
    ending = read_json(run / RECORD)["ending"]
    return {"run": str(run), "model": str(run / MODEL), "ending": ending, "outputs": [str(run / MODEL)]}


def tune(experiment: Experiment, options: Options, console: Console) -> dict[str, Any]:
    """Search, choose, judge the winner."""
    from ialign_ray.search.results import WINNER
    from ialign_ray.search.trial_context import control_of_trial, search_folder
    from ialign_ray.search.tune import tune as search
    from ialign_ray.storage import read_json
    from ialign_ray.training.pocket import ensure_model

    ensure_model(experiment, console)
    run = search(experiment, console, resume=True)
    found = read_json(search_folder(experiment) / WINNER)
    control = control_of_trial(experiment, found["point"])
    return {"run": str(run), "control": str(control), "winner": found, "outputs": [str(run), str(control)]}


def evaluate(experiment: Experiment, options: Options, console: Console) -> dict[str, Any]:
    """Score a finished run beside base and control."""
    from ialign_ray.evaluation.evaluate import evaluate as score
    from ialign_ray.training.pocket import ensure_model

    ensure_model(experiment, console)
    run, control = finished_run(experiment, options.run), control_run(experiment, options)
    statements = score(experiment, [run], control, console)
    folder = run / "evaluation"
    return {
        "run": str(run),
        "control": str(control) if control else None,
        "verdict": [statement.text for statement in statements],
        "outputs": [str(folder / "RESULTS.md")],
    }


def promote(experiment: Experiment, options: Options, console: Console) -> dict[str, Any]:
    """Register a finished, evaluated run in the experiment's registry, and move the alias to it if it is shown better.

    Raises RegistryError with the gate's reasons.
    """
    from ialign_ray.registry.promotion import promote_run
    from ialign_ray.registry.store import registry_uri

    run, control = finished_run(experiment, options.run), control_run(experiment, options)
    version = promote_run(
        experiment,
        run,
        lambda line: say(console, line),
        control=control,
        alias=options.alias,
        force=options.force,
    ).version
    where = registry_uri(experiment.tracking_uri)
    return {"version": version.title, "alias": options.alias, "registry": where, "content": version.content}


def serve(experiment: Experiment, options: Options, console: Console) -> dict[str, Any]:
    """Serve the models of `serve.models` until the job is stopped; requests under way end first.

    Ends with StoppedError, or with ClusterError where no replica can be had.
    """
    from ialign_ray.serving.deployment import running
    from ialign_ray.training.pocket import ensure_model

    ensure_model(experiment, console)
    # what an attempt that was killed left behind makes room for this one
    with running(experiment.served, experiment.tracking_uri, experiment.scaling, replace=True) as url:
        say(console, f"Ready at {url}, until the job is stopped")
        threading.Event().wait()
    return {"url": url}


def finished_run(experiment: Experiment, name: str) -> Path:
    """The folder of a finished run. Raises ModelError where it is not."""
    from ialign_ray.storage import is_intact
    from ialign_ray.training.runs import MODEL, run_folder

    run = run_folder(experiment, name)
    if not is_intact(run / MODEL):
        raise ModelError(f"{run} has no finished model; run the job align --run {name} first, or name another run")
    return run


def control_run(experiment: Experiment, options: Options) -> Path | None:
    """The replay-only run: the one named, or the one that `compare` and the pipeline leave, if it is finished."""
    from ialign_ray.storage import is_intact
    from ialign_ray.training.runs import MODEL, run_folder

    if options.control:
        return finished_run(experiment, options.control)
    run = run_folder(experiment, control_name(experiment))
    return run if is_intact(run / MODEL) and run.name != options.run else None


def control_name(experiment: Experiment) -> str:
    """What `compare` calls the control of the experiment's seed."""
    from ialign_ray.evaluation.subjects import run_name

    return run_name("control", experiment.train.seed)


def control_of(experiment: Experiment) -> Experiment:
    """The replay-only experiment of equal compute."""
    return override(experiment, experiment.compare.arms.get("control", {"replay.ratio": 1.0}))


def titled(step: str, run: str) -> str:
    """What a step's record is called: `align`, or `align-first` of another run than the default one."""
    return step if run == DEFAULT_RUN else f"{step}-{Path(run).name}"


def say(console: Console, text: str) -> None:
    """A line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
