"""`ialign compare`: base, control and arms over seeds, trained, scored and compared."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ialign_ray.cluster.join import cluster
from ialign_ray.config import Experiment, override
from ialign_ray.errors import CheckpointError
from ialign_ray.evaluation.results.verdict import Statement
from ialign_ray.evaluation.subjects import BASE, base_subject, run_name, run_subject
from ialign_ray.storage import is_intact, read_json
from ialign_ray.tasks.plan import Plan
from ialign_ray.terminal import say
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.prepare import prepare
from ialign_ray.training.runs import MODEL, RECORD, run_experiment, run_folder
from ialign_ray.training.trainer import train
from ialign_ray.workflows.evaluate import judge

SHOWN = 5
"""Number of rows that a message names."""


def compare(experiment: Experiment, console: Console | None = None) -> list[Statement]:
    """Train every arm with every seed, score all of them and the base, print and write table and verdict.

    Finished runs and predictions are reused, so an interrupted comparison resumes where it stopped. Runs that were
    finished before a suite was added are reused too; its rows are then searched for in their data.
    """
    console = console or Console()
    ensure_model(experiment, console)
    runs: dict[str, Path] = {}
    variants = arms(experiment)
    with cluster(experiment.scaling):
        for name, variant in variants.items():
            runs[name] = trained(variant, name, console, on_cluster=True)
    subjects = {BASE: [base_subject(experiment)]} | {
        arm: [run_subject(experiment, runs[run_name(arm, seed)]) for seed in experiment.compare.seeds]
        for arm in experiment.compare.arms
    }
    folder = Path(experiment.storage.runs).absolute() / experiment.name
    return judge(experiment, subjects, folder, console)


def trained(experiment: Experiment, name: str, console: Console, *, on_cluster: bool = False) -> Path:
    """Train the run, or return it if it is finished, even if `evaluate` has changed since.

    `on_cluster` allows large corpora to be built by Ray. Raises CheckpointError, naming the rows that differ, if a
    finished run was made with other settings or data.
    """
    run = run_folder(experiment, name)
    if not is_intact(run / MODEL) or not (run / "data" / "plan" / "plan.json").exists():
        return train(experiment, name, resume=True, console=console)
    finished = read_json(run / MODEL / RECORD)["fingerprint"]
    now = prepare(experiment, cluster=on_cluster)
    if now.fingerprint(experiment) == finished:
        say(console, f"{name} is finished already")
        return run
    gone, new = changed_rows(Plan.load(run / "data" / "plan"), now.plan)
    rows = f"{len(gone)} rows of its data would be excluded now, and {len(new)} others added{_named([*gone, *new])}"
    before = experiment.model_copy(update={"evaluate": run_experiment(run / MODEL).evaluate})
    if prepare(before, cluster=on_cluster).fingerprint(before) == finished:
        say(console, f"{name} is finished already, before evaluate.suites changed: {rows}")
        return run
    raise CheckpointError(
        f"{run} was finished with other settings or data ({rows}); remove it, or give the experiment another name"
    )


def changed_rows(before: Plan, now: Plan) -> tuple[list[str], list[str]]:
    """Ids of pairs and instructions that only the first plan has, and that only the second has."""
    known, present = (_rows(plan) for plan in (before, now))
    return sorted(known - present), sorted(present - known)


def _rows(plan: Plan) -> set[str]:
    return {row for table in (plan.pairs, plan.replay) for row in table["row_id"].to_pylist()}


def _named(rows: list[str]) -> str:
    more = ", …" if len(rows) > SHOWN else ""
    return f" ({', '.join(rows[:SHOWN])}{more})" if rows else ""


def arms(experiment: Experiment) -> dict[str, Experiment]:
    """Run name -> the experiment with that arm's overrides and seed."""
    return {
        run_name(arm, seed): override(experiment, {**changes, "train.seed": seed})
        for arm, changes in experiment.compare.arms.items()
        for seed in experiment.compare.seeds
    }
