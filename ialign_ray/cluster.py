"""One place for how this project talks to Ray: settings, joining, and what is told when it is too small."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError

SETTINGS = {
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # 0.5-0.9 s instead of 9-12 s per small execution (ray 2.60)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # the default 60 s is short on a loaded machine
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",  # Ray parallelises; forked tokenizer threads only warn
}
"""Environment of the driver and of every worker."""


@contextmanager
def cluster(scaling: ScalingConfig, *, worker_logs: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster of `scaling.address`, or start a local one; yields its resources.

    A cluster that is already joined is used and left running. `worker_logs` shows what workers write to stderr, as
    `IALIGN_WORKER_LOGS=1` does.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    local = scaling.address is None and "RAY_ADDRESS" not in os.environ
    if local:
        # a token made by an earlier head would lock later workers out; nothing listens beyond loopback here
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    started = not ray.is_initialized()
    if started:
        try:
            ray.init(
                address="local" if local else scaling.address,
                runtime_env={"env_vars": {k: os.environ[k] for k in SETTINGS}},
                logging_level=logging.WARNING,
                log_to_driver=worker_logs or os.environ.get("IALIGN_WORKER_LOGS") == "1",
                include_dashboard=False if local else None,
            )
        except ConnectionError as error:
            raise ClusterError(
                f"scaling.address {scaling.address!r} does not answer; start a head there or leave the field out"
            ) from error
    try:
        yield ray.cluster_resources()
    finally:
        if started:
            ray.shutdown()


def nodes() -> list[dict[str, float]]:
    """Resources of each living node of the cluster that was joined."""
    import ray

    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def check_resources(scaling: ScalingConfig, resources: dict[str, float]) -> bool:
    """Refuse a worker group that could never start; returns whether the workers get GPUs.

    One CPU beyond the workers' is needed to encode the data, or both would wait for ever.
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
    return bool(gpus >= scaling.workers if scaling.gpu is None else scaling.gpu)


def validation_resources(scaling: ScalingConfig, resources: dict[str, float], use_gpu: bool) -> dict[str, float]:
    """What a validation beside the workers gets: as much as one of them.

    Raises ClusterError where the cluster could never give it: a validation that is waited for would wait for ever.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    needed = (scaling.workers + 1) * scaling.cpus_per_worker + 1
    if needed > cpus:
        raise ClusterError(
            f"train.validation.asynchronous needs {needed:g} CPUs (workers, one to encode data, the validation), but "
            f"the cluster has {cpus:g}"
        )
    if use_gpu and scaling.workers + 1 > gpus:
        raise ClusterError(
            f"train.validation.asynchronous needs a GPU beside those of {scaling.workers} workers, but the cluster "
            f"has {gpus:g}"
        )
    return {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})


def scaling_arguments(scaling: ScalingConfig, use_gpu: bool) -> dict[str, Any]:
    """Arguments of `ray.train.ScalingConfig`."""
    per_worker: dict[str, float] = {"CPU": scaling.cpus_per_worker}
    if use_gpu:
        per_worker["GPU"] = 1
    return {
        "num_workers": scaling.workers,
        "use_gpu": use_gpu,
        "resources_per_worker": per_worker,
        "placement_strategy": scaling.placement.upper(),
    }
