"""Choice of the next trial: from a list (grid, random), or by Optuna with the retention constraint.

Ray's own OptunaSearch knows no constraints and treats a trial that was stopped early as finished; here Optuna is driven
by its `ask` and `tell`. All searchers count a point once: a repeated point gets its known result.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.search import Searcher

from ialign_ray.cluster.resources import nodes, startable
from ialign_ray.config import Domain, SearchConfig
from ialign_ray.search.budget import concurrency
from ialign_ray.search.space import Point, grid_points, point_name, random_points, size, trial_count, whole

ASKED = 100
"""Times that a searcher is asked for an untried point, before one is chosen at random."""


class PointSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """A Ray Tune searcher of points; its whole state is pickled with the search's."""

    def __init__(self, search: SearchConfig, most: int = 1) -> None:
        super().__init__(metric="score", mode="max")
        self.search = search
        self.most = most
        """Trials at a time."""
        self.running: set[str] = set()
        self.points: dict[str, Point] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}
        """Point name -> the last result of its trial."""
        self.names: dict[str, str] = {}
        """Trial id -> point name."""

    def suggest(self, trial_id: str) -> Any:
        """Settings of a new trial, or FINISHED if the whole space was tried."""
        if len(self.points) >= trial_count(self.search):
            return Searcher.FINISHED
        if len(self.running) >= self.most:
            return None
        point = self.choose(trial_id) or self._untried()
        if point is None:
            return Searcher.FINISHED
        name = point_name(point)
        self.points[name], self.names[trial_id] = point, name
        self.running.add(trial_id)
        return {"point": point}

    def tried(self, point: Point) -> bool:
        """Return True if a trial has these settings."""
        return point_name(point) in self.points

    @abstractmethod
    def choose(self, trial_id: str) -> Point | None:
        """A point not tried yet, or None if none was found."""

    def _untried(self) -> Point | None:
        if size(self.search.space) is not None:
            return next((p for p in grid_points(self.search.space) if not self.tried(p)), None)
        found = random_points(self.search.space, len(self.points) + 1, self.search.seed + 1)
        return next((p for p in found if not self.tried(p)), None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the final result of a trial."""
        self.running.discard(trial_id)
        if result and trial_id in self.names:
            self.outcomes[self.names[trial_id]] = dict(result)

    def save(self, checkpoint_path: str) -> None:
        """Write the state."""
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(self.__dict__))

    def restore(self, checkpoint_path: str) -> None:
        """Restore state. Running trials are re-discovered; concurrency comes from the current cluster."""
        self.__dict__.update(cloudpickle.loads(Path(checkpoint_path).read_bytes()))
        self.most, self.running = concurrency(self.search, nodes(), startable()), set()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record that a trial runs, which a resumed search does not know."""
        self.running.add(trial_id)


class ListSearcher(PointSearcher):
    """Grid and random search: the points are known from the start."""

    @cached_property
    def _list(self) -> list[Point]:
        search = self.search
        if search.searcher == "grid":
            return grid_points(search.space)
        return random_points(search.space, search.trials, search.seed)

    def choose(self, trial_id: str) -> Point | None:
        """Return the next point of the list."""
        return next((p for p in self._list if not self.tried(p)), None)


class OptunaSearcher(PointSearcher):
    """TPE or NSGA-II. A stopped trial is reported as pruned, with its gain at each budget."""

    def __init__(self, search: SearchConfig, most: int = 1) -> None:
        super().__init__(search, most)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        samplers = optuna.samplers
        # a model needs some points first: Optuna's 10 would be half of a search of 20
        start = max(4, min(10, trial_count(search) // 4))
        if search.searcher == "tpe":
            sampler: Any = samplers.TPESampler(seed=search.seed, n_startup_trials=start)
        else:
            sampler = samplers.NSGAIISampler(seed=search.seed, population_size=max(4, trial_count(search) // 4))
        directions: list[Any] = ["maximize"] if search.objective == "gain" else ["maximize", "minimize"]
        self.study = optuna.create_study(sampler=sampler, directions=directions)
        self.asked: dict[str, Any] = {}
        self.told: set[tuple[str, int]] = set()

    def choose(self, trial_id: str) -> Point | None:
        """Ask Optuna; a known point gets its result at once, so that Optuna learns from it and proposes another."""
        for _ in range(ASKED):
            trial = self.study.ask(distributions(self.search.space))
            point = values(self.search.space, trial.params)
            if not self.tried(point):
                self.asked[trial_id] = trial
                return point
            self._tell(trial, self.outcomes.get(point_name(point)))
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a result at a budget; only once, even if a resumed trial reports it again."""
        super().on_trial_result(trial_id, result)
        trial, key = self.asked.get(trial_id), (trial_id, int(result["budget"]))
        # Optuna takes no intermediate values of several objectives
        if trial is None or key in self.told or self.search.objective == "front" or result.get("failed"):
            return
        self.told.add(key)
        trial.report(result["gain"], int(result["budget"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the trial's end to Optuna."""
        super().on_trial_complete(trial_id, result, error)
        if trial := self.asked.pop(trial_id, None):
            self._tell(trial, result)

    def _tell(self, trial: Any, result: Mapping[str, Any] | None) -> None:
        from optuna.trial import TrialState

        if not result or result.get("failed") or not math.isfinite(result.get("gain", math.nan)):
            self.study.tell(trial, state=TrialState.FAIL)
            return
        # above 0 is infeasible, in Optuna as here
        trial.set_constraint("retention", result["violation"])
        front = self.search.objective == "front"
        if result["last"]:
            self.study.tell(trial, [result["gain"], result["forgetting"]] if front else result["gain"])
        else:  # results at part of the budget are not comparable; Optuna takes intermediate values of one objective
            if not front and not trial.storage.get_trial(trial._trial_id).intermediate_values:
                trial.report(result["gain"], int(result["budget"]))
            self.study.tell(trial, state=TrialState.PRUNED)


def searcher(search: SearchConfig, most: int = 1) -> PointSearcher:
    """The searcher that the settings name, for `most` trials at a time."""
    return (ListSearcher if search.searcher in ("grid", "random") else OptunaSearcher)(search, most)


def ordered(domain: Domain) -> list[Any] | None:
    """Values of a field: numbers in ascending order, others as given; None for a continuous field."""
    if domain.values is None:
        return None
    return sorted(domain.values) if _numbers(domain.values) else list(domain.values)


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def ranges(space: Mapping[str, Domain]) -> dict[str, tuple[float, float, bool, bool]]:
    """Field -> (low, high, logarithmic, integer); finitely many values are numbered in their order."""
    found = {}
    for field, domain in space.items():
        known = ordered(domain)
        low, high = (0, len(known) - 1) if known is not None else domain.bounds or (0, 1)
        integer = known is not None or whole(field)
        bounds = (int(low), int(high)) if integer else (low, high)
        found[field] = (*bounds, domain.log_uniform is not None, integer)
    return found


def distributions(space: Mapping[str, Domain]) -> dict[str, Any]:
    """Optuna's distributions: numbers keep their order, other values are categories."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for field, (low, high, log, integer) in ranges(space).items():
        known = ordered(space[field])
        if known is not None and not _numbers(known):
            # as JSON, since Optuna's categories are plain values
            found[field] = CategoricalDistribution([json.dumps(v) for v in known])
        else:
            found[field] = IntDistribution(int(low), int(high), log) if integer else FloatDistribution(low, high, log)
    return found


def values(space: Mapping[str, Domain], drawn: Mapping[str, Any]) -> Point:
    """Convert Optuna's parameters to a point."""
    point = {}
    for field, domain in space.items():
        known, value = ordered(domain), drawn[field]
        if known is not None:
            point[field] = json.loads(value) if isinstance(value, str) else known[int(value)]
        else:
            point[field] = int(value) if whole(field) else float(f"{value:.6g}")
    return point
