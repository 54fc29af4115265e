"""Work of an evaluation: models, units and the shards of missing rows, and the scoring of one shard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ialign_ray.config.contexts import NO_CONTEXT
from ialign_ray.evaluation.scoring.predictions import PredictionStore
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.evaluation.suites.load import CLUSTER


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated."""

    name: str
    """Name shown in the progress."""
    key: str
    """Hash of everything in the model that its predictions depend on: weights, tokenizer, prompt format, precision."""
    folder: Path
    """Folder of its predictions."""
    load: Callable[[], Scorer]
    """Opens the model; only called if predictions are missing, since loading takes seconds."""
    context: str = NO_CONTEXT
    """Context that its prompts have, on the suites that take one."""

    def asked(self, units: Sequence[Unit]) -> list[int]:
        """Places of the units that it answers: those of its context, and of other suites those without one."""
        own = {unit.suite for unit in units if unit.context == self.context}
        return [
            place
            for place, unit in enumerate(units)
            if unit.context == (self.context if unit.suite in own else NO_CONTEXT)
        ]


@dataclass(frozen=True)
class Shard:
    """Rows of one unit that a subject has no predictions for, of similar length."""

    subject: int
    unit: int
    places: list[int]
    """Numbers of the unit's rows."""


@dataclass
class Work:
    """Shards of all subjects and units, and the one model that is open."""

    subjects: Sequence[Subject]
    units: Sequence[Unit]
    keys: Sequence[list[str]]
    """Row keys of each unit."""
    shards: list[Shard]
    """Shards, subject by subject, so that few models are opened."""
    _opened: tuple[int, Scorer] | None = field(default=None, repr=False)

    def score(self, shard: Shard) -> None:
        """Predict a shard and store it."""
        if self._opened is None or self._opened[0] != shard.subject:
            self._opened = None  # releases the previous model before loading the next one
            self._opened = (shard.subject, self.subjects[shard.subject].load())
        unit, keys = self.units[shard.unit], self.keys[shard.unit]
        rows = unit.rows.iloc[shard.places].reset_index(drop=True).drop(columns=CLUSTER, errors="ignore")
        predictions = unit.predict(self._opened[1], rows)
        store_of(self.subjects[shard.subject], unit).write([keys[place] for place in shard.places], predictions)

    def called(self, shard: Shard) -> str:
        """Name of a shard in the progress display."""
        return f"{self.subjects[shard.subject].name}, {self.units[shard.unit].suite}"

    def rows(self) -> int:
        """Rows of all shards."""
        return sum(len(shard.places) for shard in self.shards)


def plan_work(subjects: Sequence[Subject], units: Sequence[Unit], keys: Sequence[list[str]], size: int) -> Work:
    """All rows that are not stored yet, in shards of `size` rows."""
    shards = []
    known: dict[Path, set[str]] = {}  # with the rows planned: contexts of a model have questions in common
    for number, subject in enumerate(subjects):
        for u in subject.asked(units):
            store = store_of(subject, units[u])
            if store.folder not in known:
                known[store.folder] = store.known()
            stored = known[store.folder]
            shards += [Shard(number, u, places) for places in missing(units[u], keys[u], stored, size)]
            stored.update(keys[u])
    return Work(subjects, units, keys, shards)


def missing(unit: Unit, keys: Sequence[str], known: Collection[str], size: int) -> Iterator[list[int]]:
    """Indices of the rows that are not known, longest first, `size` at a time; equal rows are computed once."""
    lengths = unit.rows["length"].to_numpy()
    # reversed, so that of equal rows the first one stays
    first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in known}
    # by length, so that the rows of a shard need little padding
    places = sorted(first.values(), key=lambda place: (-lengths[place], place))
    yield from (places[start : start + size] for start in range(0, len(places), size))


def store_of(subject: Subject, unit: Unit) -> PredictionStore:
    """Return the store of a subject's predictions of a unit."""
    return PredictionStore(subject.folder, unit.suite, unit.prompt, {"model": subject.key, "unit": unit.key})
