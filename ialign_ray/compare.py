"""`ialign compare`: base, control and arms over seeds, trained, scored and judged side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.cluster import cluster
from ialign_ray.config import Experiment, override
from ialign_ray.errors import ConfigError, IalignError
from ialign_ray.evaluation.baselines import BASELINES
from ialign_ray.evaluation.harness import report_tasks, run_tasks
from ialign_ray.evaluation.predict import predict_models
from ialign_ray.evaluation.report import report
from ialign_ray.evaluation.scorer import Scorer
from ialign_ray.evaluation.verdict import Statement
from ialign_ray.evaluation.work import Subject
from ialign_ray.modeling.identity import base_identity, run_identity
from ialign_ray.modeling.kind import is_encoder_decoder
from ialign_ray.modeling.load import load_adapted
from ialign_ray.storage import alone, json_hash
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.trainer import MODEL, align, run_folder

BASE, PREDICTIONS = "base", "predictions"


def compare(experiment: Experiment, console: Console) -> list[Statement]:
    """Train every arm with every seed, score all of them and the base, print and write table and verdict.

    Finished runs and predictions are kept, so an interrupted comparison goes on where it stopped.
    """
    runs: dict[str, Path] = {}
    variants = arms(experiment)
    with cluster(experiment.scaling):
        for name, variant in variants.items():
            runs[name] = align(variant, name, resume=True, console=console)
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


def run_name(arm: str, seed: int) -> str:
    """Folder name of an arm's run."""
    return f"{arm}-s{seed}"


def base_subject(experiment: Experiment) -> Subject:
    """The untouched base model."""
    folder = run_folder(experiment, BASE) / PREDICTIONS
    return Subject(BASE, json_hash(_scored_as(experiment)), folder, partial(open_scorer, experiment, None))


def run_subject(experiment: Experiment, run: Path) -> Subject:
    """A finished run."""
    key = json_hash([*_scored_as(experiment), run_identity(run / MODEL)])
    return Subject(run.name, key, run / PREDICTIONS, partial(open_scorer, experiment, run / MODEL))


def _scored_as(experiment: Experiment) -> list[Any]:
    # tuning and new pieces say nothing of the base; prompt format and precision do change its scores
    settings = experiment.model.model_dump(exclude={"id", "revision", "tuning", "lora", "vocabulary"})
    return [settings, base_identity(experiment.model)]


def open_scorer(experiment: Experiment, folder: Path | None) -> Scorer:
    """The base (None) or an adapted model, ready to score."""
    import torch

    model, tokenizer = load_adapted(experiment.model, folder)
    if torch.cuda.is_available():
        model.to("cuda")
    chat, separator = experiment.model.chat, experiment.model.separator
    encoder = Encoder.of(tokenizer, chat, separator, seq2seq=is_encoder_decoder(model))
    return Scorer(model, encoder, experiment.evaluate.batch_tokens)


def evaluate(experiment: Experiment, runs: Sequence[Path], control: Path | None, console: Console) -> list[Statement]:
    """Score finished runs beside the base and, when given, the replay-only control."""
    subjects = {BASE: [base_subject(experiment)]}
    for name, run in named(runs, control).items():
        subjects[name] = [replace(run_subject(experiment, run), name=name)]
    return judge(experiment, subjects, runs[0] / "evaluation", console)


def named(runs: Sequence[Path], control: Path | None) -> dict[str, Path]:
    """Name in tables -> run: its folder's name, after its experiment's where that is taken, as all call one `align`.

    Raises ConfigError where two runs would still share a name.
    """
    found = {"control": control} if control else {}
    for run in dict.fromkeys(runs):
        name = run.name if run.name not in (BASE, *BASELINES, *found) else f"{run.parent.name}:{run.name}"
        if name in found:
            raise ConfigError(f"{found[name]} and {run} are both called {name!r}; rename one folder")
        found[name] = run
    return found


def judge(
    experiment: Experiment, subjects: Mapping[str, Sequence[Subject]], folder: Path, console: Console
) -> list[Statement]:
    """Score models (name -> one a seed) on all suites and tasks; print and write tables and verdict.

    Raises ConfigError where another process writes them into the same folder.
    """
    with alone(folder, "`ialign compare` or `ialign evaluate`"):
        return _judge(experiment, subjects, folder, console)


def _judge(
    experiment: Experiment, subjects: Mapping[str, Sequence[Subject]], folder: Path, console: Console
) -> list[Statement]:
    statements: list[Statement] = []
    every = [subject for seeds in subjects.values() for subject in seeds]
    suites, tasks = experiment.evaluate.suites, experiment.evaluate.lm_eval.tasks
    found = iter(predict_models(experiment, every, console) if suites else [])
    failed: IalignError | None = None
    if tasks:
        try:  # before the report, which shows them too, and is made even if a task's data is not there
            report_tasks(run_tasks(experiment, every, console), folder, console)
        except IalignError as error:
            failed = error
    if suites:
        predictions = {name: [next(found) for _ in seeds] for name, seeds in subjects.items()}
        folders = {name: [subject.folder.parent for subject in seeds] for name, seeds in subjects.items()}
        statements = report(experiment, predictions, folder, console, folders)
    if failed:
        raise failed
    return statements
