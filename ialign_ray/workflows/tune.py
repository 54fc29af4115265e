"""After the search: the winner judged on the test rows, once, beside base and control, and the page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ialign_ray.config import Experiment
from ialign_ray.errors import ModelError
from ialign_ray.search import estimate
from ialign_ray.search.driver import search
from ialign_ray.search.page import write_page
from ialign_ray.search.progress import COLUMNS, cells
from ialign_ray.search.results import PARETO_FRONT, TRIALS, WINNER
from ialign_ray.search.space import search_of
from ialign_ray.search.trial_context import control_of_trial, search_folder
from ialign_ray.storage import alone, read_json, write_json
from ialign_ray.terminal import say
from ialign_ray.training.pocket import ensure_model
from ialign_ray.workflows.evaluate import evaluate

TEST_ACCESSES, PAGE = "test-looks.json", "search.html"


def tune(experiment: Experiment, *, resume: bool = False, console: Console | None = None) -> Path:
    """Search, choose, judge on the test suites; returns the winner's run folder.

    Raises IalignError with one sentence; ModelError when no trial spent its whole budget, ConfigError where another
    process searches in the same folder.
    """
    console = console or Console()
    ensure_model(experiment, console)
    with alone(search_folder(experiment), "`ialign tune`"):
        return _tune(experiment, console, resume)


def _tune(experiment: Experiment, console: Console, resume: bool) -> Path:
    folder = search(experiment, console, resume=resume)
    page = write_page(folder, search_of(experiment), folder / PAGE)
    if not (folder / WINNER).exists():
        raise ModelError(f"no trial of {folder} spent its whole budget; raise search.trials, or see {page}")
    console.print(pareto_table(read_json(folder / PARETO_FRONT)))
    found = read_json(folder / WINNER)
    settings = ", ".join(f"{k} {v}" for k, v in found["point"].items())
    say(console, f"\nWinner: {settings}\n{found['why'][0].upper()}{found['why'][1:]}.")
    run = folder / TRIALS / str(found["trial"])
    if experiment.evaluate.suites:
        record_test_access(folder, found, console)
        evaluate(experiment, [run], control_of_trial(experiment, found["point"]), console=console)
    say(console, f"\nPage:   {page}\nModel:  {run / 'model'}")
    return run


def pareto_table(front: list[dict[str, Any]]) -> Table:
    """Return the Pareto front: the finished trials that none beats in both gain and forgetting."""
    table = Table(title="Pareto front: no trial gains more and forgets less", title_justify="left")
    for name in COLUMNS:
        table.add_column(name)
    for row in front:
        table.add_row(*cells(row))
    return table


def record_test_access(folder: Path, found: dict[str, Any], console: Console) -> None:
    """Record an access to the test rows, and warn when the test set has been used before.

    Re-selecting after seeing test scores biases the result.
    """
    path = folder / TEST_ACCESSES
    accesses = read_json(path) if path.exists() else []
    others = sorted({str(past["trial"]) for past in accesses} - {found["trial"]})
    if others:
        say(
            console,
            f"warning: this search has used the test rows before, for {', '.join(others)}; re-selecting after seeing "
            "test scores biases the result, so report both, or use other test rows",
        )
    if not any(past["trial"] == found["trial"] for past in accesses):
        write_json(path, [*accesses, {"trial": found["trial"], "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}])


def print_estimate(experiment: Experiment, console: Console) -> None:
    """Check everything, and print trials, tokens and time; no cluster is started."""
    ensure_model(experiment, console)
    estimate.print_estimate(experiment, console)
