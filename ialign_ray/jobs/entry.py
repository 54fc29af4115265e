"""Entry point of the scripts of `jobs/`: arguments, log, record and exit code around the job."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from ialign_ray.config import Experiment, load_experiment, override
from ialign_ray.errors import ConfigError, IalignError, StoppedError
from ialign_ray.jobs.catalog import STEPS, Job, Options, Result, titled
from ialign_ray.jobs.environment import SUBMITTED_WITH, differing
from ialign_ray.jobs.pipeline import pipeline
from ialign_ray.jobs.record import exit_code_of, record_path, recorded
from ialign_ray.terminal import prepare_process, say

JOBS = STEPS | {
    "pipeline": Job(
        pipeline, "Build, search or train, evaluate and promote; finished steps are kept.", ("run", "alias", "force")
    )
}
ARGUMENTS = {
    "run": "Name of the run under storage.runs/NAME.",
    "control": "Name of the replay-only run. Default: control-sSEED, if it is finished.",
    "alias": "Alias to move.",
    "force": "Skip the gate; the reason given is recorded.",
}
WIDTH = 140
"""Columns of tables; a job's log is not a terminal with a width."""


def main(name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a job and end the process: 0, or 2 with one sentence, 143 when stopped, 1 with a traceback for a bug."""
    prepare_process()
    forget_script_folder()
    given = parser(name).parse_args(arguments)
    try:
        run(name, given.experiment, given.overrides, options_of(name, given))
    except IalignError as error:
        sys.stderr.write(f"ialign: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt as error:
        sys.stderr.write("ialign: interrupted; finished work is kept, run the job again to resume\n")
        sys.exit(exit_code_of(error))
    sys.exit(0)


def forget_script_folder() -> None:
    """Remove `jobs/` from the import path, also of Ray's workers: its evaluate.py would hide the package `evaluate`."""
    here = Path(sys.argv[0]).resolve().parent
    sys.path[:] = [p for p in sys.path if not p or Path(p).resolve() != here]


def parser(name: str) -> argparse.ArgumentParser:
    """Build the argument parser of a job."""
    job = JOBS[name]
    made = argparse.ArgumentParser(prog=f"{name}.py", description=job.about)
    made.add_argument("experiment", type=Path, help="Experiment YAML.")
    made.add_argument(
        "--set", "-s", dest="overrides", action="append", default=[], metavar="FIELD=VALUE", help="Override a field."
    )
    for field in job.takes:
        made.add_argument(f"--{field}", default=getattr(Options(), field), help=ARGUMENTS[field])
    return made


def options_of(name: str, given: argparse.Namespace) -> Options:
    """Return a job's parsed arguments besides the experiment."""
    return Options(**{field: getattr(given, field) for field in JOBS[name].takes})


def run(name: str, file: Path, overrides: Sequence[str], options: Options) -> Result:
    """Load the experiment, do the job and return its result, which its record holds too."""
    experiment = in_cluster(load_experiment(file, overrides))
    console = Console(force_terminal=False, width=WIDTH)
    title, began = title_of(name, options), time.monotonic()
    python, ray = platform.python_version(), version("ray")
    say(console, f"job {title} of {experiment.name}: Python {python}, Ray {ray}")
    if warning := differing(os.environ.get(SUBMITTED_WITH), python, ray):
        say(console, f"warning: {warning}")
    given = {field: getattr(options, field) for field in JOBS[name].takes}
    with stoppable():
        result = recorded(experiment, title, given, lambda: joined(name, experiment, options, console))
    say(console, f"job {title}: done in {time.monotonic() - began:.0f} s; {record_path(experiment, title)}")
    return result


def title_of(name: str, options: Options) -> str:
    """Return the name of a job's record, which includes the run's name if it is not the default."""
    return titled(name, options.run) if "run" in JOBS[name].takes else name


def joined(name: str, experiment: Experiment, options: Options, console: Console) -> Result:
    """Do the job's work; if it starts workers, join the cluster and check their resources first."""
    from ialign_ray.cluster.join import cluster
    from ialign_ray.cluster.resources import awaited, check_resources, hosts, present

    job = JOBS[name]
    if not (job.workers or (name == "pipeline" and experiment.search is None)):
        return job.work(experiment, options, console)
    with cluster(experiment.scaling) as resources:
        use_gpu = check_resources(experiment.scaling, resources, hosts())
        if waits := awaited(experiment.scaling, present(), use_gpu):
            say(console, waits)
        return job.work(experiment, options, console)


def in_cluster(experiment: Experiment) -> Experiment:
    """Adapt the experiment to a job server: run on its cluster, and keep runs outside the job's folder.

    Raises ConfigError if runs would be in the job's own copy of the working directory, which Ray removes.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # started by hand
        return experiment
    refuse_lost_runs(experiment)
    return override(experiment, {"scaling.address": "auto"}) if experiment.scaling.address is None else experiment


def refuse_lost_runs(experiment: Experiment) -> None:
    """Raise ConfigError if `storage.runs` is relative: a job's working directory is removed at its end."""
    runs = experiment.storage.runs
    if not Path(runs).is_absolute():
        raise ConfigError(
            f"storage.runs is {runs!r}, which a job would write into its own copy of the working directory and lose; "
            "give the absolute path of a folder that all nodes share, e.g. --set storage.runs=/shared/runs"
        )


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise StoppedError at SIGTERM while the body runs in the main thread; in others this changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise StoppedError("stopped by SIGTERM; finished work is kept, submit the job again to resume")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
