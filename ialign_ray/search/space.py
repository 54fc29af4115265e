"""The declared space: validation against fields and model before any cluster starts, and sampling."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from ialign_ray.config import Domain, Experiment, LoraSettings, SearchConfig, override
from ialign_ray.config.search import SEARCHED
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.modeling.load import check_rank, model_shape
from ialign_ray.storage import json_hash

Point = dict[str, Any]
"""Dotted field -> value: one trial's settings."""


def search_of(experiment: Experiment) -> SearchConfig:
    """Return the section `search`. Raises ConfigError if the experiment has no such section."""
    if experiment.search is None:
        raise ConfigError("the experiment has no `search`; add `search: {space: {replay.ratio: {choice: [0, 0.5]}}}`")
    return experiment.search


def variant(experiment: Experiment, point: Mapping[str, Any]) -> Experiment:
    """Return the experiment with a trial's settings."""
    return override(experiment, point)


def point_name(point: Mapping[str, Any]) -> str:
    """Name of a trial's folder: equal settings share one, so that no setting is trained twice."""
    return "trial-" + json_hash(dict(point))[:12]


def check_space(experiment: Experiment) -> None:
    """Refuse, in one sentence, fields that may not be searched and values that make the experiment invalid."""
    search = search_of(experiment)
    for field, domain in search.space.items():
        _check_field(experiment, field, domain)
        for value in domain.values or domain.bounds or ():
            try:
                variant(experiment, {field: _typed(field, value)})
            except ConfigError as error:
                raise ConfigError(f"search.space.{field}: {error}") from error
    if not experiment.replay.sources:
        raise ConfigError(
            "search measures forgetting on held-out old instructions; name an instruction file in replay.sources"
        )
    check_lora(experiment, search)


def _check_field(experiment: Experiment, field: str, domain: Domain) -> None:
    if not any(field == name or field.startswith(name + ".") for name in SEARCHED):
        raise ConfigError(f"search.space: {field!r} cannot be searched; use one of {', '.join(SEARCHED)}")
    if field.startswith("model.lora") and experiment.model.tuning == "full":
        raise ConfigError(f"search.space: {field!r} does nothing while model.tuning is full; set tuning: lora")
    if field == "train.seed" and domain.bounds:
        raise ConfigError("search.space.train.seed needs a control run for each seed; list them: {choice: [0, 1]}")
    if domain.bounds and not {int, float} & set(_types(field)):
        raise ConfigError(f"search.space.{field} takes no numbers; give it `choice` or `grid`")


def check_lora(experiment: Experiment, search: SearchConfig) -> None:
    """Refuse a rank above a target layer's smaller dimension, and targets that the model lacks, without reading
    weights."""
    space = search.space
    if not any(field.startswith("model.lora") for field in space):
        return
    lora = experiment.model.lora
    rank = space["model.lora.rank"].largest if "model.lora.rank" in space else lora.rank
    shape = model_shape(experiment.model)
    for targets in (space["model.lora.targets"].values if "model.lora.targets" in space else None) or [lora.targets]:
        try:
            check_rank(shape, LoraSettings(rank=rank, targets=targets))
        except ModelError as error:
            raise ModelError(f"search.space: {error}") from error


def _types(field: str) -> list[type]:
    """The types that a field takes; empty for one that does not exist."""
    model: Any = Experiment
    for part in field.split("."):
        if model is float:
            return []
        found = model.model_fields.get(part) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if found is None:  # a weight of `tasks.mix`
            return [float] if field.startswith("tasks.mix.") else []
        inside = [found.annotation, *getattr(found.annotation, "__args__", ())]
        model = next((t for t in inside if isinstance(t, type) and issubclass(t, BaseModel)), None)
        types = [t for t in inside if isinstance(t, type)]
    return types


def whole(field: str) -> bool:
    """Return True if a field takes only integers."""
    types = _types(field)
    return int in types and float not in types


def _typed(field: str, value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and whole(field) else value


def grid_points(space: Mapping[str, Domain]) -> list[Point]:
    """Every combination; the last field varies fastest."""
    return [
        dict(zip(space, values, strict=True)) for values in itertools.product(*(d.values or [] for d in space.values()))
    ]


def random_points(space: Mapping[str, Domain], trials: int, seed: int) -> list[Point]:
    """Distinct points: `grid` fields crossed, the others drawn for each; fewer if the space has fewer."""
    crossed = grid_points({k: d for k, d in space.items() if d.grid is not None})
    drawn = {k: d for k, d in space.items() if d.grid is None}
    points: dict[str, Point] = {}
    # a finite space may have fewer distinct points than trials: give up after 100 draws per trial
    stream = _draws(space, crossed, drawn, np.random.default_rng(seed))
    for point in itertools.islice(stream, 100 * trials):
        if len(points) == trials:
            break
        points.setdefault(point_name(point), point)
    return list(points.values())


def _draws(
    space: Mapping[str, Domain], crossed: list[Point], drawn: Mapping[str, Domain], rng: np.random.Generator
) -> Iterator[Point]:
    while True:
        for fixed in crossed:
            found = {**fixed, **{k: draw(k, d, rng) for k, d in drawn.items()}}
            yield {k: found[k] for k in space}


def draw(field: str, domain: Domain, rng: np.random.Generator) -> Any:
    """Draw one value."""
    if domain.values is not None:
        return domain.values[int(rng.integers(len(domain.values)))]
    low, high = domain.bounds or (0.0, 1.0)
    log = domain.log_uniform is not None
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if log else rng.uniform(low, high)
    return min(int(high), max(int(low), round(value))) if whole(field) else float(f"{value:.6g}")


def size(space: Mapping[str, Domain]) -> int | None:
    """Number of points in the space; None for a continuous one."""
    if any(d.bounds for d in space.values()):
        return None
    return math.prod(len(d.values or []) for d in space.values())


def trial_count(search: SearchConfig) -> int:
    """Trials that the search will run."""
    every = size(search.space)
    if search.searcher == "grid":
        return every or 0
    return search.trials if every is None else min(search.trials, every)
