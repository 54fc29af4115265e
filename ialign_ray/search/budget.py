"""Budgets in steps or tokens, the same for every trial; and how many trials run at a time without a dead-lock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ialign_ray.config import Experiment, SearchConfig
from ialign_ray.errors import ClusterError, ConfigError


def budgets(search: SearchConfig, last: int) -> list[int]:
    """Where trials are validated: the first, each `reduction` times the one before, and the whole budget."""
    first = search.min_budget or max(1, last // search.reduction**2)
    if first > last:
        raise ConfigError(f"search.min_budget is {first}, above the whole budget of {last}; lower it")
    found = [first]
    while found[-1] * search.reduction < last:
        found.append(found[-1] * search.reduction)
    if search.scheduler == "hyperband" and last not in (first, found[-1] * search.reduction):
        near = first * search.reduction ** max(1, round(math.log(last / first, search.reduction)))
        raise ConfigError(
            f"HyperBand needs a budget that is min_budget ({first}) times a power of reduction ({search.reduction}); "
            f"set search.budget to {near}"
        )
    return found if last == first else [*found, last]


def trial_budgets(search: SearchConfig, every: Sequence[int], steps: int) -> list[int]:
    """A trial's own budgets: fewer where `train.steps` is searched and this trial has fewer steps."""
    if "train.steps" not in search.space:
        return list(every)
    return [*[b for b in every if b < steps], steps]


def whole_budget(experiment: Experiment, search: SearchConfig) -> int:
    """The most that a trial gets; raises ConfigError where that is said twice and differently."""
    longest = experiment.train.steps
    if domain := search.space.get("train.steps"):
        longest = int(max(domain.values or domain.bounds or ()))
    if search.unit == "steps" and search.budget and "train.steps" in search.space and search.budget != longest:
        raise ConfigError(f"search.budget is {search.budget}, but train.steps is searched up to {longest}; drop it")
    return search.budget or longest


def steps_of(tokens: int, lengths: Callable[[int], int]) -> int:
    """Steps after which a run has seen `tokens` at least; `lengths(step)` are the tokens of a step, from 0.

    Exact, since what a step holds is a function of its number. Raises ConfigError for a run without tokens.
    """
    seen = step = 0
    while seen < tokens:
        one = lengths(step)
        if one < 1:
            raise ConfigError(f"step {step} has no tokens, so a budget of {tokens} tokens is never spent")
        seen, step = seen + one, step + 1
    return step


@dataclass(frozen=True)
class Demand:
    """What one trial reserves."""

    cpus: float
    gpus: float = 0.0

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many trials these resources hold; a trial on part of a GPU never spans two."""
        by_cpu = math.floor(resources.get("CPU", 0.0) / self.cpus + 1e-9)
        if not self.gpus:
            return by_cpu
        gpus = resources.get("GPU", 0.0)
        parts = math.floor(1 / self.gpus + 1e-9) * math.floor(gpus) if self.gpus <= 1 else math.floor(gpus / self.gpus)
        return min(by_cpu, parts)


def demand(search: SearchConfig, resources: Mapping[str, float]) -> Demand:
    """What a trial asks of this cluster: with GPUs one of them unless said otherwise."""
    gpus = search.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0.0) >= 1 else 0.0
    if gpus > 1:
        raise ConfigError(f"search.gpus_per_trial is {gpus:g}; a trial is one process and uses one GPU at most")
    return Demand(search.cpus_per_trial, gpus)


def concurrency(search: SearchConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Trials at a time: what the nodes hold (a trial never spans two), and no more than asked for.

    A trial is one actor that reserves all it needs at once and starts nothing that reserves more, so any number up to
    this one makes progress. Raises ClusterError where not even one fits.
    """
    total = {k: sum(n.get(k, 0.0) for n in nodes) for k in ("CPU", "GPU")}
    need = demand(search, total)
    room = sum(need.fits(n) for n in nodes)
    if room < 1:
        most = {k: max((n.get(k, 0.0) for n in nodes), default=0.0) for k in ("CPU", "GPU")}
        raise ClusterError(
            f"a trial asks for {need.cpus:g} CPUs and {need.gpus:g} GPUs, but no node has more than {most['CPU']:g} "
            f"and {most['GPU']:g}; lower search.cpus_per_trial or search.gpus_per_trial"
        )
    return min(room, search.concurrent or room)
