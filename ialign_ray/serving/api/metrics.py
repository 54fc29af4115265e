"""Prometheus metrics of one process; in a deployment of several replicas, each has its metrics.

`prometheus-fastapi-instrumentator` knows neither the model, the tokens nor the first token of a request, so its labels
and all metrics but one would still be written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from ialign_ray.serving.api.request import Call
from ialign_ray.serving.protocol import Engine

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class _Engines(Collector):
    """`Engine.stats` of every engine that answered a request, read at each scrape."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()
        self._count = 0

    def add(self, engine: Engine) -> None:
        if engine not in self._known:
            self._known[engine] = str(self._count)
            self._count += 1

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("ialign_engine", "Statistics of the engine.", labels=("engine", "stat"))
        for engine, name in list(self._known.items()):
            for stat, value in sorted(engine.stats().items()):
                family.add_metric((name, stat), value)
        yield family


class Metrics:
    """Counters of requests, tokens and times by route and model; models are the library's names, never free text."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels, registry = ("route", "model"), self.registry
        self._requests = Counter("ialign_requests", "Requests.", (*labels, "status"), registry=registry)
        self._seconds = Histogram(
            "ialign_request_seconds", "Seconds to the end of the answer.", labels, registry=registry, buckets=_SECONDS
        )
        self._first = Histogram(
            "ialign_first_token_seconds", "Seconds to the first token.", labels, registry=registry, buckets=_SECONDS
        )
        self._prompt = Counter("ialign_prompt_tokens", "Tokens of prompts.", labels, registry=registry)
        self._generated = Counter("ialign_generated_tokens", "Tokens of answers.", labels, registry=registry)
        self.running = Gauge("ialign_requests_running", "Running requests.", registry=registry)
        self._engines = _Engines()
        registry.register(self._engines)

    def watch(self, engine: Engine) -> None:
        """Include an engine's statistics from now on."""
        self._engines.add(engine)

    def finished(self, route: str, status: int, seconds: float, call: Call) -> None:
        """Count a finished request."""
        labels = (route, call.model or "")
        self._requests.labels(*labels, str(status)).inc()
        self._seconds.labels(*labels).observe(seconds)
        self._prompt.labels(*labels).inc(call.tokens_in)
        self._generated.labels(*labels).inc(call.tokens_out)
        if call.first_token is not None:
            self._first.labels(*labels).observe(call.first_token)

    def text(self, allows: Callable[[str], bool] | None = None) -> bytes:
        """Render the metrics in Prometheus' text format; only those of the given models, without the engines', if any
        are given."""
        return bytes(generate_latest(self.registry if allows is None else _OfModels(self.registry, allows)))


class _OfModels(Collector):
    """The metrics of a registry whose label `model` is allowed."""

    def __init__(self, registry: CollectorRegistry, allows: Callable[[str], bool]) -> None:
        self._registry, self._allows = registry, allows

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            kept = Metric(family.name, family.documentation, family.type, family.unit)
            kept.samples = [s for s in family.samples if self._allows(s.labels.get("model", ""))]
            if kept.samples:
                yield kept
