"""Who stops poor trials early: Ray's ASHA and HyperBand, at budgets of ours instead of Ray's count of reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ialign_ray.config import SearchConfig


def scheduler(search: SearchConfig, ends: Sequence[int]) -> Any:
    """The scheduler for these budgets; `training_iteration` restarts when a search is resumed, a budget does not."""
    from ray.tune import schedulers

    common: dict[str, Any] = {"metric": "score", "mode": "max", "reduction_factor": search.reduction}
    if search.scheduler == "asha":
        return schedulers.AsyncHyperBandScheduler(
            time_attr="budget", grace_period=ends[0], max_t=ends[-1], stop_last_trials=False, **common
        )
    if search.scheduler == "hyperband":
        # counted in first budgets, so that its own powers of the reduction are our budgets; BOHB's kind for every
        # searcher, since it alone says which trials are paused
        return schedulers.HyperBandForBOHB(time_attr="units", max_t=max(1, ends[-1] // ends[0]), **common)
    return schedulers.FIFOScheduler()
