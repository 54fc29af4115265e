"""Joining a Ray cluster, or starting one for this process."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ialign_ray.cluster.local import check_token_file, private_ray
from ialign_ray.cluster.ports import exposure
from ialign_ray.cluster.resources import grown, present, reachable
from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError, IalignError, first_line

SETTINGS = {
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # 0.5-0.9 s instead of 9-12 s per small execution (ray 2.60)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",  # a dead proxy is replaced after three checks, of 10 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # the default 60 s is short on a loaded machine
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # a submitted job already has these; setting them again is a conflict to Ray
    "TOKENIZERS_PARALLELISM": "false",  # Ray parallelises; forked tokenizer threads only warn
}
"""Environment of the driver and of every worker."""


@contextmanager
def cluster(scaling: ScalingConfig, *, worker_logs: bool = False) -> Iterator[dict[str, float]]:
    """Join the cluster of `scaling.address`, or start a local one; yield the resources that it has or may grow to.

    A cluster that is already joined is used and left running. `worker_logs` shows what workers write to stderr, as
    `IALIGN_WORKER_LOGS=1` does. Raises ClusterError if none answers, or if its version or token differs.
    """
    for key, value in SETTINGS.items():
        # the user's own values win
        os.environ.setdefault(key, value)
    with ExitStack() as stack:
        # checked without importing Ray, which reads the settings of a local cluster on import
        if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
            stack.enter_context(_joined(scaling, worker_logs))
        yield reachable(present(), grown())


@contextmanager
def _joined(scaling: ScalingConfig, worker_logs: bool) -> Iterator[None]:
    arguments: dict[str, Any] = {"address": scaling.address}
    with ExitStack() as stack:
        env = {key: os.environ[key] for key in SETTINGS}
        if scaling.address is None and "RAY_ADDRESS" not in os.environ:
            arguments |= {"address": "local", "include_dashboard": False} | stack.enter_context(private_ray())
            env["TMPDIR"] = str(Path(arguments["_temp_dir"]).parent)  # temporary files of workers are equally private
        else:
            check_token_file()
        import ray

        try:
            with own_sigterm():
                ray.init(
                    **arguments,
                    runtime_env={"env_vars": env},
                    logging_level=logging.WARNING,
                    log_to_driver=worker_logs or os.environ.get("IALIGN_WORKER_LOGS") == "1",
                )
        except IalignError:
            raise
        except Exception as error:  # Ray raises bare ones too
            raise ClusterError(refusal(scaling.address or os.environ.get("RAY_ADDRESS", ""), error)) from error
        stack.callback(ray.shutdown)
        if arguments["address"] == "local" and (warning := exposure()):
            logging.getLogger(__name__).warning("warning: %s", warning)
        yield


def quiet_ray_data(*, in_order: bool) -> None:
    """Silence Ray Data's progress bars and logs; `in_order` returns results in the order of the input."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if in_order:
        context.execution_options.preserve_order = True


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep our SIGTERM handler, if set, while Ray starts and installs its own.

    A signal that arrives in the meantime, which Ray turns into SystemExit, is passed to our handler.
    """
    ours = signal.getsignal(signal.SIGTERM)
    rays = str(getattr(ours, "__module__", "")).startswith("ray.")  # left by an earlier start
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
    """Describe in one sentence why a cluster was not joined."""
    if found := re.findall(r"(?:Ray|Python): ([\w.+]+)", str(error)) if "ersion mismatch" in str(error) else []:
        ray, python, *own = [*found, "?", "?", "?"][:4]
        return (
            f"the cluster at {address} runs Ray {ray} and Python {python}, this process Ray {own[0]} and Python "
            f"{own[1]}; install the cluster's versions here, or send the work as a job with `ialign submit`"
        )
    if "uthenticat" in f"{type(error).__name__} {error}":
        return f"the cluster at {address} refuses this process' token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    if isinstance(error, ConnectionError):
        return f"scaling.address {address!r} does not answer; start a head there or omit the field"
    if "timed out during startup" in str(error):
        return "Ray did not start in its 30 s, since this machine is busy; run the command again"
    return (
        f"the cluster at {address or 'this machine'} cannot be joined: {first_line(error)}; check the log of its head"
    )
