"""Every job by name: what it calls, and which arguments it takes beside the experiment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.jobs import steps
from ialign_ray.jobs.pipeline import pipeline
from ialign_ray.jobs.steps import Options, titled


@dataclass(frozen=True)
class Job:
    """One kind of job."""

    work: Callable[[Experiment, Options, Console], dict[str, Any]]
    """Returns what goes into the job's JSON; `outputs` are the paths that must still be there for it to count."""
    about: str
    takes: tuple[str, ...] = ()
    """Fields of Options that it reads."""
    workers: bool = False
    """Whether it starts `scaling.workers`, so that their room is checked before anything else."""


JOBS = {
    "build_data": Job(steps.build_data, "Read, clean, clear of evaluation sentences and split every corpus."),
    "align": Job(steps.align, "Train one run.", ("run",), workers=True),
    "tune": Job(steps.tune, "Search the space of `search`, and judge the winner."),
    "evaluate": Job(steps.evaluate, "Score a finished run beside base and control.", ("run", "control")),
    "promote": Job(
        steps.promote,
        "Register an evaluated run, and make it the champion if it is shown better.",
        ("run", "control", "alias", "force"),
    ),
    "serve": Job(steps.serve, "Serve the models of `serve.models` until the job is stopped."),
    "pipeline": Job(
        pipeline,
        "Build, search or train, judge and promote; finished steps are kept.",
        ("run", "alias", "force"),
    ),
}
ARGUMENTS = {
    "run": "Name of the run under storage.runs/NAME.",
    "control": "Name of the replay-only run; control-sSEED, where it is finished, when left out.",
    "alias": "Alias to move.",
    "force": "Promote without proof, for this reason, which is kept.",
}


def title_of(name: str, options: Options) -> str:
    """What a job's record is called; a run of its own has one of its own."""
    return titled(name, options.run) if "run" in JOBS[name].takes else name
