"""Submissions of jobs: command, files and environment, all checked before anything is sent."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

import yaml

from ialign_ray.config import Experiment, LmEvalSuite, load_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.jobs.entry import JOBS, options_of, parser, refuse_lost_runs, title_of
from ialign_ray.jobs.environment import job_environment
from ialign_ray.jobs.package import Package
from ialign_ray.pocket import POCKET

NAME = "ialign_name"
"""Key of a job's name in its metadata. Ids do not show it: `x-2` may be a job, or the second attempt of `x`."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Submission:
    """Everything that is sent to a job server."""

    name: str
    """Name of the job, shared by all its attempts."""
    entrypoint: str
    package: Package
    environment: Mapping[str, str]
    metadata: Mapping[str, str]


def prepare(
    file: Path,
    job: str,
    *,
    overrides: Sequence[str] = (),
    arguments: Sequence[str] = (),
    name: str | None = None,
    working_dir: Path = Path(),
    also: Sequence[str] = (),
    include: Sequence[str] = (),
) -> Submission:
    """Check an experiment for a job and build its submission. Raises ConfigError with one sentence.

    `arguments`: those of the job itself (`--run first`). `also`: names of environment variables to pass. `include`:
    files to send in addition to those that the experiment names.
    """
    if job not in JOBS:
        raise ConfigError(f"--job {job!r} is not a job; use one of {', '.join(JOBS)}")
    root, inside = working_dir.absolute(), path_inside(file, working_dir)
    experiment = load_experiment(file, overrides)
    refuse_lost_runs(experiment)
    package = Package.of(root, [inside, *named_files(experiment, file, overrides, root)], include)
    refuse_unsent(experiment, package)
    words = ["python", "-m", "ialign_ray.jobs", job, inside]
    words += [word for override in overrides for word in ("--set", override)]
    called = checked(name or default_name(experiment, job, arguments))
    return Submission(
        name=called,
        entrypoint=shlex.join([*words, *arguments]),
        package=package,
        environment=job_environment(os.environ, also),
        metadata={"ialign_job": job, "experiment": experiment.name, NAME: called},
    )


def default_name(experiment: Experiment, job: str, arguments: Sequence[str]) -> str:
    """Return `pocket-align`, or `pocket-align-first` for the run `first`. Wrong arguments end in argparse's error."""
    given = parser(job).parse_args(["-", *arguments])
    return f"{experiment.name}-{title_of(job, options_of(job, given))}"


def checked(name: str) -> str:
    """Return the name. Raises ConfigError if it cannot be part of a URL."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r} is not a valid name; use letters, digits, dot, dash and underscore")
    return name


@dataclass(frozen=True)
class Attempt:
    """State of one attempt of a job on the cluster."""

    name: str
    """Name of its job, shared by all attempts."""
    ended: bool


def next_attempt(name: str, known: Mapping[str, Attempt]) -> str:
    """Return the id of a job's next attempt, given the attempts on the cluster by id.

    Ray accepts no id twice, so later attempts are `name-2`, `name-3` and so on, skipping ids of other jobs. Raises
    ConfigError while an earlier attempt is running: two would write the same files.
    """
    own = {i: attempt for i, attempt in known.items() if attempt.name == name}
    if going := [i for i, attempt in own.items() if not attempt.ended]:
        raise ConfigError(
            f"{going[0]} is still running; follow it with `ialign jobs --follow {going[0]}`, end it with `ialign stop "
            f"{going[0]}`, or submit another with a different --name"
        )
    number = 1 + max((int(i[len(name) + 1 :] or 1) for i in own), default=0)
    numbered = (name if k == 1 else f"{name}-{k}" for k in count(number))
    return next(i for i in numbered if i not in known)


def path_inside(file: Path, working_dir: Path) -> str:
    """Return the experiment file's path relative to the working directory. Raises ConfigError if it is outside."""
    root, path = working_dir.resolve(), file.resolve()
    if not path.is_relative_to(root):
        raise ConfigError(
            f"{file} is outside the working directory {root}, which is all that is uploaded; pass the folder that "
            "contains it with --working-dir"
        )
    return path.relative_to(root).as_posix()


def named_files(experiment: Experiment, file: Path, overrides: Sequence[str], root: Path) -> Iterator[str]:
    """Yield the paths, relative to the working directory, of the files that an experiment reads."""
    suites = (yaml.safe_load(file.read_text(encoding="utf-8")).get("evaluate") or {}).get("suites") or []
    for override in overrides:
        field, _, value = override.partition("=")
        if field == "evaluate.suites":
            suites = yaml.safe_load(value) or []
    used = [suite.get("use") if isinstance(suite, dict) else suite for suite in suites]
    own = [*used, *experiment.tasks.templates, experiment.evaluate.lm_eval.include_path]
    own += [suite.include_path for suite in experiment.evaluate.suites if isinstance(suite, LmEvalSuite)]
    data = [str(Path(experiment.storage.data, path)) for path in sources(experiment) if not path.startswith(POCKET)]
    for path in (*own, *data):
        if path and "://" not in path:
            whole = Path(os.path.normpath(root / path))
            if whole.is_relative_to(root) and whole != root:
                yield whole.relative_to(root).as_posix()


def refuse_unsent(experiment: Experiment, package: Package) -> None:
    """Raise ConfigError for a data file with a relative path that is not in the package."""
    base = experiment.storage.data
    if "://" in base or Path(base).is_absolute():
        return
    for path in sources(experiment):
        if "://" in path or path.startswith(POCKET) or Path(path).is_absolute():
            continue
        whole = Path(os.path.normpath(package.root / base / path))
        fixed = Path(*takewhile(lambda part: not set(part) & set("*?[{"), whole.parts))  # before any pattern
        if not fixed.is_relative_to(package.root) or not (fixed == package.root or package.holds(fixed)):
            raise ConfigError(
                f"{path} (in storage.data {base!r}) is not uploaded with the job; put it on storage that all nodes "
                "reach and pass that folder, e.g. --set storage.data=/shared/data, or s3://bucket/data"
            )


def sources(experiment: Experiment) -> Iterator[str]:
    """Yield every path that the experiment reads."""
    suites = [suite for suite in experiment.evaluate.suites if not isinstance(suite, LmEvalSuite)]
    every = [*experiment.corpora, *experiment.replay.sources, *suites]
    yield from (s.path for s in (*every, *experiment.decontamination.sets) if s.path)
