"""One table and one verdict over base, control and arms, printed and written beside the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from ialign_ray.config import ClassificationSuite, Experiment, Suite, TranslationSuite
from ialign_ray.evaluation.baselines import baseline_predictions
from ialign_ray.evaluation.measures import Measured, Plan, measure
from ialign_ray.evaluation.results import compare_all, summarise
from ialign_ray.evaluation.suites import classification_rows
from ialign_ray.evaluation.tables import bias_table, suite_columns, table
from ialign_ray.evaluation.verdict import Rules, Statement, verdict
from ialign_ray.storage import write_text

RunFrames = Mapping[str, pd.DataFrame]
"""Suite -> predictions of one training seed."""


def with_baselines(experiment: Experiment, runs: Mapping[str, Sequence[RunFrames]]) -> dict[str, list[pd.DataFrame]]:
    """Run -> every frame of every seed, with the surface baselines added."""
    frames: dict[str, list[pd.DataFrame]] = {}
    for suite in experiment.evaluate.suites:
        if isinstance(suite, ClassificationSuite):
            rows = classification_rows(suite, experiment.storage.data)
            made = baseline_predictions(rows.train, rows.test, {suite.name: len(rows.labels)})
            for name, frame in made.items():
                frames.setdefault(name, []).append(frame)
    for run, seeds in runs.items():
        for number, by_suite in enumerate(seeds):
            frames.setdefault(run, []).extend(f.assign(seed=number) for f in by_suite.values())
    return frames


def measured_runs(experiment: Experiment, runs: Mapping[str, Sequence[RunFrames]]) -> dict[str, Measured]:
    """Every metric of every run, drawn once for intervals and paired differences."""
    kinds = {s.name: s.kind for s in experiment.evaluate.suites}
    plan = Plan(experiment.languages.groups(), kinds, resamples=experiment.evaluate.resamples)
    return {name: measure(frames, plan) for name, frames in with_baselines(experiment, runs).items()}


def report(
    experiment: Experiment, runs: Mapping[str, Sequence[RunFrames]], folder: Path, console: Console
) -> list[Statement]:
    """Print table and verdict, and write results.csv, comparisons.csv and RESULTS.md into `folder`."""
    measured = measured_runs(experiment, runs)
    results = summarise(measured, experiment.languages.groups(), resamples=experiment.evaluate.resamples)
    comparisons = compare_all(measured)
    rules = Rules(scorer=experiment.evaluate.scorer, tolerance=experiment.evaluate.tolerance)
    labels = {s.name: list(s.labels) for s in experiment.evaluate.suites if isinstance(s, ClassificationSuite)}
    statements = verdict(results, comparisons, rules, labels)
    markdown = []
    for suite in experiment.evaluate.suites:
        shown = suite_columns(suite, results, experiment.evaluate.scorer)
        part = results[results["suite"] == suite.name]
        if part.empty or not shown:
            continue
        text, printed = table(part, shown)
        console.print(printed)
        notes = "".join(f"\n{line}\n" for line in generation_notes(suite, runs))
        bias = f"\n{bias_table(suite, results)}" if isinstance(suite, ClassificationSuite) else ""
        markdown.append(f"## {suite.name}\n\n{text}{bias}{notes}")
    for statement in statements:
        console.print(f"- {statement.text}", highlight=False, soft_wrap=True)
    said = "\n".join(f"- {s.text}" for s in statements)
    scored = f"Scorer: {experiment.evaluate.scorer}; value [95 % bootstrap interval over sentences]."
    title = f"# {experiment.name}\n\n{scored}\n\n"
    write_text(folder / "RESULTS.md", title + "\n".join(markdown) + f"\n## Verdict\n\n{said}\n")
    write_text(folder / "results.csv", results.to_csv(index=False))
    write_text(folder / "comparisons.csv", comparisons.to_csv(index=False))
    return statements


def generation_notes(suite: Suite, runs: Mapping[str, Sequence[RunFrames]]) -> list[str]:
    """sacrebleu's signatures and what could not be measured, of a suite that generates translations."""
    if not isinstance(suite, TranslationSuite) or not suite.generate:
        return []
    from ialign_ray.evaluation.translation_metrics import described

    frame = next(iter(runs.values()))[0][suite.name]  # references and directions are the same for every run
    return described(frame)
