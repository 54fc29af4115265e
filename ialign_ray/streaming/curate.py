"""Build the corpus of an experiment, on a cluster where it is large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ialign_ray.config import Experiment, InstructionSuite
from ialign_ray.corpus.build import Built, Runner, Watch, build_corpus, here
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.readers import read_table
from ialign_ray.tasks.replay import instructions

WORTH_TELLING = 4
"""Parts of a stage from which a log gets a line about it; fewer are done in seconds."""


def curate(
    experiment: Experiment, console: Console | None = None, *, cluster: bool = False
) -> tuple[Built, EvaluationIndex]:
    """Build the experiment's corpus, or find it built; with it the index of what may not be trained on.

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
    """Every sentence, in every language, of every suite and protected set.

    Held-out instructions are looked for by equality alone: they share their wording with those that are replayed.
    """
    settings, base = experiment.decontamination, experiment.storage.data
    sentences: list[str] = []
    requests: list[str] = []
    for suite in experiment.evaluate.suites:
        if isinstance(suite, InstructionSuite):
            requests += [inputs for _, _, inputs, _ in instructions(suite, base)]
        else:
            table = read_table(suite, base, suite.text_columns)
            sentences += [str(t) for column in suite.text_columns for t in table[column].to_pylist() if t]
    for protected in settings.sets:
        table = read_table(protected, base, protected.columns)
        sentences += [str(t) for column in protected.columns for t in table[column].to_pylist() if t]
    return EvaluationIndex.build(
        sentences, exact=settings.exact, n=settings.ngram, threshold=settings.threshold, only_exact=requests
    )


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
    """A bar a stage on a terminal; in a log one line for each stage of more than a few jobs."""
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
