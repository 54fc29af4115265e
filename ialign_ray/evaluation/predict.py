"""Per-example predictions of models on every suite, kept as parquet and never computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.evaluation.progress import Tell, told
from ialign_ray.evaluation.scorer import Scorer
from ialign_ray.evaluation.store import Store, row_keys
from ialign_ray.evaluation.units import Unit, suite_units


@dataclass(frozen=True)
class Subject:
    """A model whose predictions are wanted."""

    name: str
    """Shown while it is scored."""
    key: str
    """Hash of all of the model that decides its predictions: weights, tokenizer, prompt format, precision."""
    folder: Path
    """Where its predictions lie."""
    load: Callable[[], Scorer]
    """Opens it; only called when something is missing, since a model takes seconds to load."""


@dataclass(frozen=True)
class Shard:
    """Rows of one unit that one subject has no predictions of; neighbours in length."""

    subject: int
    unit: int
    places: list[int]
    """Numbers of the unit's rows."""


def predict_models(
    experiment: Experiment, subjects: Sequence[Subject], console: Console
) -> list[dict[str, pd.DataFrame]]:
    """Suite -> predictions, for each subject; rows that are stored are read, missing ones computed and stored.

    Each finished shard is stored at once: a kill loses the one in work.
    """
    units = suite_units(experiment)
    keys = [row_keys(unit.rows) for unit in units]
    shards = [
        Shard(number, u, places)
        for number, subject in enumerate(subjects)
        for u, unit in enumerate(units)
        for places in missing(unit, keys[u], store_of(subject, unit), experiment.evaluate.shard_rows)
    ]
    if shards:
        with told(console, sum(len(shard.places) for shard in shards)) as tell:
            _score_here(subjects, units, keys, shards, tell)
    return [_stored(subject, units, keys) for subject in subjects]


def missing(unit: Unit, keys: Sequence[str], store: Store, size: int) -> Iterator[list[int]]:
    """Places of the rows that are not stored, longest first, `size` at a time; equal rows are computed once."""
    known = store.known()
    lengths = unit.rows["length"].to_numpy()
    first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in known}
    places = sorted(first.values(), key=lambda place: (-lengths[place], place))
    yield from (places[start : start + size] for start in range(0, len(places), size))


def store_of(subject: Subject, unit: Unit) -> Store:
    """Where a subject's predictions of a unit lie."""
    return Store(subject.folder, unit.suite, unit.prompt, {"model": subject.key, "unit": unit.key})


def score(subject: Subject, unit: Unit, keys: Sequence[str], places: list[int], scorer: Scorer) -> None:
    """Predict a shard and store it."""
    rows = unit.rows.iloc[places].reset_index(drop=True)
    store_of(subject, unit).write([keys[place] for place in places], unit.predict(scorer, rows))


def _score_here(
    subjects: Sequence[Subject], units: Sequence[Unit], keys: Sequence[list[str]], shards: list[Shard], tell: Tell
) -> None:
    opened: tuple[int, Scorer] | None = None
    for shard in shards:  # subject after subject: one model in memory
        subject, unit = subjects[shard.subject], units[shard.unit]
        if opened is None or opened[0] != shard.subject:
            opened = None  # lets the last model go before the next one comes
            opened = (shard.subject, subject.load())
        score(subject, unit, keys[shard.unit], shard.places, opened[1])
        tell(f"{subject.name}, {unit.suite}", len(shard.places))


def _stored(subject: Subject, units: Sequence[Unit], keys: Sequence[list[str]]) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for unit, of_unit in zip(units, keys, strict=True):
        parts.setdefault(unit.suite, []).append(unit.finish(store_of(subject, unit).read(of_unit)))
    return {suite: pd.concat(frames, ignore_index=True) for suite, frames in parts.items()}
