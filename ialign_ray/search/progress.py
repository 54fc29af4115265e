"""Progress of a search: a table of the front and the remaining time, and MLflow runs nested under the search's run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from ialign_ray.config import Experiment
from ialign_ray.errors import first_line
from ialign_ray.search.objective import pareto
from ialign_ray.terminal import BlockTable, say
from ialign_ray.training.display import PLAIN_SECONDS, mlflow_experiment

SHOWN = 8
"""Rows of the front on the terminal."""
COLUMNS = ("settings", "gain, nats/token", "forgetting, nats/token", "within tolerance")


class Progress:
    """State of a running search; fed by the driver's callback, read by the display."""

    def __init__(self, trials: int, whole: int, console: Console) -> None:
        self.trials, self.whole, self.console = trials, whole, console
        self.last: dict[str, dict[str, Any]] = {}
        """Trial -> its last result with its point."""
        self.ended: set[str] = set()
        self._began, self._printed = time.monotonic(), 0.0

    def result(self, name: str, point: dict[str, Any], result: dict[str, Any]) -> None:
        """A trial's outcome at a budget."""
        self.last[name] = {**result, "point": point}
        if not self.console.is_terminal and time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            say(self.console, self.line())

    def end(self, name: str) -> None:
        """A trial ended or was stopped."""
        self.ended.add(name)

    def eta(self) -> float:
        """Seconds left, assuming that remaining trials take as long as those that ended."""
        done = len(self.ended)
        return (time.monotonic() - self._began) / done * (self.trials - done) if done else math.nan

    def rows(self) -> list[dict[str, Any]]:
        """The front of all trials so far, by falling gain."""
        # a copy of the list: the display's thread reads while Tune's callback writes
        known = [r for r in list(self.last.values()) if not r.get("failed")]
        return [known[k] for k in pareto(known)]

    def line(self) -> str:
        """The state as one line, for job logs."""
        best = next((r for r in self.rows() if r["feasible"]), None)
        left = f", about {self.eta():.0f} s left" if math.isfinite(self.eta()) else ""
        found = f"; best {worded(best)}" if best else ""
        return f"search: {len(self.ended)} of {self.trials} trials ended{left}{found}"

    def table(self) -> BlockTable:
        """The state as a table."""
        left = f", about {self.eta():.0f} s left" if math.isfinite(self.eta()) else ""
        title = f"{len(self.ended)} of {self.trials} trials ended{left}; the front so far"
        lines = []
        for row in self.rows()[:SHOWN]:
            settled, *rest = cells(row)
            lines.append([settled, f"{row['budget'] / self.whole:.0%}", *rest])
        return BlockTable((COLUMNS[0], "budget", *COLUMNS[1:]), lines, title)


def cells(row: dict[str, Any]) -> list[str]:
    """A trial's row under COLUMNS."""
    return [
        settings(row["point"]),
        interval(row, "gain"),
        interval(row, "forgetting"),
        "yes" if row["feasible"] else "no",
    ]


def settings(point: dict[str, Any]) -> str:
    """Format a point briefly."""
    return ", ".join(
        f"{k.rpartition('.')[2]} {v:g}" if isinstance(v, float) else f"{k.rpartition('.')[2]} {v}"
        for k, v in point.items()
    )


def interval(row: dict[str, Any], name: str) -> str:
    """Value and 95 % interval."""
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def worded(row: dict[str, Any]) -> str:
    """Describe one trial."""
    return f"{settings(row['point'])}: gain {interval(row, 'gain')}, forgetting {interval(row, 'forgetting')}"


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Show the table while the body runs; a terminal redraws it in place, a log gets one line at the end."""
    console = progress.console
    if not console.is_terminal:
        yield
        say(console, progress.line())
        return
    with Live(get_renderable=progress.table, console=console, refresh_per_second=2, vertical_overflow="visible"):
        yield


class NestedRuns:
    """MLflow runs: one for the search and a nested one per trial, logged at each budget; failures do not end the
    search."""

    def __init__(self, experiment: Experiment, folder: Path, console: Console) -> None:
        self._console, self._client = console, None
        self._runs: dict[str, str] = {}
        self._logged: set[tuple[str, int]] = set()
        if experiment.tracking.mlflow:
            with self._kept():
                self._open(experiment, folder)

    def _open(self, experiment: Experiment, folder: Path) -> None:
        client, self._number = mlflow_experiment(experiment)
        self._parent = client.create_run(self._number, run_name="search").info.run_id
        client.set_tag(self._parent, "ialign.search", str(folder))
        self._client = client

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # exceptions of MLflow and its database have no common base
            self._client = None
            say(self._console, f"warning: tracking stopped ({first_line(error)}); the search continues")

    def result(self, name: str, point: dict[str, Any], result: dict[str, Any]) -> None:
        """Log one outcome under the trial's run; only once, even if a resumed trial reports it again."""
        key = (name, int(result["budget"]))
        if self._client is None or key in self._logged:
            return
        self._logged.add(key)
        with self._kept():
            from mlflow.entities import Metric

            now = int(time.time() * 1000)
            numbers = {k: float(v) for k, v in result.items() if k in LOGGED and math.isfinite(float(v))}
            metrics = [Metric(f"search/{k}", v, now, int(result["budget"])) for k, v in numbers.items()]
            self._client.log_batch(self._of(name, point), metrics=metrics)

    def _of(self, name: str, point: dict[str, Any]) -> str:
        client: Any = self._client
        if name not in self._runs:
            tags = {"mlflow.parentRunId": self._parent}
            self._runs[name] = client.create_run(self._number, run_name=name, tags=tags).info.run_id
            for key, value in point.items():
                client.log_param(
                    self._runs[name], key, value if isinstance(value, int | float | str) else json.dumps(value)
                )
        return str(self._runs[name])

    def end(self, name: str, status: str) -> None:
        """Close a trial's run."""
        if self._client is not None and name in self._runs:
            with self._kept():
                self._client.set_terminated(self._runs[name], status)

    def close(self, finished: bool) -> None:
        """Close the search's run."""
        if self._client is not None:
            with self._kept():
                self._client.set_terminated(self._parent, "FINISHED" if finished else "FAILED")


LOGGED: Sequence[str] = (
    "score", "gain", "gain_low", "gain_high", "forgetting", "forgetting_low", "forgetting_high", "violation", "tokens",
    "step", "train_loss", "seconds",
)  # fmt: skip
