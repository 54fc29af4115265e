"""`ialign compare`: base, control and arms over seeds, trained, scored and judged side by side."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ialign_ray.cluster.join import cluster
from ialign_ray.config import Experiment, override
from ialign_ray.evaluation.results.verdict import Statement
from ialign_ray.evaluation.subjects import BASE, base_subject, run_name, run_subject
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.trainer import train
from ialign_ray.workflows.evaluate import judge


def compare(experiment: Experiment, console: Console | None = None) -> list[Statement]:
    """Train every arm with every seed, score all of them and the base, print and write table and verdict.

    Finished runs and predictions are kept, so an interrupted comparison resumes where it stopped.
    """
    console = console or Console()
    ensure_model(experiment, console)
    runs: dict[str, Path] = {}
    variants = arms(experiment)
    with cluster(experiment.scaling):
        for name, variant in variants.items():
            runs[name] = train(variant, name, resume=True, console=console)
    subjects = {BASE: [base_subject(experiment)]} | {
        arm: [run_subject(experiment, runs[run_name(arm, seed)]) for seed in experiment.compare.seeds]
        for arm in experiment.compare.arms
    }
    folder = Path(experiment.storage.runs).absolute() / experiment.name
    return judge(experiment, subjects, folder, console)


def arms(experiment: Experiment) -> dict[str, Experiment]:
    """Run name -> the experiment with that arm's overrides and seed."""
    return {
        run_name(arm, seed): override(experiment, {**changes, "train.seed": seed})
        for arm, changes in experiment.compare.arms.items()
        for seed in experiment.compare.seeds
    }
