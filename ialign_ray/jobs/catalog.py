"""The jobs by name: each calls the workflow of the command of the same name, and returns the result for its record.

A job always resumes; `outputs` in its record are the paths that must still exist for it to count as done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.terminal import say

DEFAULT_RUN = "align"
Result = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """Arguments of a job besides the experiment."""

    run: str = DEFAULT_RUN
    """Name of the run under `storage.runs`/`name`, or the path of one elsewhere, such as a search's trial."""
    control: str | None = None
    """Name of the replay-only run. Default: `control-sSEED`, if it is finished."""
    alias: str = "champion"
    force: str | None = None
    """Reason to skip the gate."""


def build_data(experiment: Experiment, options: Options, console: Console) -> Result:
    """Read, clean, decontaminate and split every corpus."""
    from ialign_ray.workflows.build import build

    built = build(experiment, console)
    return {"corpus": str(built.folder), "warnings": built.counts["warnings"], "outputs": [str(built.folder)]}


def align(experiment: Experiment, options: Options, console: Console) -> Result:
    """Train one run."""
    from ialign_ray.storage import read_json
    from ialign_ray.training.runs import MODEL, RECORD
    from ialign_ray.workflows.align import align

    run = align(experiment, options.run, resume=True, console=console)
    ending = read_json(run / RECORD)["ending"]
    return {"run": str(run), "model": str(run / MODEL), "ending": ending, "outputs": [str(run / MODEL)]}


def tune(experiment: Experiment, options: Options, console: Console) -> Result:
    """Run the search, choose the winner and evaluate it."""
    from ialign_ray.search.results import WINNER
    from ialign_ray.search.trial_context import control_of_trial, search_folder
    from ialign_ray.storage import read_json
    from ialign_ray.workflows.tune import tune

    run = tune(experiment, resume=True, console=console)
    found = read_json(search_folder(experiment) / WINNER)
    control = control_of_trial(experiment, found["point"])
    return {"run": str(run), "control": str(control), "winner": found, "outputs": [str(run), str(control)]}


def evaluate(experiment: Experiment, options: Options, console: Console) -> Result:
    """Score a finished run alongside base and control."""
    from ialign_ray.workflows.evaluate import evaluate

    run, control = _finished(experiment, options.run), control_run(experiment, options)
    statements = evaluate(experiment, [run], control, console=console)
    return {
        "run": str(run),
        "control": str(control) if control else None,
        "verdict": [statement.text for statement in statements],
        "outputs": [str(run / "evaluation" / "RESULTS.md")],
    }


def promote(experiment: Experiment, options: Options, console: Console) -> Result:
    """Register a finished, evaluated run, and promote it if it passes the gate.

    Raises RegistryError with the gate's reasons.
    """
    from ialign_ray.registry.promotion import promote_run
    from ialign_ray.registry.store import registry_uri

    run, control = _finished(experiment, options.run), control_run(experiment, options)
    said = partial(say, console)
    moved = promote_run(experiment, run, said, control=control, alias=options.alias, force=options.force)
    where = registry_uri(experiment.tracking_uri)
    return {
        "version": moved.version.title,
        "alias": options.alias,
        "registry": where,
        "content": moved.version.content,
    }


def serve(experiment: Experiment, options: Options, console: Console) -> Result:
    """Serve the models of `serve.models` until the job is stopped; running requests are finished first.

    Raises StoppedError when it is stopped, ClusterError if no replica can start.
    """
    from ialign_ray.workflows.serve import serve

    # replace: a killed attempt leaves its application behind, which would otherwise block this one
    where = experiment.tracking_uri
    with serve(experiment.served, where, experiment.scaling, console, replace=True) as (url, _):
        say(console, f"Ready at {url}, until the job is stopped")
        threading.Event().wait()
    return {"url": url}


def control_run(experiment: Experiment, options: Options) -> Path | None:
    """Return the replay-only run: the named one, or that of `compare` and the pipeline if it is finished."""
    from ialign_ray.storage import is_intact
    from ialign_ray.training.runs import MODEL, run_folder

    if options.control:
        return _finished(experiment, options.control)
    run = run_folder(experiment, control_name(experiment))
    return run if is_intact(run / MODEL) and run.name != options.run else None


def control_name(experiment: Experiment) -> str:
    """Return the name of `compare`'s control run with the experiment's seed."""
    from ialign_ray.evaluation.subjects import run_name

    return run_name("control", experiment.train.seed)


def _finished(experiment: Experiment, name: str) -> Path:
    from ialign_ray.training.runs import finished_run, run_folder

    return finished_run(run_folder(experiment, name))


@dataclass(frozen=True)
class Job:
    """One kind of job."""

    work: Callable[[Experiment, Options, Console], Result]
    """Function that does the job and returns the result for its record."""
    about: str
    takes: tuple[str, ...] = ()
    """Fields of Options that it reads."""
    workers: bool = False
    """True if it starts `scaling.workers`, so that their resources are checked before anything else."""


STEPS = {
    "build_data": Job(build_data, "Read, clean, decontaminate and split every corpus."),
    "align": Job(align, "Train one run.", ("run",), workers=True),
    "tune": Job(tune, "Search the space of `search`, and evaluate the winner."),
    "evaluate": Job(evaluate, "Score a finished run alongside base and control.", ("run", "control")),
    "promote": Job(
        promote,
        "Register an evaluated run, and promote it if it passes the gate.",
        ("run", "control", "alias", "force"),
    ),
    "serve": Job(serve, "Serve the models of `serve.models` until the job is stopped."),
}
"""Jobs of one step each, of which the pipeline consists."""


def titled(step: str, run: str) -> str:
    """Return the name of a step's record: `align`, or `align-first` for a run called `first`."""
    return step if run == DEFAULT_RUN else f"{step}-{Path(run).name}"
