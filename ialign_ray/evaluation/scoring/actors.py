"""Shards scored by a pool of model replicas on a Ray cluster: Ray Data hands them out and replaces lost replicas.

A replica stores each shard itself, as soon as it is done, in the runs' folder that all nodes share; only the progress
is returned to the driver.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ialign_ray import errors
from ialign_ray.cluster.join import cluster, quiet_ray_data
from ialign_ray.config import Experiment, ScalingConfig
from ialign_ray.errors import ClusterError, IalignError
from ialign_ray.evaluation.scoring.worker import Shard, Work, store_of


@dataclass(frozen=True)
class Layout:
    """Division of the machines among replicas."""

    replicas: int
    """0: score in this process, without Ray."""
    cpus: float = 1.0
    """CPUs that each reserves: fewer than it uses, so that it fits on nodes of any size."""
    gpus: float = 0.0
    """GPUs of each."""
    threads: int = 1
    """Threads of each: its share of all cores."""


def layout(experiment: Experiment) -> Layout:
    """Replicas by `evaluate.replicas`; if omitted, one per GPU of the cluster, or only this process.

    Raises ClusterError if there are more replicas than CPUs.
    """
    wanted, scaling = experiment.evaluate.replicas, experiment.scaling
    if wanted == 1 or (wanted is None and not _has_gpus(scaling)):
        return Layout(0)
    with cluster(scaling) as resources:
        return shared(wanted, resources)


def shared(wanted: int | None, resources: dict[str, float]) -> Layout:
    """The layout of `wanted` replicas (one per GPU if None) on a cluster with these resources."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    replicas = wanted or int(gpus)
    if replicas > cpus:
        raise ClusterError(f"evaluate.replicas is {replicas}, but the cluster has {cpus:g} CPUs; ask for fewer")
    return Layout(replicas, min(1.0, cpus / replicas), min(1.0, gpus / replicas), max(1, int(cpus // replicas)))


def _has_gpus(scaling: ScalingConfig) -> bool:
    if scaling.address is None:
        import torch

        return torch.cuda.device_count() > 1  # one is used in this process as well
    with cluster(scaling) as resources:
        return resources.get("GPU", 0.0) > 0


class ScoringActor:
    """One model on one node; it opens the next subject's model when a shard of that subject arrives."""

    def __init__(self, work: Any, threads: int, max_failures: int) -> None:
        import ray
        import torch

        torch.set_num_threads(threads)
        self._work: Work = ray.get(work[0])
        self._max_failures = max_failures

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score and store one shard; a user's error is returned, not raised, since Ray would retry."""
        shard = self._work.shards[int(batch["item"][0])]
        try:
            with self._survived(tries_of(self._work, shard)):
                self._work.score(shard)
        except IalignError as error:
            return {"what": [""], "rows": [0], "failure": [json.dumps(errors.dump(error))]}
        return {"what": [self._work.called(shard)], "rows": [len(shard.places)], "failure": [""]}

    @contextmanager
    def _survived(self, tries: Path) -> Iterator[None]:
        """Refuse a shard that has killed its replica too often: Ray would start new ones forever."""
        tries.parent.mkdir(parents=True, exist_ok=True)
        # a file, since the process that counts is the one that dies
        with tries.open("a") as file:
            file.write("x")
        if tries.stat().st_size > self._max_failures + 1:
            raise ClusterError(
                f"a model replica died {self._max_failures + 1} times at the same rows (out of memory?); what is scored"
                " stays, run the command again with a lower evaluate.batch_tokens or fewer evaluate.replicas"
            )
        yield
        tries.unlink(missing_ok=True)


def tries_of(work: Work, shard: Shard) -> Path:
    """A file with one letter for each time that a shard was started."""
    store = store_of(work.subjects[shard.subject], work.units[shard.unit])
    return store.folder / f".tries-{work.keys[shard.unit][shard.places[0]]}"


def score_on_replicas(experiment: Experiment, work: Work, layout: Layout, advance: ScoringProgress) -> None:
    """Score every shard; raises the first IalignError of a replica."""
    for shard in work.shards:
        tries_of(work, shard).unlink(missing_ok=True)  # left by an evaluation that was killed
    with cluster(experiment.scaling):
        import ray

        quiet_ray_data(in_order=False)
        numbers = list(range(len(work.shards)))
        # in a list: Ray would copy the value of a bare reference into the arguments of every replica
        arguments = ([ray.put(work)], layout.threads, experiment.scaling.max_failures)
        scored = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
            ScoringActor,
            batch_size=1,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=min(layout.replicas, len(numbers))),
            num_cpus=layout.cpus,
            num_gpus=layout.gpus,
        )
        for row in scored.iter_rows():
            if row["failure"]:
                raise errors.load(json.loads(row["failure"]))
            advance(row["what"], row["rows"])


EVERY = 30.0
"""Seconds between two lines of a log."""


class ScoringProgress(Protocol):
    """Callback after each shard with its name and number of rows."""

    def __call__(self, what: str, rows: int) -> None:
        """Count the rows."""


@contextmanager
def scoring_progress(console: Console, total: int) -> Iterator[ScoringProgress]:
    """Show progress over `total` rows."""
    if console.is_terminal:
        shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*shown, console=console, transient=True) as bar:
            task = bar.add_task("scoring", total=total)
            yield lambda what, rows: bar.update(task, advance=rows, description=what)
    else:
        yield _Lines(console, total)


class _Lines:
    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0
        self._began = self._said = time.monotonic()

    def __call__(self, what: str, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if self._done < self._total and now - self._said < EVERY:
            return
        self._said = now
        left = (now - self._began) / self._done * (self._total - self._done)
        ending = f", about {left:,.0f} s left" if self._done < self._total else f" in {now - self._began:,.0f} s"
        self._console.print(f"{what}: scored {self._done:,} of {self._total:,} rows{ending}", highlight=False)
