"""`ialign icl`: models with exemplars, pairs and words in the prompt, next to the same models without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ialign_ray.config import ClassificationSuite, Experiment
from ialign_ray.config.contexts import ContextConfig, ContextPairs, ExemplarConfig
from ialign_ray.errors import ConfigError, IalignError
from ialign_ray.evaluation.results.verdict import Statement
from ialign_ray.evaluation.scoring.retriever_card import CARD, printed_card, retriever_card
from ialign_ray.evaluation.subjects import BASE, base_subject, open_scorer, run_subject
from ialign_ray.storage import write_text
from ialign_ray.terminal import say
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.runs import finished_run, run_folder
from ialign_ray.workflows.evaluate import judge, named

FOLDER = "icl"
"""Folder of the report, in that of the experiment's runs."""


def icl(
    experiment: Experiment, runs: Sequence[Path] = (), control: Path | None = None, *, console: Console | None = None
) -> list[Statement]:
    """Score base, control and finished runs without and with each of `evaluate.contexts`; return the verdict.

    An experiment without contexts gets `standard_contexts`. The card of retrievers is printed and written too.
    Raises ConfigError without a classification suite.
    """
    console = console or Console()
    suites = [suite for suite in experiment.evaluate.suites if isinstance(suite, ClassificationSuite)]
    if not suites:
        raise ConfigError("evaluate.suites has no classification suite, to which contexts apply; add one")
    changes = {"contexts": experiment.evaluate.contexts or standard_contexts(experiment, suites)}
    experiment = experiment.model_copy(update={"evaluate": experiment.evaluate.model_copy(update=changes)})
    ensure_model(experiment, console)
    subjects = {BASE: [base_subject(experiment)]}
    for name, run in named([finished_run(run) for run in runs], finished_run(control) if control else None).items():
        subjects[name] = [replace(run_subject(experiment, run), name=name)]
    folder = run_folder(experiment, FOLDER)
    statements = judge(experiment, subjects, folder, console)
    own_layers = any(context.searched_by_model for context in experiment.evaluate.contexts)
    try:
        card = retriever_card(experiment, open_scorer(experiment, None).embedder if own_layers else None)
    except IalignError as error:  # the scores are written already
        say(console, f"No card of retrievers: {error}")
        return statements
    if not card.empty:
        write_text(folder / CARD, card.to_csv(index=False))
        say(console, "Retrievers on your own data (recall of the right translation, share of the same label):")
        console.print(printed_card(card))
    return statements


def standard_contexts(experiment: Experiment, suites: Sequence[ClassificationSuite]) -> list[ContextConfig]:
    """Exemplars of the question's language and of the first L1 language, with their controls; pairs with theirs."""
    first = experiment.languages.l1[0]
    if any(suite.crossed for suite in suites):
        raise ConfigError(
            "a suite has no training rows, which exemplars are taken from; set evaluate.contexts with `exemplars.suite`"
        )
    found = [
        ContextConfig(name="icl", exemplars=ExemplarConfig()),
        ContextConfig(name="icl-random", exemplars=ExemplarConfig(retriever=["random"])),
        ContextConfig(name="icl-permuted", exemplars=ExemplarConfig(labels="permuted")),
        ContextConfig(name="x-icl", exemplars=ExemplarConfig(language=first)),
        ContextConfig(name="x-icl-random", exemplars=ExemplarConfig(language=first, retriever=["random"])),
    ]
    if experiment.corpora:
        found.append(ContextConfig(name="pairs", pairs=ContextPairs()))
        found.append(ContextConfig(name="pairs-random", pairs=ContextPairs(retriever=["random"])))
    return found
