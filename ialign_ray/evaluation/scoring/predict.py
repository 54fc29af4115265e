"""Predictions of models on every suite, a row an example, kept as parquet and never computed twice."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.evaluation.scoring.actors import Tell, layout, score_on_replicas, told
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.scoring.worker import Subject, Work, plan_work, store_of


def predict_models(
    experiment: Experiment, subjects: Sequence[Subject], console: Console
) -> list[dict[str, pd.DataFrame]]:
    """Suite -> predictions, for each subject; rows that are stored are read, missing ones computed and stored.

    Each finished shard is stored at once: a kill loses those in work, one a replica.
    """
    units = suite_units(experiment)
    keys = [row_keys(unit.rows) for unit in units]
    work = plan_work(subjects, units, keys, experiment.evaluate.shard_rows)
    if work.shards:
        with told(console, work.rows()) as tell:
            _score(experiment, work, tell)
    return [_stored(subject, work) for subject in subjects]


def _score(experiment: Experiment, work: Work, tell: Tell) -> None:
    placed = layout(experiment)
    if placed.replicas:
        score_on_replicas(experiment, work, placed, tell)
        return
    for shard in work.shards:
        work.score(shard)
        tell(work.called(shard), len(shard.places))


def _stored(subject: Subject, work: Work) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for unit, keys in zip(work.units, work.keys, strict=True):
        parts.setdefault(unit.suite, []).append(unit.finish(store_of(subject, unit).read(keys)))
    return {suite: pd.concat(frames, ignore_index=True) for suite, frames in parts.items()}
