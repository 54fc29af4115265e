"""Building an experiment's corpus with a progress bar, for every command that needs parallel text."""

from __future__ import annotations

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.corpus.build import Built
from ialign_ray.streaming.curate import curate


def build(experiment: Experiment, console: Console) -> Built:
    """Build the experiment's corpus, on Ray if it is large, and print the number of texts that each step kept and
    dropped."""
    from ialign_ray.inspection.report import learned, step_table
    from ialign_ray.inspection.terminal import show_counts
    from ialign_ray.tasks.replay import replay_leaks

    built, index = curate(experiment, console, cluster=True)
    tables = [step_table(experiment, corpus, built) for corpus in experiment.corpora]
    show_counts(console, tables, learned(built.counts["learned"]))
    if experiment.replay.sources:
        counts = replay_leaks(experiment, index)
        text = (
            f"replay: {counts.read:,} instructions read, {counts.empty:,} empty, {counts.leaked:,} contain evaluation "
            f"sentences ({counts.overlapping:,} of them only by overlap), {counts.eligible:,} left"
        )
        if counts.leaked_from:
            text += f"; sentences of {', '.join(f'{name} in {n:,}' for name, n in counts.leaked_from.items())}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    return built
