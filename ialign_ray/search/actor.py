"""A trial under Ray Tune: one actor, reused from trial to trial, that keeps the base model and examples in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from ialign_ray.errors import CheckpointError, IalignError
from ialign_ray.search.objective import FAILED_SCORE, References, flat, worth
from ialign_ray.search.results import FAILED, OUTCOMES, POINT, STOPPED, TRIALS
from ialign_ray.search.space import Point, point_name, search_of, variant
from ialign_ray.search.trial import TrialContext, TrialRun
from ialign_ray.search.trial_cache import ExampleCache, cache_key
from ialign_ray.search.trial_context import SearchContext, search_folder
from ialign_ray.storage import join_writers, read_json, write_json

KEPT_SHELVES = 2
"""Number of families whose examples an actor keeps."""


def trial_context_here(shared: SearchContext) -> TrialContext:
    """Base model on this process' device, with as many threads as it has reserved CPUs."""
    cpus = search_of(shared.experiment).cpus_per_trial
    torch.set_num_threads(max(1, math.floor(cpus)))
    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return shared.trial_context(torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu"))


class SearchTrial(tune.Trainable):  # type: ignore[misc]  # ray has no types
    """Ray Tune trainable: each `step` is one budget. The run folder records what was reported, so nothing is trained
    twice."""

    def setup(self, config: dict[str, Any], shared: SearchContext) -> None:
        """Load the base model, once per process, and start the first trial."""
        self.shared = shared
        self.writer = join_writers(search_folder(shared.experiment))
        self.trial_context = trial_context_here(shared)
        self.shelves: dict[str, ExampleCache] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start another trial in this process."""
        point = new_config["point"]
        self.folder = search_folder(self.shared.experiment) / TRIALS / point_name(point)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / POINT, point)
        self.seed = int(variant(self.shared.experiment, point).train.seed)
        self.run: TrialRun | None = None
        self.point, self.said = point, 0
        return True

    def step(self) -> dict[str, Any]:
        """Return the outcome at the next budget, as Tune's flat result."""
        try:
            if self.run is None:
                self.run = self.shared.trial(self.point, self.folder, self._example_cache(), self.trial_context)
            outcomes = outcomes_of(self.run, self.said, self.shared, self.shared.references[self.seed])
        except CheckpointError:  # a full disk or a torn file is not the setting's fault: Tune tries again
            raise
        except IalignError as error:  # this setting cannot be trained; others can
            write_json(self.folder / FAILED, {"message": str(error)})
            return failed(str(error), self.shared.ends[0])
        # the file before Tune's result: tables read the files of the trials, not the state of Tune
        write_json(self.folder / OUTCOMES, outcomes)
        found = outcomes[-1]
        self.said += 1
        # a trial that the scheduler stopped stays stopped in a resumed search
        stopped = read_json(self.folder / STOPPED)["budget"] if (self.folder / STOPPED).exists() else math.inf
        return {**found, "done": found["last"] or found["budget"] >= stopped}

    def _example_cache(self) -> ExampleCache:
        experiment = variant(self.shared.experiment, self.point)
        name = cache_key(experiment)
        if name not in self.shelves:
            while len(self.shelves) >= KEPT_SHELVES:
                # the family that was encoded first
                self.shelves.pop(next(iter(self.shelves)))
            self.shelves[name] = self.shared.example_cache(experiment)
        return self.shelves[name]

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Return the state for a pause; the weights are in the run folder."""
        return {"said": self.said}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Continue after the last reported budget."""
        self.said = int((checkpoint or {}).get("said", 0))


def outcomes_of(run: TrialRun, k: int, shared: SearchContext, references: References) -> list[dict[str, Any]]:
    """Outcomes at the first k + 1 budgets, compared with base and control."""
    search = search_of(shared.experiment)
    run.report(k)
    found = []
    for report in run.reports[: k + 1]:
        matched = worth(run.losses(report["budget"]), references, report["budget"], search)
        found.append({**report, **flat(matched), "failed": ""})
    return found


def failed(message: str, first: int) -> dict[str, Any]:
    """The result of a trial that cannot be trained: no numbers except the worst score for schedulers."""
    nothing = dict.fromkeys(("gain", "forgetting", "violation"), math.nan)
    return {
        **nothing, "score": FAILED_SCORE, "failed": message, "budget": first, "last": False,
        "feasible": False, "done": True,
    }  # fmt: skip


def train_control(shared: SearchContext, point: Point, folder: Path) -> None:
    """Train and validate a replay-only control over the whole budget, and validate the base; reused once done."""
    run = shared.trial(point, folder, None, trial_context_here(shared))
    run.base_losses()
    run.report(len(run.ends) - 1)
