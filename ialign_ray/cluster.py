"""One place for how this project talks to Ray: settings, joining, and refusals when it is too small."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
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
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # a submitted job has these already, which Ray else calls a conflict
    "TOKENIZERS_PARALLELISM": "false",  # Ray parallelises; forked tokenizer threads only warn
}
"""Environment of the driver and of every worker."""


@contextmanager
def cluster(scaling: ScalingConfig, *, worker_logs: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster of `scaling.address`, or start a local one; yields what it has, or may grow to.

    A cluster that is already joined is used and left running. `worker_logs` shows what workers write to stderr, as
    `IALIGN_WORKER_LOGS=1` does. Raises ClusterError where none answers, or one of another version or with another
    token.
    """
    for key, value in SETTINGS.items():
        # the user's own values win
        os.environ.setdefault(key, value)
    local = scaling.address is None and "RAY_ADDRESS" not in os.environ
    if local:
        # a token made by an earlier head would lock later workers out; nothing listens beyond loopback here
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray

    started = not ray.is_initialized()
    if started:
        try:
            with own_sigterm():
                ray.init(
                    address="local" if local else scaling.address,
                    runtime_env={"env_vars": {k: os.environ[k] for k in SETTINGS}},
                    logging_level=logging.WARNING,
                    log_to_driver=worker_logs or os.environ.get("IALIGN_WORKER_LOGS") == "1",
                    include_dashboard=False if local else None,
                )
        except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            where = scaling.address or os.environ.get("RAY_ADDRESS", "")
            raise ClusterError(refusal(where, error)) from error
    try:
        yield reachable(present(), grown())
    finally:
        if started:
            ray.shutdown()


def quiet_ray_data(*, in_order: bool) -> None:
    """Keep Ray Data's own progress and logs out of ours; `in_order` gives results in the order of the input."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if in_order:
        context.execution_options.preserve_order = True


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM, where we set one, over a start of Ray, which puts its own in place.

    A signal that comes in the meantime, which Ray turns into SystemExit, is handed to ours.
    """
    ours = signal.getsignal(signal.SIGTERM)
    rays = str(getattr(ours, "__module__", "")).startswith("ray.")  # of a start before this one
    # a handler can be set in the main thread only
    if rays or not callable(ours) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        ours(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, ours)


def refusal(address: str, error: Exception) -> str:
    """The reason why a cluster was not joined, as one sentence."""
    if found := re.findall(r"(?:Ray|Python): ([\w.+]+)", str(error)) if "ersion mismatch" in str(error) else []:
        ray, python, *own = [*found, "?", "?", "?"][:4]
        return (
            f"the cluster at {address} runs Ray {ray} and Python {python}, this process Ray {own[0]} and Python "
            f"{own[1]}; install the cluster's versions here, or send the work as a job with `ialign submit`"
        )
    if "uthenticat" in f"{type(error).__name__} {error}":
        return f"the cluster at {address} refuses this process' token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    if isinstance(error, ConnectionError):
        return f"scaling.address {address!r} does not answer; start a head there or leave the field out"
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"the cluster at {address or 'this machine'} cannot be joined: {said}; look at its head"


def present() -> dict[str, float]:
    """Resources of all living nodes of the cluster that was joined."""
    import ray

    return dict(ray.cluster_resources())


def grown() -> dict[str, float]:
    """The most that the cluster's autoscaler may have, by its nodes' largest numbers; empty without an autoscaler.

    Ray Train (2.60) asks in the same way; there is no public one.
    """
    from ray._private.state import state

    return {k: float(v) for k, v in (state.get_max_resources_from_cluster_config() or {}).items()}


def reachable(now: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """Resources that a cluster has, or may grow to: a worker group that fits into this is waited for, not refused."""
    return now | {k: max(v, now.get(k, 0.0)) for k, v in limits.items()}


def nodes() -> list[dict[str, float]]:
    """Resources of each living node of the cluster that was joined."""
    import ray

    return [n["Resources"] for n in ray.nodes() if n["Alive"]]


def startable() -> list[tuple[float, dict[str, float]]]:
    """(number, resources of one) of each kind of node that the autoscaler may have, those that are there included."""
    from ray._private.state import state

    config = state.get_cluster_config()
    kinds = config.node_group_configs if config else ()
    return [(_bound(kind.max_count), {k: _bound(v) for k, v in kind.resources.items()}) for kind in kinds]


def hosts() -> list[tuple[float, dict[str, float]]]:
    """(number, resources of one) of the nodes that are there, and of each kind that the autoscaler may start."""
    return [(1.0, node) for node in nodes()] + startable()


def _bound(number: int) -> float:
    """A number of the autoscaler's, to which -1 means no limit."""
    return math.inf if number < 0 else float(number)


def check_resources(
    scaling: ScalingConfig, resources: dict[str, float], hosts: Sequence[tuple[float, dict[str, float]]]
) -> bool:
    """Refuse a worker group that could never start. Return True if the workers get GPUs.

    `resources` are those of all `hosts` together. One CPU beyond the workers' is needed to encode the data, or both
    would wait for ever.
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
    # zero nodes of unlimited size would be 0 x infinity, which is no number
    room = sum(number * times for number, host in hosts if number and (times := _times(need, host)))
    if room < scaling.workers:
        asked = " and ".join(f"{number:g} {name}" for name, number in need.items())
        raise ClusterError(
            f"{scaling.workers} workers with {asked} each do not fit: no more than {room:g} of them find that on one "
            "host; lower scaling.cpus_per_worker or scaling.workers"
        )
    return use_gpu


def _times(need: dict[str, float], host: dict[str, float]) -> float:
    """Number of times that a host holds what is needed."""
    times = min(host.get(name, 0.0) / number for name, number in need.items())
    # 0.3 / 0.1 is 2.9999: the rest is rounding, not a missing CPU
    return times if math.isinf(times) else math.floor(times + 1e-9)


def per_worker(scaling: ScalingConfig, use_gpu: bool) -> dict[str, float]:
    """Resources that one worker reserves."""
    return {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})


def awaited(scaling: ScalingConfig, now: dict[str, float], use_gpu: bool) -> str | None:
    """Message about the nodes that a worker group waits for; None where it has room at once."""
    needed = {"CPU": scaling.workers * scaling.cpus_per_worker + 1} | ({"GPU": scaling.workers} if use_gpu else {})
    for name, number in needed.items():
        if number > now.get(name, 0.0):
            return f"waiting for the autoscaler: the workers need {number:g} {name}s, {now.get(name, 0.0):g} are there"
    return None


def validation_resources(scaling: ScalingConfig, resources: dict[str, float], use_gpu: bool) -> dict[str, float]:
    """Resources of a validation beside the workers: as much as one of them.

    Raises ClusterError where the cluster could never give it: a validation that is waited for would wait for ever.
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
            f"train.validation.asynchronous needs a GPU beside those of {scaling.workers} workers, but the cluster "
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
