"""Budgets in steps or tokens, the same for every trial; and the number of trials that run without deadlock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ialign_ray.config import Experiment, SearchConfig
from ialign_ray.errors import ClusterError, ConfigError
from ialign_ray.search.space import trial_count


def budgets(search: SearchConfig, last: int) -> list[int]:
    """Budgets at which trials are validated: the first, each `reduction` times the previous, and the full budget."""
    first = search.min_budget or max(1, last // search.reduction**2)
    if first > last:
        raise ConfigError(f"search.min_budget is {first}, above the whole budget of {last}; lower it")
    found = [first]
    while found[-1] * search.reduction < last:
        found.append(found[-1] * search.reduction)
    return found if last == first else [*found, last]


def trial_budgets(every: Sequence[int], steps: int) -> list[int]:
    """Budgets of one trial if `train.steps` is searched: fewer if this trial has fewer steps."""
    return [*[b for b in every if b < steps], steps]


def whole_budget(experiment: Experiment, search: SearchConfig) -> int:
    """Budget of a full trial. Raises ConfigError for two contradictory settings."""
    longest = experiment.train.steps
    if domain := search.space.get("train.steps"):
        longest = domain.largest
    if search.unit == "steps" and search.budget and "train.steps" in search.space and search.budget != longest:
        raise ConfigError(f"search.budget is {search.budget}, but train.steps is searched up to {longest}; drop it")
    return search.budget or longest


def steps_of(tokens: int, lengths: Callable[[int], int]) -> int:
    """Steps after which a run has seen at least `tokens`; `lengths(step)` are the tokens of a step, from 0.

    Exact, since the examples of a step are a function of its number. Raises ConfigError for a run without tokens.
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
    """CPUs and GPUs that one trial reserves."""

    cpus: float
    gpus: float = 0.0
    """GPUs, at most 1."""

    def fits(self, resources: Mapping[str, float]) -> float:
        """Number of trials that fit into these resources; a trial on part of a GPU never spans two."""
        by_cpu = _whole(resources.get("CPU", 0.0) / self.cpus)
        if not self.gpus:
            return by_cpu
        return min(by_cpu, _whole(1 / self.gpus) * _whole(resources.get("GPU", 0.0)))


def _whole(times: float) -> float:
    """Round down, allowing for rounding errors such as 0.1 + 0.2; unlimited if the autoscaler has no limit."""
    return times if math.isinf(times) else math.floor(times + 1e-9)


def demand(search: SearchConfig, resources: Mapping[str, float]) -> Demand:
    """Return a trial's demand on this cluster: one GPU if there are any, unless set otherwise."""
    gpus = search.gpus_per_trial
    if gpus is None:
        gpus = 1.0 if resources.get("GPU", 0.0) >= 1 else 0.0
    if gpus > 1:
        raise ConfigError(f"search.gpus_per_trial is {gpus:g}; a trial is one process and uses at most one GPU")
    return Demand(search.cpus_per_trial, gpus)


def concurrency(
    search: SearchConfig,
    nodes: Sequence[Mapping[str, float]],
    startable: Sequence[tuple[float, Mapping[str, float]]] = (),
) -> int:
    """Number of concurrent trials: those that fit on the nodes (a trial never spans two), at most the configured
    number.

    If an autoscaler may start nodes, as `cluster.startable` reports, those count too, since waiting trials make it
    start nodes. A trial is one actor that reserves all it needs at once and starts nothing that reserves more, so any
    number makes progress. Raises ClusterError if not even one fits.
    """
    every = [*nodes, *(kind for number, kind in startable if number)]
    most = {k: max((n.get(k, 0.0) for n in every), default=0.0) for k in ("CPU", "GPU")}
    need = demand(search, most)
    # started nodes count among their kind: never the sum of both
    there, coming = sum(need.fits(n) for n in nodes), sum(n * f for n, k in startable if n and (f := need.fits(k)))
    room = max(there, coming)
    if room < 1:
        raise ClusterError(
            f"a trial needs {need.cpus:g} CPUs and {need.gpus:g} GPUs, but no node has more than {most['CPU']:g} "
            f"and {most['GPU']:g}; lower search.cpus_per_trial or search.gpus_per_trial"
        )
    room = trial_count(search) if math.isinf(room) else int(room)
    return min(room, search.concurrent or room)
