"""Display of a run by its driver: progress bar, TensorBoard and MLflow, fed by the run's records."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ialign_ray.config import Experiment
from ialign_ray.errors import ConfigError, first_line
from ialign_ray.terminal import say
from ialign_ray.training.run_log import RECORDS, VALIDATIONS, RunLogFile, records, shown_warnings

PLAIN_SECONDS = 15.0
"""Seconds between lines if the output is not a terminal (job logs)."""


def curves(record: dict[str, Any]) -> dict[str, float]:
    """One step's record as flat metrics: totals, then loss per task, per language and for replay."""
    plain = {f"train/{k}": float(record[k]) for k in ("loss", "grad_norm", "learning_rate")}
    plain["train/tokens_per_second"] = record["tokens"] / max(record["seconds"], 1e-9)
    plain["train/useful_share"] = record["tokens"] / max(record["padded"], 1)
    if "mfu" in record:  # absent from the records of runs that are older than this field
        plain |= {"train/mfu": record["mfu"], "train/memory_gib": record["memory"] / 2**30}
    plain["train/data_wait_share"] = record["data_wait"] / max(record["seconds"], 1e-9)
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for source, (nats, tokens) in record["sources"].items():
        task, _, language = source.partition("/")
        for key in ["loss/replay"] if not language else [f"loss/task/{task}", f"loss/language/{language}"]:
            sums[key][0] += nats
            sums[key][1] += tokens
    return plain | {k: nats / tokens for k, (nats, tokens) in sums.items()}


def validation_curves(record: dict[str, Any]) -> dict[str, float]:
    """One validation as flat metrics: each loss and the bounds of its 95 % interval."""
    flat: dict[str, float] = {}
    for metric, (value, low, high, _) in record["losses"].items():
        bounds = {f"validation/{metric}_low": low, f"validation/{metric}_high": high}
        flat |= {f"validation/{metric}": value} | {k: v for k, v in bounds.items() if isfinite(v)}
    return flat


def validation_line(record: dict[str, Any], base: dict[str, Any]) -> str:
    """One validation as a line of a job's log, in nats per token, with the base's.

    `base` is the run's first validation; it does not count if its step is above 0, as in a run validated only late.
    """
    said = []
    for metric in ("pairs", "instructions"):
        if metric in record["losses"]:
            value, low, high, n = record["losses"][metric]
            known = record["step"] and not base["step"] and metric in base["losses"]
            of_base = f", base {base['losses'][metric][0]:.3f}" if known else ""
            said.append(f"{metric} {value:.3f} [{low:.3f}, {high:.3f}] n={n}{of_base}")
    return f"step {record['step']}: held out, nats per token: {'; '.join(said)}"


def mlflow_experiment(experiment: Experiment) -> tuple[Any, str]:
    """MLflow's client, and the id of the experiment of this name, which is created unless it exists."""
    # MLflow's default of 7 takes minutes to report an unreachable server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=experiment.tracking_uri)
    try:
        return client, client.create_experiment(experiment.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.get_experiment_by_name(experiment.name)
    if found.lifecycle_stage == "deleted":
        raise ConfigError(
            f"experiment {experiment.name!r} of {experiment.tracking_uri} was deleted; restore it there, or rename "
            "yours (`name`)"
        )
    return client, found.experiment_id


class Sinks:
    """TensorBoard and MLflow of one run; each step is logged once, even after a resume."""

    def __init__(self, experiment: Experiment, run: Path, params: dict[str, Any]) -> None:
        self._board: Any = None
        self._client: Any = None
        if experiment.tracking.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(run / "tensorboard"))
        self.problem: str | None = None
        """Why the run is not in MLflow, although the experiment asks for it."""
        if experiment.tracking.mlflow:
            try:
                self._open_mlflow(experiment, run, params)
            except Exception as error:  # exceptions of MLflow and its database have no common base
                self.problem = first_line(error)

    def _open_mlflow(self, experiment: Experiment, run: Path, params: dict[str, Any]) -> None:
        client, number = mlflow_experiment(experiment)
        self._id = client.create_run(number, run_name=run.name).info.run_id
        for key, value in params.items():
            client.log_param(self._id, key, value)
        self._client = client

    def log(self, batch: list[dict[str, Any]], curves: Callable[[dict[str, Any]], dict[str, float]] = curves) -> None:
        """Log the records of some steps, or, with `validation_curves`, of some validations."""
        if self._board:
            for record in batch:
                for key, value in curves(record).items():
                    self._board.add_scalar(key, value, record["step"])
        if self._client and batch:
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            metrics = [Metric(k, v, now, r["step"]) for r in batch for k, v in curves(r).items()]
            for first in range(0, len(metrics), 1000):  # the server's limit per call
                self._client.log_batch(self._id, metrics=metrics[first : first + 1000])

    def close(self, finished: bool) -> None:
        """Flush, and set the status of the MLflow run."""
        if self._board:
            self._board.close()
        if self._client:
            self._client.set_terminated(self._id, "FINISHED" if finished else "FAILED")


@contextmanager
def watching(experiment: Experiment, run: Path, console: Console) -> Iterator[None]:
    """Show progress and feed the sinks from `metrics.jsonl` while the body runs."""
    params = {"ratio": experiment.replay.ratio, "seed": experiment.train.seed, "model": experiment.model.id}
    watcher = _Watcher(run, experiment.train.steps, Sinks(experiment, run, params), console)
    stop = threading.Event()
    thread = threading.Thread(target=watcher.follow, args=(stop,), daemon=True)
    thread.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        stop.set()
        thread.join()
        watcher.close(finished)


class _Watcher:
    def __init__(self, run: Path, steps: int, sinks: Sinks, console: Console) -> None:
        self.sinks = sinks
        self._run, self._steps, self._console = run, steps, console
        self._seen, self._printed = 0, 0.0
        self._validated: set[int] = set()
        self._told = len(shown_warnings(run))
        self._tracking = True
        if sinks.problem:
            self._stopped(sinks.problem)

    def follow(self, stop: threading.Event) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as bar:
            task = bar.add_task(self._run.name, total=self._steps, note="starting workers")
            while True:
                last = stop.wait(1.0)
                self._warnings()
                self._validations()
                if new := [r for r in records(self._run) if r["step"] > self._seen]:
                    self._seen = new[-1]["step"]
                    self._track(partial(self.sinks.log, new))
                    note = self._note(new)
                    bar.update(task, completed=self._seen, note=note)
                    self._plain(note, last)
                if last:
                    return

    def _validations(self) -> None:
        said = RunLogFile(self._run / VALIDATIONS).read()
        if new := [r for r in said if r["step"] not in self._validated]:
            self._validated |= {r["step"] for r in new}
            self._track(partial(self.sinks.log, new, validation_curves))
            for record in new:
                line = f"{self._run.name}: {validation_line(record, said[0])}"
                say(self._console, line)

    def _warnings(self) -> None:
        told = shown_warnings(self._run)
        for text in told[self._told :]:
            say(self._console, f"warning: {text}")
        self._told = len(told)

    def close(self, finished: bool) -> None:
        """End the tracking of this run."""
        self._track(partial(self.sinks.close, finished))

    def _track(self, work: Callable[[], None]) -> None:
        """Write curves, which copy `metrics.jsonl`; if they cannot be written, the run continues without them."""
        if not self._tracking:
            return
        try:
            work()
        except Exception as error:  # exceptions of TensorBoard, MLflow and their database have no common base
            self._tracking = False
            self._stopped(first_line(error))

    def _stopped(self, cause: str) -> None:
        say(self._console, f"warning: tracking stopped ({cause}); {self._run / RECORDS} continues")

    def _note(self, new: list[dict[str, Any]]) -> str:
        tokens, seconds = sum(r["tokens"] for r in new), sum(r["seconds"] for r in new)
        left = (self._steps - self._seen) * seconds / len(new)
        flops = sum(r.get("mfu", 0.0) * r["seconds"] for r in new) / max(seconds, 1e-9)
        memory = new[-1].get("memory", 0) / 2**30
        speed = f"{tokens / max(seconds, 1e-9):,.0f} tokens/s  mfu {flops:.1%}  {memory:.1f} GiB"
        return f"loss {new[-1]['loss']:.3f}  {speed}  {left:.0f} s left"

    def _plain(self, note: str, last: bool) -> None:
        if self._console.is_terminal or (time.monotonic() - self._printed < PLAIN_SECONDS and not last):
            return
        self._printed = time.monotonic()
        self._console.print(f"{self._run.name}: step {self._seen}/{self._steps}  {note}", highlight=False)
