"""`ialign evaluate`: finished runs, base and control, scored and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.config.contexts import NO_CONTEXT
from ialign_ray.errors import ConfigError, IalignError
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.report.write import report
from ialign_ray.evaluation.results.verdict import Statement
from ialign_ray.evaluation.scoring.harness import as_suites, report_tasks, run_tasks, selected, whole_table
from ialign_ray.evaluation.scoring.membership import membership_table, membership_units, write_membership
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.scoring.trained_on import TrainedOn, trained_on
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import BASE, base_subject, run_subject
from ialign_ray.modeling.load import set_aside_warning
from ialign_ray.storage import alone
from ialign_ray.terminal import say
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.runs import finished_run


def evaluate(
    experiment: Experiment,
    runs: Sequence[Path],
    control: Path | None = None,
    *,
    suites: Sequence[str] = (),
    console: Console | None = None,
) -> list[Statement]:
    """Score finished runs, base, baselines and, if given, the replay-only `control`; return the verdict.

    `runs` are run or model folders; `suites` chooses some by name, or adds tasks as `lm_eval:TASK`. Predictions,
    tables and the report are written to `evaluation` in the first run. Raises IalignError.
    """
    experiment, console = selected(experiment, suites), console or Console()
    ensure_model(experiment, console)
    finished = [finished_run(run) for run in runs]
    subjects = {BASE: [base_subject(experiment)]}
    for name, run in named(finished, finished_run(control) if control else None).items():
        subjects[name] = [replace(run_subject(experiment, run), name=name)]
    return judge(experiment, subjects, finished[0] / "evaluation", console)


def named(runs: Sequence[Path], control: Path | None) -> dict[str, Path]:
    """Name in tables -> run: its folder's name, prefixed by its experiment's if that is taken (many are named `align`).

    Raises ConfigError if two runs would still share a name.
    """
    found = {"control": control} if control else {}
    for run in dict.fromkeys(runs):
        name = run.name if run.name not in (BASE, *BASELINES, *found) else f"{run.parent.name}:{run.name}"
        if name in found:
            raise ConfigError(f"{found[name]} and {run} are both called {name!r}; rename one folder")
        found[name] = run
    return found


def with_contexts(experiment: Experiment, subjects: Mapping[str, Sequence[Subject]]) -> dict[str, Sequence[Subject]]:
    """Each model (name -> one per seed), and MODEL + CONTEXT for each context of the experiment."""
    found = dict(subjects)
    for context in experiment.evaluate.contexts:
        for variant in context.variants:
            for name, seeds in subjects.items():
                found[f"{name} + {variant.name}"] = [replace(seed, context=variant.name) for seed in seeds]
    return found


def judge(
    experiment: Experiment, subjects: Mapping[str, Sequence[Subject]], folder: Path, console: Console
) -> list[Statement]:
    """Score models (name -> one per seed) on all suites and tasks; print and write tables and verdict.

    Rows that a run was trained on are excluded from every score, with a warning. Raises ConfigError if another process
    writes into the same folder, DataError if a suite has no other row.
    """
    with alone(folder, "`ialign compare` or `ialign evaluate`"):
        return _judge(experiment, subjects, folder, console)


def _judge(
    experiment: Experiment, subjects: Mapping[str, Sequence[Subject]], folder: Path, console: Console
) -> list[Statement]:
    for warning in set_aside_warning(experiment.model):
        say(console, f"warning: {warning}")
    experiment, notes = as_suites(experiment)
    for note in notes:
        say(console, f"{note}.")
    statements: list[Statement] = []
    runs = {s.name: s.folder.parent for name, seeds in subjects.items() if name != BASE for s in seeds}
    folders = {name: [subject.folder.parent for subject in seeds] for name, seeds in subjects.items()}
    models = [subject for seeds in subjects.values() for subject in seeds]
    subjects = with_contexts(experiment, subjects)
    every = [subject for seeds in subjects.values() for subject in seeds]
    suites, tasks = experiment.evaluate.suites, experiment.evaluate.lm_eval.tasks
    known = trained_on(experiment, runs) if suites else TrainedOn({})
    predicted = predict_models(experiment, every, console) if suites else []
    found = iter(predicted)
    tables = [
        whole_table(experiment, subject.name, frames)
        for subject, frames in zip(every, predicted, strict=False)
        if subject.context == NO_CONTEXT
    ]
    failed: IalignError | None = None
    if tasks:
        try:  # before the report, which shows them too, and is made even if a task's data is missing
            tables.append(run_tasks(experiment, models, console))
        except IalignError as error:
            failed = error
    if not (table := pd.concat([pd.DataFrame(), *tables], ignore_index=True)).empty:
        report_tasks(table, folder, console)
    try:
        write_membership(_membership(experiment, models, console) if suites else None, folder)
    except IalignError as error:
        failed = failed or error
    if suites:
        predictions = {name: [known.clear(next(found)) for _ in seeds] for name, seeds in subjects.items()}
        statements = report(experiment, predictions, folder, console, folders, known.warnings)
    if failed:
        raise failed
    return statements


def _membership(experiment: Experiment, subjects: Sequence[Subject], console: Console) -> pd.DataFrame | None:
    """Table of `membership.membership_table` for the base; None if it is not asked for."""
    base = [subject for subject in subjects if subject.name == BASE][:1]
    if experiment.evaluate.membership is None or not base:
        return None
    units = membership_units(experiment, suite_units(experiment))
    return membership_table(predict_models(experiment, base, console, units)[0] if units else {})
