"""`ialign submit`, `jobs`, `stop`: steps of an experiment as jobs of a Ray cluster."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ialign_ray.cli.options import console, say
from ialign_ray.terminal import BlockTable

Address = Annotated[
    str | None,
    typer.Option("--address", help="Job server. Default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265."),
]
JobId = Annotated[str, typer.Argument(help="Job id, as shown by `ialign jobs`.", show_default=False)]


def submit(
    file: Annotated[Path, typer.Argument(help="Experiment YAML in the working directory.", show_default=False)],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments of the job itself, after `--`.", show_default=False)
    ] = None,
    job: Annotated[
        str, typer.Option("--job", "-j", help="Step: build_data, align, tune, evaluate, promote, serve or pipeline.")
    ] = "align",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", help="Override a field, e.g. `--set train.steps=500`. May be repeated."),
    ] = None,
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="Job name. Default: EXPERIMENT-JOB.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--detach", help="Follow the log to its end, or submit and return.")
    ] = True,
    working_dir: Annotated[
        Path, typer.Option(help="Folder that contains the experiment and its files. Default: the current one.")
    ] = Path(),
    include: Annotated[
        list[str] | None,
        typer.Option(
            "--include", help="Also send this file, folder or pattern, even if it looks like a secret. May be repeated."
        ),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="Also pass this environment variable to the job. May be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every file that would be sent, then exit.")] = False,
) -> None:
    """Run a step on a Ray cluster, follow its log, and exit with its exit code; submitted again, it resumes.

    Example: `ialign submit jobs/experiments/pocket.yaml --set storage.runs=/shared/runs`

    The experiment, the files that it names, and the code of ialign are sent; `--dry-run` lists them.

    Example: `ialign submit jobs/experiments/pocket.yaml --job evaluate --set storage.runs=/shared/runs -- --run first`
    """
    from ialign_ray.jobs.environment import PASSED
    from ialign_ray.jobs.server import JobServer
    from ialign_ray.jobs.submission import prepare

    submission = prepare(
        file,
        job,
        overrides=overrides or [],
        arguments=arguments or [],
        name=name,
        working_dir=working_dir,
        also=env or [],
        include=include or [],
    )
    if dry_run:
        package = submission.package
        say(*(f"{(package.root / name).stat().st_size:>10,}  {name}" for name in package.files))
        code = "plus" if package.code else "including"
        say(f"{len(package.files)} files of {package.root}, {code} the code of ialign")
        return
    server = JobServer(address)
    attempt = server.submit(submission)
    passed = [key for key in submission.environment if key in {*PASSED, *(env or [])}]
    with_names = f", with {', '.join(passed)}" if passed else ""
    say(f"{attempt}: submitted to {server.address}, {len(submission.package.files)} files{with_names}")
    if wait:
        _follow(server, attempt)
    say(f"Follow: ialign jobs --follow {attempt}\nStop:   ialign stop {attempt}")


def jobs(
    follow: Annotated[str | None, typer.Option("--follow", "-f", help="Follow the log of this job to its end.")] = None,
    address: Address = None,
) -> None:
    """List the cluster's jobs, or follow one and exit with its exit code.

    Example: `ialign jobs --follow pocket-align`
    """
    from ialign_ray.jobs.server import JobServer

    server = JobServer(address)
    if follow:
        _follow(server, follow)
    if not console.is_terminal:
        console.width = 240  # a pipe has no width, and a cut-off name is useless to the next command
    rows = [_row(job) for job in server.jobs()]
    console.print(BlockTable(("job", "step", "status", "exit code", "started", "took"), rows))


def stop(job: JobId, address: Address = None) -> None:
    """Stop a job after it has written a checkpoint; submitted again, it resumes from there.

    Example: `ialign stop pocket-align`
    """
    from ialign_ray.jobs.server import JobServer

    if JobServer(address).stop(job):
        say(f"{job}: stopped; the same `ialign submit` resumes from its newest checkpoint")
    else:
        say(f"{job} has already finished")


def _follow(server: Any, name: str) -> None:
    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    code = server.follow(name, write)
    say(f"{name}: {server.job(name).status.lower()}, exit code {code}")
    raise typer.Exit(code)


def _row(job: Any) -> tuple[str, ...]:
    from ialign_ray.jobs.server import exit_code

    start, end = (moment / 1000 if moment else None for moment in (job.start_time, job.end_time))
    took = f"{(end or time.time()) - start:.0f} s" if start else ""
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(start)) if start else ""
    ended = job.status.is_terminal()
    step = (job.metadata or {}).get("ialign_job", "")
    return job.submission_id, step, str(job.status), str(exit_code(job)) if ended else "", started, took
