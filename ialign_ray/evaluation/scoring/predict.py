"""Predictions of models on every suite, one row per example, stored as parquet and never computed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.config.contexts import NO_CONTEXT
from ialign_ray.evaluation.scoring.actors import ScoringProgress, layout, score_on_replicas, scoring_progress
from ialign_ray.evaluation.scoring.context_suites import contexted_units
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.scoring.prompted_suites import LikelihoodUnit, Unit
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.scoring.worker import Subject, Work, plan_work, store_of
from ialign_ray.evaluation.suites.load import CLUSTER
from ialign_ray.terminal import say


def predict_models(
    experiment: Experiment, subjects: Sequence[Subject], console: Console, units: Sequence[Unit] | None = None
) -> list[dict[str, pd.DataFrame]]:
    """Suite -> predictions, for each subject; stored rows are read, missing ones computed and stored.

    `units` are those of all suites if omitted.
    Each finished shard is stored at once: a kill loses those in progress, one per replica.
    """
    contexts = {subject.context for subject in subjects} - {NO_CONTEXT}
    units = suite_units(experiment) + contexted_units(experiment, contexts) if units is None else units
    keys = [row_keys(unit.rows) for unit in units]
    work = plan_work(subjects, units, keys, experiment.evaluate.shard_rows)
    if work.shards:
        with scoring_progress(console, work.rows()) as advance:
            _score(experiment, work, advance)
    found = [_stored(subject, work) for subject in subjects]
    for warning in dict.fromkeys(_refused(work, frames) for frames in found):
        if warning:
            say(console, f"warning: {warning}")
    return found


def _refused(work: Work, frames: Mapping[str, pd.DataFrame]) -> str:
    """Names the conversations that have no score."""
    lost = [
        (unit.suite, len(unit.rows), gone)
        for unit in work.units
        if isinstance(unit, LikelihoodUnit) and unit.suite in frames
        if (gone := sorted(set(unit.rows["id"]) - set(frames[unit.suite]["id"])))
    ]
    return "; ".join(
        f"{suite}: the chat template refuses {len(gone)} of {n} conversations, which have no score (first: {gone[0]})"
        for suite, n, gone in lost
    )


def _score(experiment: Experiment, work: Work, advance: ScoringProgress) -> None:
    placed = layout(experiment)
    if placed.replicas:
        score_on_replicas(experiment, work, placed, advance)
        return
    for shard in work.shards:
        work.score(shard)
        advance(work.called(shard), len(shard.places))


def _stored(subject: Subject, work: Work) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for place in subject.asked(work.units):
        unit, keys = work.units[place], work.keys[place]
        frame = unit.finish(store_of(subject, unit).read(keys))
        if CLUSTER in unit.rows.columns:
            frame[CLUSTER] = frame["id"].map(unit.rows.drop_duplicates("id").set_index("id")[CLUSTER])
        parts.setdefault(unit.suite, []).append(frame)
    return {suite: pd.concat(frames, ignore_index=True) for suite, frames in parts.items()}
