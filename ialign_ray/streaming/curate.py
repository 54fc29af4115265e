"""Building the corpus of an experiment, on a cluster if it is large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ialign_ray.config import Experiment, InstructionSuite, LmEvalSuite
from ialign_ray.corpus.build import Built, Runner, Watch, build_corpus, here
from ialign_ray.corpus.harness_tasks import suite_task_texts
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.suite_texts import ANSWERS, aside, file_texts
from ialign_ray.tasks.instructions import instructions

WORTH_TELLING = 4
"""Fewest parts of a stage for a line in the log; fewer are done in seconds."""


def curate(
    experiment: Experiment, console: Console | None = None, *, cluster: bool = False
) -> tuple[Built, EvaluationIndex]:
    """Build the experiment's corpus, or find it built; return it with the index of texts to keep out of training.

    `cluster` allows large corpora to be built by Ray; without it all work stays in this process.
    Raises DataError with one sentence.
    """
    index = evaluation_index(experiment)
    with _runner(experiment, cluster) as runner, _progress(console or Console(quiet=True)) as watch:
        built = build_corpus(experiment, index, runner, watch)
    for warning in built.counts["warnings"]:
        (console or Console(stderr=True)).print(f"[bold yellow]warning:[/] {escape(warning)}", highlight=False)
    return built, index


def evaluation_index(experiment: Experiment) -> EvaluationIndex:
    """Every sentence, in every language, of every suite and protected set, and of its files' undeclared languages.

    Held-out instructions are searched for by equality only: they share their wording with replayed ones.
    """
    settings, base = experiment.decontamination, experiment.storage.data
    sentences: dict[str, list[str]] = {}
    requests: dict[str, list[str]] = {}
    for suite in experiment.evaluate.suites:
        if isinstance(suite, InstructionSuite):
            requests[suite.name] = [row.inputs for row in instructions(suite, base)]
            requests[suite.name] += _texts(file_texts(suite, base, (), (*ANSWERS, *suite.columns.values())))
        elif isinstance(suite, LmEvalSuite):
            sentences[suite.name] = suite_task_texts(suite, experiment.languages.groups())
        else:
            sentences[suite.name] = _texts(file_texts(suite, base, suite.text_columns, aside(suite)))
    for protected in settings.sets:
        found = _texts(file_texts(protected, base, protected.columns))
        sentences[protected.origin] = [*sentences.get(protected.origin, ()), *found]
    return EvaluationIndex.build(
        sentences, exact=settings.exact, n=settings.ngram, threshold=settings.threshold, only_exact=requests
    )


def _texts(columns: Mapping[str, pa.Array]) -> list[str]:
    return [text for column in columns.values() for text in column.to_pylist() if text]


@contextmanager
def _runner(experiment: Experiment, cluster: bool) -> Iterator[Runner]:
    if not cluster:
        yield here
        return
    from ialign_ray.streaming.chunks import ClusterRunner  # imports ray, which takes seconds

    with ClusterRunner(experiment.scaling) as runner:
        yield runner


@contextmanager
def _progress(console: Console) -> Iterator[Watch]:
    """Progress of a build: a bar per stage on a terminal, and in a log a line per stage of more than a few jobs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        tasks = {}

        def watch(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)
            if not console.is_terminal and done == total >= WORTH_TELLING:
                console.print(f"corpus: {name}: {total:,} parts", highlight=False)

        yield watch
