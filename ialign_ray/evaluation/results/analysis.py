"""All that is computed of the predictions of an experiment's runs, before any of it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.results.cells import Measured, ResamplingPlan, measure
from ialign_ray.evaluation.results.fitted_baselines import Fitted
from ialign_ray.evaluation.results.forgetting import Retention, backward_transfer, old_tasks, retention
from ialign_ray.evaluation.results.significance import Correlation, mcnemar_rows
from ialign_ray.evaluation.results.summary import compare_all, summarise
from ialign_ray.evaluation.results.transfer import (
    chief_changes,
    gains_by_seed,
    language_matrix,
    transfer_correlations,
)
from ialign_ray.evaluation.results.verdict import Statement, verdict
from ialign_ray.evaluation.rules import rules_of

BASE, CONTROL = "base", "control"

RunFrames = Mapping[str, pd.DataFrame]
"""Suite -> predictions of one training seed."""
Runs = Mapping[str, Sequence[RunFrames]]
"""Run -> its training seeds."""


@dataclass(frozen=True)
class Analysis:
    """Scores, differences and what follows from them; every frame is tidy, a row a number."""

    measured: Mapping[str, Measured]
    """Every run and baseline."""
    results: pd.DataFrame
    """Table returned by `results.summarise`."""
    comparisons: pd.DataFrame
    """Table returned by `results.compare_all`."""
    languages: pd.DataFrame
    """Table returned by `transfer.language_matrix`, against base."""
    groups: pd.DataFrame
    """Table returned by `transfer.chief_changes` by group, against `reference`."""
    old: pd.DataFrame
    """Table returned by `forgetting.old_tasks`."""
    backward: list[Retention]
    """Backward transfer of each run that has old tasks."""
    retention: list[Retention]
    """The declared number of each run."""
    gains: pd.DataFrame
    """Table returned by `transfer.gains_by_seed`."""
    correlations: dict[str, Correlation]
    """Suite -> correlation of L2 and L3 gains over trained runs."""
    mcnemar: pd.DataFrame
    """Rows of `significance.mcnemar_rows`, every arm against `reference`."""
    statements: list[Statement]
    """Retention and verdict in words."""
    reference: str
    """Run that gains are measured against: the control, or base without one."""
    notes: list[str]
    """Sentences about what no run can show, and why."""

    @property
    def arms(self) -> list[str]:
        """Runs that are judged: neither baseline, base nor control."""
        return [r for r in self.results["run"].unique() if r not in (*BASELINES, BASE, CONTROL)]


def analyse(experiment: Experiment, runs: Runs, baselines: Mapping[str, Fitted]) -> Analysis:
    """Measure all runs and the baselines of each suite, compare them and say what that shows."""
    settings, groups = experiment.evaluate, experiment.languages.groups()
    frames = with_baselines(runs, baselines)
    plan = ResamplingPlan(groups, {s.name: s.kind for s in settings.suites}, resamples=settings.resamples)
    measured = {name: measure(of_run, plan) for name, of_run in frames.items()}
    results = summarise(measured, groups, resamples=settings.resamples)
    comparisons = compare_all(measured)
    labels = {s.name: list(s.labels) for s in settings.suites if isinstance(s, ClassificationSuite)}
    trained = {name: m for name, m in measured.items() if name not in (*BASELINES, BASE)}
    base = measured.get(BASE)
    kept = [retention(n, m, base, settings) for n, m in trained.items()] if base else []
    backward = [backward_transfer(n, m, base, settings.scorer) for n, m in trained.items()] if base else []
    reference = CONTROL if CONTROL in runs else BASE
    gains = gains_by_seed(measured, settings.scorer)
    found = [k for k in kept if k]
    declared = [Statement(k.run, "retention", k.outcome, k.text) for k in found if k.run != CONTROL]
    return Analysis(
        measured=measured,
        results=results,
        comparisons=comparisons,
        languages=language_matrix(comparisons, settings.scorer, BASE),
        groups=chief_changes(comparisons, settings.scorer, reference, "group:"),
        old=old_tasks(comparisons, groups, settings.scorer),
        backward=[b for b in backward if b],
        retention=found,
        gains=gains,
        correlations=transfer_correlations(gains),
        mcnemar=_mcnemar(trained, measured, reference, settings.scorer),
        statements=declared + verdict(results, comparisons, rules_of(experiment), labels),
        reference=reference,
        notes=_power_notes(comparisons, settings.resamples),
    )


def with_baselines(runs: Runs, baselines: Mapping[str, Fitted]) -> dict[str, list[pd.DataFrame]]:
    """Run -> every frame of every seed, baselines first."""
    frames: dict[str, list[pd.DataFrame]] = {}
    for fitted in baselines.values():
        for name, frame in fitted.predictions.items():
            frames.setdefault(name, []).append(frame)
    for run, seeds in runs.items():
        for number, by_suite in enumerate(seeds):
            frames.setdefault(run, []).extend(f.assign(seed=number) for f in by_suite.values())
    return frames


def _mcnemar(
    trained: Mapping[str, Measured], measured: Mapping[str, Measured], reference: str, scorer: str
) -> pd.DataFrame:
    if reference not in measured:
        return pd.DataFrame()
    rows = [
        mcnemar_rows(run, m, reference, measured[reference], scorer) for run, m in trained.items() if run != reference
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _power_notes(comparisons: pd.DataFrame, resamples: int) -> list[str]:
    """Notes where so many languages cannot reach significance with so many resamples."""
    if comparisons.empty:
        return []
    by_language = comparisons[comparisons["scope"].str.startswith("language:") & (comparisons["prompt"] == "all")]
    most = int(by_language.groupby(["run", "against", "suite"])["scope"].nunique().max()) if len(by_language) else 0
    # the smallest p that `differences` can give; Holm multiplies it by the number of languages
    least = 2 / (resamples + 1)
    if most * least <= 0.05:
        return []
    return [
        f"No language can be significant after Holm's correction: over {most} languages, {resamples} resamples cannot "
        f"give a p under {most * least:.2g}; raise evaluate.resamples to {int(np.ceil(most * 2 / 0.05))}."
    ]
