"""The Ray Serve application that `serve deploy serve/local.yaml` builds and `ialign serve` runs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.schema import LoggingConfig

from ialign_ray.cluster.join import cluster
from ialign_ray.cluster.ports import exposure
from ialign_ray.config import ScalingConfig
from ialign_ray.config.load import serve_settings
from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ClusterError, ConfigError, ModelError
from ialign_ray.registry.store import registry_uri
from ialign_ray.serving.shared_ledger import SharedLedger, check_followed, close_internal_port, follow_keys, open_log

APPLICATION = "ialign"
_SPARE = 32
"""Requests accepted beyond the engine's queue: room for health, metrics, and for the replica's own 429 answers."""
_QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)  # the API writes a separate access log


@serve.ingress()
class Replica:
    """One process with the models in memory and the HTTP API in front of them."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: dict[str, Any], registry: str, ledger: Any = None
    ) -> None:
        """Load the models of `serve.models`. Serve reports a failure and retries.

        `ledger`: handle of the `SharedLedger` that counts for all replicas; without it this one counts on its own.
        """
        from ialign_ray.serving.api import KeyLedger, LocalCounter, SharedCounter, check_exposure, keys_of
        from ialign_ray.serving.engine import open_engine
        from ialign_ray.serving.model_library import ModelLibrary

        open_log()
        close_internal_port()
        self._settings = ServeConfig.model_validate(settings)
        self._keys = keys_of(self._settings)
        host, _ = await asyncio.to_thread(listening)
        # again, with the proxy's actual host: an application file sets it in http_options, not in `serve.host`
        check_exposure(self._settings.model_copy(update={"host": host}), self._keys)
        if self._keys is not None:
            own = KeyLedger(self._keys, part=1 / self._settings.replicas[1] if ledger else 1.0)
            self._following_keys = follow_keys(self._settings, own)
            lost = own if self._settings.limits.without_counts == "share" else None
            self._counter = SharedCounter(ledger, lost) if ledger else LocalCounter(own)
        self._library = ModelLibrary(self._settings, registry, open_engine)
        await self._library.start()

    def __serve_build_asgi_app__(self) -> Any:
        """Return the API over the loaded models; called by Ray Serve after `__init__`."""
        from ialign_ray.serving.api import build_app

        return build_app(self._library, self._settings, self._keys, getattr(self, "_counter", None))

    async def check_health(self) -> None:
        """Raise if the replica must be replaced; Ray Serve calls this every few seconds."""
        check_followed(getattr(self, "_following_keys", None))
        self._library.check()

    async def __del__(self) -> None:
        """Close the models; called by Ray Serve when running requests have ended or `drain_s` is over."""
        if hasattr(self, "_library"):
            await self._library.close(grace=1.0)


def build(args: Mapping[str, Any]) -> serve.Application:
    """Build the application from an application file's `args`: the fields of `serve`, and `registry`.

    `registry` is an MLflow server, a database or a folder of runs, as --registry. Default: MLFLOW_TRACKING_URI.
    """
    data = dict(args)
    registry = str(data.pop("registry", None) or os.environ.get("MLFLOW_TRACKING_URI") or "runs")
    return application(serve_settings(data=data), registry)


def application(settings: ServeConfig, registry: str) -> serve.Application:
    """Build the application from validated settings. Raises ConfigError if other hosts could use it without a key."""
    from ialign_ray.serving.api import check_exposure, keys_of

    keys = keys_of(settings)
    check_exposure(settings, keys)
    if settings.engine == "vllm":
        from ialign_ray.serving.vllm import vllm_application

        return vllm_application(settings, registry)
    models = [str(Path(m).absolute()) if Path(m).exists() else m for m in settings.models]
    paths = {"keys": settings.keys and str(Path(settings.keys).absolute()), "models": models}
    absolute = settings.model_copy(update=paths)  # a replica's working directory is where Ray was started
    deployment = serve.deployment(name="models", **options(settings))(Replica)
    plain = absolute.model_dump(mode="json")
    if keys is None or settings.replicas[1] == 1:
        return deployment.bind(plain, registry_uri(registry))
    env = {"env_vars": options(settings)["ray_actor_options"]["runtime_env"]["env_vars"]}
    one = {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0, "runtime_env": env}, "max_ongoing_requests": 10_000}
    ledger = serve.deployment(name="keys", health_check_period_s=5.0, logging_config=_QUIET, **one)(SharedLedger)
    return deployment.bind(plain, registry_uri(registry), ledger.bind(plain))


def options(settings: ServeConfig) -> dict[str, Any]:
    """Options of the Ray Serve deployment: replicas, resources, queue, health checks, shutdown."""
    low, high = settings.replicas
    scaling: dict[str, Any] = {"num_replicas": low}
    if high > low:
        # a full batch is a full replica: requests beyond it only wait
        bounds = {"min_replicas": low, "max_replicas": high, "target_ongoing_requests": settings.max_batch}
        scaling = {"autoscaling_config": bounds}
    return scaling | {
        "ray_actor_options": {
            "num_cpus": settings.cpus_per_replica,
            "num_gpus": settings.gpus_per_replica,
            # key hashes and cache of the deploying process: the cluster may have been started without them
            "runtime_env": {"env_vars": {k: v for k, v in os.environ.items() if k.startswith("IALIGN_")}},
        },
        # bodies that arrive take no place in the queue, which the replica keeps
        "max_ongoing_requests": settings.limits.queue + settings.limits.bodies + _SPARE,
        "max_queued_requests": settings.limits.queue,
        "backpressure_config": {"status_code": 429, "retry_after_s": 1.0},
        "graceful_shutdown_timeout_s": settings.drain_s + 5.0,  # the library closes within the remaining time
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_period_s": 5.0,
        "max_constructor_retry_count": 3,  # a model that does not load is reported soon
        "logging_config": _QUIET,
    }


@contextmanager
def running(
    settings: ServeConfig, registry: str, scaling: ScalingConfig, *, show_log: bool = True, replace: bool = False
) -> Iterator[str]:
    """Start (or join) Ray, deploy, wait until the models answer, yield the URL, and shut everything down at the end.

    Raises ConfigError if the port is taken, ClusterError if the cluster is too small or already serves models (unless
    `replace`), ModelError if a model does not load.
    """
    settings = settings.model_copy(update={"port": free_port(settings.host, settings.port)})
    built = application(settings, registry)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with cluster(scaling, worker_logs=show_log) as resources:
        _check_room(settings, resources)
        if not replace:
            _check_alone()
        http = {"host": settings.host, "port": settings.port}
        others = _serving()
        # if replicas may be on several hosts, each of these answers, whichever proxy dies
        location = "EveryNode" if settings.replicas[1] > 1 else "HeadOnly"
        serve.start(proxy_location=location, http_options=http, logging_config=_QUIET)
        try:
            _deploy(built)
            url = url_of(*listening())
            _wait_ready(url)
            if scaling.address is None and (warning := exposure()):
                logging.getLogger("ialign_ray").warning("warning: %s", warning)
            yield url
        finally:
            serve.delete(APPLICATION)  # waits for the drain
            # Even if we started the cluster: Serve's client in this process would take the next cluster for this one.
            if not others:
                serve.shutdown()


def _serving() -> bool:
    """Return True if Ray Serve already runs on the cluster."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False) is not None


def _check_alone() -> None:
    if _serving() and APPLICATION in serve.status().applications:
        host, port = listening()
        raise ClusterError(
            f"this cluster already serves models, at {url_of(host, port)}; use those, or remove them first with "
            f"`serve delete {APPLICATION}`"
        )


def listening() -> tuple[str, int]:
    """Return (host, port) of the running HTTP proxy, which an application file may set to other than `serve.host`."""
    from ray.serve.context import _get_global_client

    http = _get_global_client().http_config
    return str(http.host), int(http.port)


def url_of(host: str, port: int) -> str:
    """URL of an HTTP server."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port(host: str, port: int) -> int:
    """Return the port, or any free one for 0. Raises ConfigError if the port is in use."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port with old connections in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"serve.port is {port} on {host}, which cannot be used ({error.strerror}); stop the process that "
                "listens there, or choose another with --port (0 picks a free one)"
            ) from error
        return int(probe.getsockname()[1])


def _deploy(built: serve.Application) -> None:
    try:
        serve.run(built, name=APPLICATION)
    except RuntimeError as error:
        state = serve.status().applications.get(APPLICATION)
        messages = [each.message for each in state.deployments.values()] if state else []
        raise ModelError(reason_of("\n".join([str(error), *messages]))) from error


def reason_of(message: str) -> str:
    """Extract our error's sentence from the traceback that Serve keeps of a failed replica."""
    found = re.findall(r"ialign_ray\.[\w.]*Error: (.+)", message)
    return found[-1] if found else f"the deployment failed: {' '.join(message.split())[-500:]}"


def _wait_ready(url: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError as error:
            if time.monotonic() > end:
                raise ClusterError(f"{url}/readyz does not answer ({error}); see the logs of Ray Serve") from error
        time.sleep(0.2)


def _check_room(settings: ServeConfig, resources: Mapping[str, float]) -> None:
    for name, each in (("CPU", settings.cpus_per_replica), ("GPU", settings.gpus_per_replica)):
        needed, there = settings.replicas[0] * each, resources.get(name, 0.0)
        if needed > there:
            raise ClusterError(
                f"serve.replicas {settings.replicas[0]} with {each:g} {name}s each need {needed:g}, but the cluster "
                f"has {there:g}; lower serve.replicas or serve.{name.lower()}s_per_replica"
            )
