"""Resources of a cluster, and errors for what does not fit into it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError


def present() -> dict[str, float]:
    """Resources of all live nodes of the joined cluster."""
    import ray

    return dict(ray.cluster_resources())


def grown() -> dict[str, float]:
    """Largest resources that the cluster's autoscaler may reach; empty without an autoscaler.

    Ray Train (2.60) reads them in the same way; there is no public API.
    """
    from ray._private.state import state

    return {k: float(v) for k, v in (state.get_max_resources_from_cluster_config() or {}).items()}


def reachable(now: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """Resources that a cluster has or may grow to: a worker group that fits into them is waited for, not refused."""
    return now | {k: max(v, now.get(k, 0.0)) for k, v in limits.items()}


def nodes() -> list[dict[str, float]]:
    """Resources of each live node of the joined cluster."""
    import ray

    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def startable() -> list[tuple[float, dict[str, float]]]:
    """(number, resources of one) of each kind of node that the autoscaler may run, including running ones."""
    from ray._private.state import state

    config = state.get_cluster_config()
    kinds = config.node_group_configs if config else ()
    return [(_bound(kind.max_count), {k: _bound(v) for k, v in kind.resources.items()}) for kind in kinds]


def hosts() -> list[tuple[float, dict[str, float]]]:
    """(number, resources of one) of the running nodes, and of each kind that the autoscaler may start."""
    return [(1.0, node) for node in nodes()] + startable()


def _bound(number: int) -> float:
    """Convert a number of the autoscaler, where -1 means no limit."""
    return math.inf if number < 0 else float(number)


def check_resources(
    scaling: ScalingConfig, resources: dict[str, float], hosts: Sequence[tuple[float, dict[str, float]]]
) -> bool:
    """Check that a worker group can start. Return True if the workers get GPUs.

    `resources` are those of all `hosts` together. One CPU beyond the workers' is needed to encode the data, or both
    would wait forever. Raises ClusterError if the group cannot fit.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    if scaling.workers > cpus:
        raise ClusterError(
            f"scaling.workers is {scaling.workers}, but the cluster has {cpus:g} CPUs; "
            f"ask for {int(cpus)} workers at most"
        )
    if scaling.workers * scaling.cpus_per_worker + 1 > cpus:
        raise ClusterError(
            f"{scaling.workers} workers with scaling.cpus_per_worker {scaling.cpus_per_worker:g} leave no CPU of "
            f"{cpus:g} to encode data; lower cpus_per_worker to {(cpus - 1) / scaling.workers:.2g}"
        )
    if scaling.gpu and scaling.workers > gpus:
        raise ClusterError(f"scaling.gpu is set for {scaling.workers} workers, but the cluster has {gpus:g} GPUs")
    use_gpu = bool(gpus >= scaling.workers if scaling.gpu is None else scaling.gpu)
    need = per_worker(scaling, use_gpu)
    # a worker never spans two hosts
    # zero nodes of unlimited size would be 0 x infinity, which is NaN
    room = sum(number * times for number, host in hosts if number and (times := _times(need, host)))
    if room < scaling.workers:
        asked = " and ".join(f"{number:g} {name}" for name, number in need.items())
        raise ClusterError(
            f"{scaling.workers} workers with {asked} each do not fit: only {room:g} of them fit on one "
            "host; lower scaling.cpus_per_worker or scaling.workers"
        )
    return use_gpu


def _times(need: dict[str, float], host: dict[str, float]) -> float:
    """Number of times that `needed` fits into the resources of a host."""
    times = min(host.get(name, 0.0) / number for name, number in need.items())
    # 0.3 / 0.1 is 2.9999: the rest is rounding, not a missing CPU
    return times if math.isinf(times) else math.floor(times + 1e-9)


def per_worker(scaling: ScalingConfig, use_gpu: bool) -> dict[str, float]:
    """Resources that one worker reserves."""
    return {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})


def awaited(scaling: ScalingConfig, now: dict[str, float], use_gpu: bool) -> str | None:
    """Message about the nodes that a worker group waits for; None if it has room now."""
    needed = {"CPU": scaling.workers * scaling.cpus_per_worker + 1} | ({"GPU": scaling.workers} if use_gpu else {})
    for name, number in needed.items():
        if number > now.get(name, 0.0):
            return f"waiting for the autoscaler: the workers need {number:g} {name}s, {now.get(name, 0.0):g} are there"
    return None


def validation_resources(scaling: ScalingConfig, resources: dict[str, float], use_gpu: bool) -> dict[str, float]:
    """Resources of a validation that runs alongside the workers: those of one worker.

    Raises ClusterError if the cluster can never provide them, since the validation would wait forever.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    # one CPU more, for encoding the data
    needed = (scaling.workers + 1) * scaling.cpus_per_worker + 1
    if needed > cpus:
        raise ClusterError(
            f"train.validation.asynchronous needs {needed:g} CPUs (workers, one to encode data, the validation), but "
            f"the cluster has {cpus:g}"
        )
    if use_gpu and scaling.workers + 1 > gpus:
        raise ClusterError(
            f"train.validation.asynchronous needs one GPU more than its {scaling.workers} workers, but the cluster "
            f"has {gpus:g}"
        )
    return per_worker(scaling, use_gpu)


def scaling_arguments(scaling: ScalingConfig, use_gpu: bool) -> dict[str, Any]:
    """Arguments of `ray.train.ScalingConfig`."""
    return {
        "num_workers": scaling.workers,
        "use_gpu": use_gpu,
        "resources_per_worker": per_worker(scaling, use_gpu),
        "placement_strategy": scaling.placement.upper(),
    }
