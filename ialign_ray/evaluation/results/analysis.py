"""Analysis of the predictions of an experiment's runs, before any of it is rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ialign_ray.config import Experiment
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.classification import LENGTH_FIXED, TOO_FEW_MATCHED
from ialign_ray.evaluation.results.cells import Measured, ResamplingPlan, clustered, clusters_of, measure
from ialign_ray.evaluation.results.fitted_baselines import Fitted
from ialign_ray.evaluation.results.forgetting import Retention, backward_transfer, old_tasks, retention
from ialign_ray.evaluation.results.overview import overview
from ialign_ray.evaluation.results.significance import Correlation, mcnemar_rows
from ialign_ray.evaluation.results.summary import compare_all, summarise
from ialign_ray.evaluation.results.transfer import (
    chief_changes,
    gains_by_seed,
    language_matrix,
    transfer_correlations,
)
from ialign_ray.evaluation.results.verdict import Statement, verdict
from ialign_ray.evaluation.rules import is_primary, rules_of
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, label_names
from ialign_ray.evaluation.suites.load import clusters_named

BASE, CONTROL = "base", "control"
PRIMARY, EXPLORATORY = "primary", "exploratory"

RunFrames = Mapping[str, pd.DataFrame]
"""Suite -> predictions of one training seed."""
Runs = Mapping[str, Sequence[RunFrames]]
"""Run -> its training seeds."""


@dataclass(frozen=True)
class Analysis:
    """Scores, differences and derived results; every frame is tidy, with one number per row."""

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
    overview: pd.DataFrame
    """Table returned by `overview.overview`."""
    statements: list[Statement]
    """Retention and verdict in words."""
    reference: str
    """Run that gains are measured against: the control, or base without one."""
    notes: list[str]
    """Sentences about what no run can show, and the reason."""

    @property
    def arms(self) -> list[str]:
        """Runs that are judged: all except baselines, base and control."""
        return [r for r in self.results["run"].unique() if r not in (*BASELINES, BASE, CONTROL)]


def analyse(experiment: Experiment, runs: Runs, baselines: Mapping[str, Fitted]) -> Analysis:
    """Measure all runs and the baselines of each suite, compare them and draw conclusions."""
    settings, groups = experiment.evaluate, experiment.languages.groups()
    frames = with_baselines(runs, baselines)
    kinds, named = {s.name: s.kind for s in settings.suites}, {s.name: s.named_metrics for s in settings.suites}
    plan = ResamplingPlan(groups, kinds, settings.resamples, named=named)
    measured = {name: measure(of_run, plan) for name, of_run in frames.items()}
    results = summarise(measured, groups, resamples=settings.resamples)
    rules = rules_of(experiment)
    comparisons = compare_all(measured, seed_spread=settings.seed_spread)
    if len(comparisons):
        comparisons["end_point"] = is_primary(comparisons, rules).map({True: PRIMARY, False: EXPLORATORY})
    labels = {s.name: names for s in settings.suites if (names := label_names(s))}
    trained = {name: m for name, m in measured.items() if name not in (*BASELINES, BASE)}
    base = measured.get(BASE)
    kept = [retention(n, m, base, settings) for n, m in trained.items()] if base else []
    backward = [backward_transfer(n, m, base, settings) for n, m in trained.items()] if base else []
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
        overview=overview(
            measured,
            groups,
            settings.scorer,
            {s.name: getattr(s, "competency", None) or SUITES[s.kind].competency for s in settings.suites},
            min_rows=experiment.promotion.min_rows,
        ),
        statements=declared + verdict(results, comparisons, rules, labels),
        reference=reference,
        notes=list(_notes(experiment, measured, comparisons, results)),
    )


def with_baselines(runs: Runs, baselines: Mapping[str, Fitted]) -> dict[str, list[pd.DataFrame]]:
    """Run -> every frame of every seed, baselines first, on the rows that runs have; the clusters of a suite's
    sentences are those of any run."""
    frames: dict[str, list[pd.DataFrame]] = {}
    scored = next((seeds[0] for seeds in runs.values() if seeds), {})
    for suite, fitted in baselines.items():
        for name, frame in fitted.predictions.items():
            kept = frame[frame["id"].isin(set(scored[suite]["id"]))] if suite in scored else frame
            frames.setdefault(name, []).append(kept)
    for run, seeds in runs.items():
        for number, by_suite in enumerate(seeds):
            frames.setdefault(run, []).extend(f.assign(seed=number) for f in by_suite.values())
    every: dict[str, list[pd.DataFrame]] = {}
    for by_suite in (found for seeds in runs.values() for found in seeds):
        for frame in by_suite.values():
            every.setdefault(str(frame["suite"].iloc[0]), []).append(frame)
    clusters = {suite: known for suite, found in every.items() if (known := clusters_of(found))}
    return {run: clustered(found, clusters) for run, found in frames.items()}


def _mcnemar(
    trained: Mapping[str, Measured], measured: Mapping[str, Measured], reference: str, scorer: str
) -> pd.DataFrame:
    if reference not in measured:
        return pd.DataFrame()
    rows = [
        mcnemar_rows(run, m, reference, measured[reference], scorer) for run, m in trained.items() if run != reference
    ]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def _notes(
    experiment: Experiment, measured: Mapping[str, Measured], comparisons: pd.DataFrame, results: pd.DataFrame
) -> Iterator[str]:
    settings = experiment.evaluate
    if len(comparisons) and PRIMARY not in set(comparisons["end_point"]):
        missing = "is not measured here" if settings.primary else "is not declared"
        yield f"The primary end point (evaluate.primary) {missing}: every comparison is exploratory."
    for suite in settings.suites:
        if getattr(suite, "cluster", None) and not any(suite.name in m.clusters for m in measured.values()):
            yield (
                f"{suite.name}: its predictions name no clusters ({', '.join(clusters_named(suite))}), so each "
                "sentence counts as independent; intervals are too narrow if some are of one text."
            )
    fixed = results[results["metric"].isin(LENGTH_FIXED) & (results["prompt"] == "all") & results["value"].isna()]
    for name, part in fixed[fixed["scope"].str.startswith("group:")].groupby("suite"):
        groups = ", ".join(dict.fromkeys(scope.partition(":")[2] for scope in part["scope"]))
        yield f"{name}: no AUC at fixed length of {groups}, too few rows: {TOO_FEW_MATCHED}."
