"""Baselines of an experiment's classification and choice suites: fitted once, and cached with the report by the hash
of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from ialign_ray.config import ChoiceSuite, ClassificationSuite, Experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import VERSION, baseline_predictions
from ialign_ray.evaluation.metrics.choice_baselines import CHOICE_VERSION, choice_predictions
from ialign_ray.evaluation.scoring.choice_suites import choice_scorers
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.suites.choices import choice_rows, option_column
from ialign_ray.evaluation.suites.load import ClassificationRows, classification_rows
from ialign_ray.storage import json_hash


@dataclass(frozen=True)
class Fitted:
    """The baselines of one suite."""

    key: str
    """Hash of everything that decides them: training and test rows, labels and the baselines' version."""
    predictions: Mapping[str, pd.DataFrame]
    """Baseline -> predictions."""


def fit_baselines(
    experiment: Experiment, stored: Mapping[str, Fitted], *, again: bool = False
) -> tuple[dict[str, Fitted], list[str]]:
    """Suite -> its baselines, and notes on what could not be fitted.

    `stored` baselines are fitted again only if their rows have changed. With `again` (a report on existing predictions)
    they are used unchecked: they belong to those predictions, as the rows did.
    """
    found: dict[str, Fitted] = {}
    notes = []
    for suite in experiment.evaluate.suites:
        if not isinstance(suite, ClassificationSuite | ChoiceSuite):
            continue
        kept = stored.get(suite.name)
        try:
            found[suite.name] = kept if kept and again else _fitted(suite, experiment.storage.data, kept)
        except DataError as error:  # the report is rebuilt after the data was removed
            notes.append(f"No baselines of {suite.name}: {error}")
    return found, notes


def _fitted(suite: ClassificationSuite | ChoiceSuite, base: str, kept: Fitted | None) -> Fitted:
    if isinstance(suite, ChoiceSuite):
        return _fitted_choices(suite, base, kept)
    rows = classification_rows(suite, base)
    key = _key(rows)
    if kept and kept.key == key:
        return kept
    return Fitted(key, baseline_predictions(rows.train, rows.test, {suite.name: len(rows.labels)}))


def _fitted_choices(suite: ChoiceSuite, base: str, kept: Fitted | None) -> Fitted:
    rows, scorers = choice_rows(suite, base), choice_scorers(suite)
    key = json_hash([CHOICE_VERSION, scorers, row_keys(rows)])
    columns = [option_column(k) for k in range(int(rows["options"].iloc[0]))]
    return kept if kept and kept.key == key else Fitted(key, choice_predictions(rows, columns, scorers))


def _key(rows: ClassificationRows) -> str:
    return json_hash([VERSION, rows.labels, row_keys(rows.train), row_keys(rows.test)])
