"""After the search: the winner is evaluated once on the test rows, with base and control, and the page is written."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.errors import ModelError
from ialign_ray.evaluation.subjects import BASE, base_subject, run_subject
from ialign_ray.search import estimate
from ialign_ray.search.driver import by_stored_rule, search
from ialign_ray.search.objective import SHOWN
from ialign_ray.search.page import write_page
from ialign_ray.search.progress import COLUMNS, cells
from ialign_ray.search.results import PARETO_FRONT, POINT, TRIALS, WINNER, is_chosen
from ialign_ray.search.space import search_of
from ialign_ray.search.trial_context import (
    confirmation_folder,
    confirming_seeds,
    control_of_trial,
    own_control_folder,
    search_folder,
    with_seed,
)
from ialign_ray.storage import alone, is_intact, read_json, write_json
from ialign_ray.terminal import BlockTable, say
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.runs import MODEL
from ialign_ray.workflows.evaluate import judge

TEST_ACCESSES, PAGE, DEFAULT = "test-looks.json", "search.html", "default-control"


def tune(experiment: Experiment, *, resume: bool = False, console: Console | None = None) -> Path:
    """Search, choose, evaluate on the test suites; return the winner's run folder.

    Raises IalignError with one sentence; ModelError if no trial spent its full budget or is shown to be feasible,
    ConfigError if another process searches in the same folder.
    """
    console = console or Console()
    ensure_model(experiment, console)
    with alone(search_folder(experiment), "`ialign tune`"):
        return _tune(experiment, console, resume)


def _tune(experiment: Experiment, console: Console, resume: bool) -> Path:
    folder = search(experiment, console, resume=resume)
    experiment = by_stored_rule(experiment, folder)
    page = write_page(folder, search_of(experiment), folder / PAGE)
    if not (folder / WINNER).exists():
        raise ModelError(f"no trial of {folder} spent its whole budget; raise search.trials, or see {page}")
    console.print(pareto_table(read_json(folder / PARETO_FRONT)))
    found = read_json(folder / WINNER)
    settings = ", ".join(f"{k} {v}" for k, v in found["point"].items())
    chosen = is_chosen(found)
    say(console, f"\n{'Winner' if chosen else 'Nearest'}: {settings}\n{found['why'][0].upper()}{found['why'][1:]}.")
    run = folder / TRIALS / str(found["trial"])
    if not chosen:
        raise ModelError(
            f"no trial is feasible (search.feasible: {SHOWN}), nearest {found['trial']}: forgetting up to "
            f"{found['forgetting_high']:+.3f} nats per token, search.tolerance {found['tolerance']:g}; nothing is "
            "promoted and no test row was used; raise search.tolerance or train.validation.instructions, or search "
            f"other settings, see {page}"
        )
    if experiment.evaluate.suites:
        record_test_access(folder, found, console)
        judge_winner(experiment, run, console)
    say(console, f"\nPage:   {page}\nModel:  {run / 'model'}")
    return run


def winner_control(experiment: Experiment, run: Path) -> Path:
    """The control with a winner's rate and rank; the default one in older searches, which did not train it."""
    point = read_json(run / POINT)
    own = own_control_folder(experiment, point)
    return own if is_intact(own / MODEL) else control_of_trial(experiment, point)


def judge_winner(experiment: Experiment, run: Path, console: Console) -> None:
    """Score the winner once against the control with its settings, and against the default one.

    Winner and control of each confirming seed are judged with them.
    """
    point = read_json(run / POINT)
    own, default = winner_control(experiment, run), control_of_trial(experiment, point)
    again = [with_seed(point, seed) for seed in confirming_seeds(experiment, point)]
    seeds = {
        "control": [own, *(own_control_folder(experiment, other) for other in again)],
        run.name: [run, *(confirmation_folder(experiment, other) for other in again)],
    }
    _judge(experiment, seeds, run / "evaluation", console)
    if own != default:
        say(console, "\nAgainst the control of default settings:")
        _judge(experiment, {"control": [default], run.name: [run]}, run / "evaluation" / DEFAULT, console)


def _judge(experiment: Experiment, runs: Mapping[str, Sequence[Path]], folder: Path, console: Console) -> None:
    subjects = {
        name: [
            replace(run_subject(experiment, each), name=f"{name}-{k}" if k else name) for k, each in enumerate(seeds)
        ]
        for name, seeds in runs.items()
    }
    judge(experiment, {BASE: [base_subject(experiment)]} | subjects, folder, console)


def pareto_table(front: list[dict[str, Any]]) -> BlockTable:
    """Return the Pareto front: the finished trials that none beats in both gain and forgetting."""
    return BlockTable(COLUMNS, [cells(row) for row in front], "Pareto front: no trial gains more and forgets less")


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
