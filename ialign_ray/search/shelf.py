"""Encoded examples that all trials share: a trial's dose and diversity decide which are drawn, never what they say.

The k-th pair drawn with a seed is the same for every ratio, and an instruction is the same in every pool, so a search
encodes once what its trials would each encode again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ialign_ray.config import Experiment
from ialign_ray.config.mix import resolve_mix
from ialign_ray.storage import json_hash
from ialign_ray.streaming import encode_drawn
from ialign_ray.tasks.mixture import Draw
from ialign_ray.tasks.plan import Plan
from ialign_ray.tokens.batch import Encoded
from ialign_ray.tokens.encode import Encoder

Key = tuple[bool, int, int]
"""Replay or pair, epoch (0 for replay, whose text does not depend on it), row."""
FILLED, MOST = 20_000, 200_000
"""Examples encoded before the first trial, and kept by one process, at most: about 20 and 200 MB."""


@dataclass(frozen=True)
class Shelf:
    """The examples of one seed and task mix; those not encoded beforehand are encoded when first drawn."""

    plan: Plan
    """With the whole replay pool."""
    encoder: Encoder
    made: dict[Key, Encoded] = field(default_factory=dict)

    def fill(self, examples: int) -> None:
        """Encode beforehand what trials of this many examples can draw: their pairs, and as many instructions."""
        examples = min(examples, FILLED)
        for ratio in (0.0, 1.0):
            if (ratio and self.plan.replay.num_rows) or (not ratio and self.plan.pairs.num_rows):
                source = replace(self.plan, ratio=ratio)
                for i in range(examples):
                    self.take(source, i)

    def take(self, plan: Plan, i: int) -> Encoded:
        """Example i of a trial's plan."""
        place = plan.mixture.draw(i)
        key = (place.replay, 0 if place.replay else place.epoch, place.row)
        example = self.made.get(key)
        if example is None:
            # of the whole plan, where this row has the same number and sentences are indexed once
            example = encode_drawn(self.encoder, self.plan.at(Draw(place.replay, place.row, key[1])))
            if len(self.made) < MOST:
                self.made[key] = example
        return replace(example, epoch=place.epoch) if example.epoch != place.epoch else example

    def trial_plan(self, experiment: Experiment) -> Plan:
        """The plan of a trial: a pool of 100 is the beginning of the pool of 1,000."""
        dose = experiment.replay.ratio
        pool = self.plan.replay.slice(0, experiment.replay.pool_size) if dose > 0 else self.plan.replay.slice(0, 0)
        return replace(self.plan, ratio=dose, replay=pool)

    def steps(self, plan: Plan, batch_size: int, start: int) -> Iterator[list[Encoded]]:
        """A trial's steps from `start` on."""
        step = start
        while True:
            yield [self.take(plan, i) for i in range(step * batch_size, (step + 1) * batch_size)]
            step += 1


def family(experiment: Experiment) -> str:
    """Trials with the same seed and mix draw from the same shelf."""
    return json_hash([experiment.train.seed, resolve_mix(experiment.tasks.mix)])[:12]


def open_shelf(plan: Plan, encoder: Encoder, experiment: Experiment) -> Shelf:
    """An empty shelf for a trial's seed and mix."""
    mixed = replace(plan, seed=experiment.train.seed, mix=resolve_mix(experiment.tasks.mix))
    return Shelf(mixed, encoder)
