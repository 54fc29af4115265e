"""Encoded examples shared by all trials: replay ratio and pool size only decide which examples are drawn.

The k-th pair drawn with a seed is the same for every ratio, and an instruction is the same in every pool, so a search
encodes once what each trial would otherwise encode again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from ialign_ray.config import Experiment
from ialign_ray.config.tasks import resolve_mix
from ialign_ray.storage import json_hash
from ialign_ray.streaming.examples import encode_drawn
from ialign_ray.tasks.mixture import Draw
from ialign_ray.tasks.plan import Plan
from ialign_ray.tokens.batch import Encoded
from ialign_ray.tokens.encode import Encoder

Key = tuple[bool, int, int]
"""Replay or pair, epoch (0 for replay, whose text does not depend on it), row."""
FILLED, MOST = 20_000, 200_000
"""Most examples encoded before the first trial, and kept by one process: about 20 and 200 MB."""


@dataclass(frozen=True)
class ExampleCache:
    """The examples of one seed and task mix; those not encoded beforehand are encoded when first drawn."""

    plan: Plan
    """Plan with the whole replay pool."""
    encoder: Encoder
    made: dict[Key, Encoded] = field(default_factory=dict)

    def fill(self, examples: int) -> None:
        """Encode in advance the examples that trials of this length can draw: their pairs, and as many instructions."""
        examples = min(examples, FILLED)
        # only pairs and only replay: whatever ratio a trial has, its examples are among these
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
            # from the whole plan, where this row has the same number and sentences are indexed once
            example = encode_drawn(self.encoder, self.plan.at(Draw(place.replay, place.row, key[1])))
            if len(self.made) < MOST:
                self.made[key] = example
        return replace(example, epoch=place.epoch) if example.epoch != place.epoch else example

    def trial_plan(self, experiment: Experiment) -> Plan:
        """The plan of a trial: a pool of 100 is the start of the pool of 1,000."""
        ratio = experiment.replay.ratio
        pool = self.plan.replay.slice(0, experiment.replay.pool_size) if ratio > 0 else self.plan.replay.slice(0, 0)
        return replace(self.plan, ratio=ratio, replay=pool)

    def steps(self, plan: Plan, batch_size: int, start: int) -> Iterator[list[Encoded]]:
        """A trial's steps from `start` onwards."""
        step = start
        while True:
            yield [self.take(plan, i) for i in range(step * batch_size, (step + 1) * batch_size)]
            step += 1


def cache_key(experiment: Experiment) -> str:
    """Trials with the same seed and mix draw from the same example cache."""
    return json_hash([experiment.train.seed, resolve_mix(experiment.tasks.mix)])[:12]


def open_example_cache(plan: Plan, encoder: Encoder, experiment: Experiment) -> ExampleCache:
    """An empty example cache for a trial's seed and mix."""
    mixed = replace(plan, seed=experiment.train.seed, mix=resolve_mix(experiment.tasks.mix))
    return ExampleCache(mixed, encoder)


@dataclass(frozen=True)
class SharedModel:
    """A model in two parts: its modules and buffers, and its weights as arrays that are shared without a copy."""

    skeleton: nn.Module
    """Modules with empty parameters; tied ones are one object, as in the model."""
    arrays: dict[str, npt.NDArray[Any]]
    """Parameter name -> its bytes."""
    forms: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    """Parameter name -> type and shape, since numpy has no bf16."""


def share(model: nn.Module) -> SharedModel:
    """Split a model on the CPU into these parts."""
    parameters = dict(model.named_parameters())
    # as deepcopy's memo: modules and buffers are copied, weights are not
    empty: dict[int, Any] = {id(p): nn.Parameter(p.new_empty(0), requires_grad=False) for p in parameters.values()}
    skeleton = copy.deepcopy(model, empty)
    # new memory, page-aligned by the object store
    arrays = {n: p.detach().contiguous().reshape(-1).view(torch.uint8).numpy() for n, p in parameters.items()}
    return SharedModel(skeleton, arrays, {n: (p.dtype, tuple(p.shape)) for n, p in parameters.items()})


def base_model(shared: SharedModel, device: torch.device) -> nn.Module:
    """The model with its weights in the shared memory (CPU) or on the device; frozen, and not to be written to."""
    model = copy.deepcopy(shared.skeleton)
    for name, parameter in model.named_parameters():
        kind, shape = shared.forms[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about read-only memory, which is intended here
            parameter.data = torch.from_numpy(shared.arrays[name]).view(kind).view(shape)
    return model.to(device).eval()


def fresh(base: nn.Module, *, writable: bool) -> nn.Module:
    """A model for one trial: new modules over the base's weights, or over a copy for full training."""
    if writable:
        return copy.deepcopy(base).requires_grad_(True)
    # the memo returns the base's weights, so only modules are copied
    return copy.deepcopy(base, {id(p): p for p in base.parameters()})
