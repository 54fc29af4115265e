"""One table and one verdict over base, control and arms, printed and written beside the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from ialign_ray.config import ClassificationSuite, Experiment
from ialign_ray.evaluation.baselines import baseline_predictions
from ialign_ray.evaluation.measures import Measured, Plan, measure
from ialign_ray.evaluation.results import compare_all, summarise
from ialign_ray.evaluation.suites import classification_rows
from ialign_ray.evaluation.tables import Column, table
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


def columns(experiment: Experiment, results: pd.DataFrame) -> list[Column]:
    """What the table shows: per suite and group the chosen score, AUC at fixed length, bits, losses."""
    scorer, chosen = experiment.evaluate.scorer, []
    for suite in experiment.evaluate.suites:
        if suite.kind == "classification":
            shown = (("f1_weighted", "F1"), ("auc_length_fixed", "AUC, length fixed"))
            chosen += [
                Column(f"{suite.name} {group} {title}", suite.name, f"group:{group}", metric, scorer)
                for metric, title in shown
                for group in _groups(results, suite.name)
            ]
        elif suite.kind == "translation":
            for group in _groups(results, suite.name):
                for metric, title in (("bits_per_byte", "bits/byte"), ("source_use", "source use")):
                    chosen.append(
                        Column(
                            f"{suite.name} {group} {title}",
                            suite.name,
                            f"group:{group}",
                            metric,
                            "likelihood",
                        )
                    )
        else:
            chosen.append(Column(f"{suite.name} nats/token", suite.name, "all", "nats_per_token", "likelihood"))
    return chosen


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
        shown = [c for c in columns(experiment, results) if c.suite == suite.name]
        part = results[results["suite"] == suite.name]
        if part.empty or not shown:
            continue
        text, printed = table(part, shown)
        console.print(printed)
        markdown.append(f"## {suite.name}\n\n{text}")
    for statement in statements:
        console.print(f"- {statement.text}", highlight=False, soft_wrap=True)
    said = "\n".join(f"- {s.text}" for s in statements)
    scored = f"Scorer: {experiment.evaluate.scorer}; value [95 % bootstrap interval over sentences]."
    title = f"# {experiment.name}\n\n{scored}\n\n"
    write_text(folder / "RESULTS.md", title + "\n".join(markdown) + f"\n## Verdict\n\n{said}\n")
    write_text(folder / "results.csv", results.to_csv(index=False))
    write_text(folder / "comparisons.csv", comparisons.to_csv(index=False))
    return statements


def _groups(results: pd.DataFrame, suite: str) -> list[str]:
    scopes = results.loc[results["suite"] == suite, "scope"].unique()
    return sorted(s.removeprefix("group:") for s in scopes if s.startswith("group:"))
