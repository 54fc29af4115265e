"""The table of contexts: every strategy with every model by language group, next to its controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment
from ialign_ray.config.contexts import NO_CONTEXT
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.results.analysis import BASE, Analysis
from ialign_ray.evaluation.results.summary import compare
from ialign_ray.evaluation.scoring.suite_kinds import SUITES
from ialign_ray.terminal import BlockTable

COLUMNS = (
    "suite", "scope", "model", "context", "metric", "value", "low", "high", "n", "change", "change_low", "change_high",
    "vote", "nearest",
)  # fmt: skip
"""Columns of `context_table`: the score with its 95 % interval, its paired change from the same model without a
context, the score of the exemplars' vote without any model, and the share of answers equal to that of the nearest."""

NO_CONTEXTS: Final = pd.DataFrame(columns=list(COLUMNS), dtype=object)
"""A table without any."""


def model_and_context(run: str, experiment: Experiment) -> tuple[str, str]:
    """Model and context of a run's name (`MODEL + CONTEXT`)."""
    for name in _names(experiment):
        if run.endswith(f" + {name}"):
            return run.removesuffix(f" + {name}"), name
    return run, NO_CONTEXT


def context_table(experiment: Experiment, analysis: Analysis) -> pd.DataFrame:
    """One row per classification suite, language group, model and context, `COLUMNS`; empty without contexts."""
    changes = _changes(experiment, analysis)
    rows = []
    for suite in experiment.evaluate.suites:
        if not isinstance(suite, ClassificationSuite) or not experiment.evaluate.contexts:
            continue
        scorer = SUITES[suite.kind].scored(experiment.evaluate.scorer)
        of = analysis.results[
            (analysis.results["suite"] == suite.name)
            & (analysis.results["prompt"] == "all")
            & (analysis.results["scorer"] == scorer)
            & analysis.results["scope"].str.startswith("group:")
        ]
        values = {(row["run"], row["scope"], row["metric"]): row for row in of.to_dict("records")}
        for (run, scope, metric), row in values.items():
            if metric != suite.metric:
                continue
            model, context = (run, NO_CONTEXT) if run in BASELINES else model_and_context(run, experiment)
            made = {"suite": suite.name, "scope": scope, "model": model, "context": context, "metric": metric}
            made |= {name: row[name] for name in ("value", "low", "high", "n")}
            made |= changes.get((run, suite.name, scope, metric), {})
            for column, other in (("vote", "vote_f1"), ("nearest", "nearest_share")):
                if (run, scope, other) in values:
                    made[column] = values[run, scope, other]["value"]
            rows.append(made)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _names(experiment: Experiment) -> list[str]:
    return [variant.name for context in experiment.evaluate.contexts for variant in context.variants]


def _changes(experiment: Experiment, analysis: Analysis) -> Mapping[tuple[str, str, str, str], dict[str, float]]:
    """(run, suite, scope, metric) -> its paired difference from the same model without a context."""
    found = {}
    for run, measured in analysis.measured.items():
        model, context = (run, NO_CONTEXT) if run in BASELINES else model_and_context(run, experiment)
        if context == NO_CONTEXT:
            continue
        recipe = model != BASE
        rows = compare(run, measured, model, analysis.measured[model], recipes=(recipe, recipe))
        chosen = rows[(rows["prompt"] == "all") & rows["scope"].str.startswith("group:")]
        for row in chosen.to_dict("records"):
            if row["scorer"] == SUITES[row["kind"]].scored(experiment.evaluate.scorer):
                key = (run, row["suite"], row["scope"], row["metric"])
                found[key] = {"change": row["value"], "change_low": row["low"], "change_high": row["high"]}
    return found


def printed_contexts(table: pd.DataFrame) -> list[BlockTable]:
    """The table of contexts for a terminal, one for each suite."""
    found = []
    for suite, part in table.groupby("suite", sort=False):
        rows = []
        for row in part.sort_values(["scope", "model"], kind="stable").to_dict("records"):
            run = row["model"] if row["context"] == NO_CONTEXT else f"{row['model']} + {row['context']}"
            score = _interval(row["value"], row["low"], row["high"])
            change = _interval(row["change"], row["change_low"], row["change_high"], sign="+")
            place = f"{row['scope'].removeprefix('group:')} {run}"
            rows.append((place, score, change, _number(row["vote"]), _number(row["nearest"]), str(row["n"])))
        header = ("group and model", "score [95 %]", "change [95 %]", "vote", "as nearest", "n")
        found.append(BlockTable(header, rows, f"{suite}: contexts"))
    return found


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    if pd.isna(value):
        return "-"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _number(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"
