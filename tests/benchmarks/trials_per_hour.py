"""Trials an hour: `ialign tune` against one process a trial, both with as many at a time as there are cores.

    python tests/benchmarks/trials_per_hour.py 8 9

(8 trials of 9 steps.) Both train the same settings on the pocket model and validate them on the same rows at the same
budgets, without early stopping. The naive way starts a Python process a trial, which reads the built corpus, clears
the pools of test sentences, loads and encodes for itself; ours starts Ray and does that once. Ratios hold within one
run of this.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment, load_experiment
from ialign_ray.search.space import random_points, search_of
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.trainer import cores

HERE = Path(__file__).parents[2]
NAIVE = """
import json, sys
from pathlib import Path
import torch
from ialign_ray.config import load_experiment
from ialign_ray.search import trial_context
trial_context.PREFILLED = 0  # alone, a trial encodes what it draws and no more
torch.set_num_threads(1)
file, settings, point, folder = json.loads(sys.argv[1])
shared = trial_context.assemble(load_experiment(file, settings))
run = shared.trial(point, Path(folder), None, shared.trial_context(torch.device("cpu")))
run.report(len(shared.ends) - 1)
"""


def load(trials: int, steps: int, runs: str) -> tuple[Experiment, list[str]]:
    """The experiment of both sides, and the overrides that make it."""
    settings = [
        f"train.steps={steps}", "train.batch_size=8", "search.searcher=random", "search.scheduler=none",
        "model.tuning=lora", "search.space={replay.ratio: {choice: [0, 0.9]}, model.lora.rank: {uniform: [1, 64]}}",
        "search.confirm_seeds=[]", f"search.trials={trials}", f"search.min_budget={max(1, steps // 3)}",
        "tracking.mlflow=false",
        "train.validation={pairs: 120, instructions: 60}", f"storage.runs={runs}",
    ]  # fmt: skip
    return load_experiment(HERE / "jobs" / "experiments" / "pocket.yaml", settings), settings


def naive(points: list[dict[str, Any]], settings: list[str], folder: Path, at_a_time: int) -> float:
    """Seconds with one process a trial."""
    file = str(HERE / "jobs" / "experiments" / "pocket.yaml")

    def one(k: int) -> None:
        job = json.dumps(
            [file, [*settings, "search.space={replay.ratio: {choice: [0]}}"], points[k], str(folder / str(k))]
        )
        subprocess.run([sys.executable, "-c", NAIVE, job], check=True, stderr=subprocess.DEVNULL)

    began = time.perf_counter()
    with ThreadPoolExecutor(at_a_time) as pool:
        list(pool.map(one, range(len(points))))
    return time.perf_counter() - began


def ours(experiment: Experiment) -> tuple[float, float]:
    """Seconds of the whole search, start of Ray included, and of its trials alone."""
    from ialign_ray.search.driver import search

    began = time.perf_counter()
    folder = search(experiment, Console(quiet=True))
    whole = time.perf_counter() - began
    first = min(p.stat().st_mtime for p in folder.glob("trials/*/point.json"))
    last = max(p.stat().st_mtime for p in folder.glob("trials/*/outcomes.json"))
    return whole, last - first


def main() -> None:
    """Print the table."""
    trials, steps = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory() as scratch:
        experiment, settings = load(trials, steps, f"{scratch}/runs")
        ensure_model(experiment, Console())
        search = search_of(experiment)
        points = random_points(search.space, trials, search.seed)
        alone = naive(points, settings, Path(scratch) / "naive", cores())
        whole, trained = ours(experiment)
    print(f"{trials} trials of {steps} steps, {cores()} at a time")
    print("| | seconds | trials an hour | against naive |\n|---|---|---|---|")
    for name, seconds in (
        ("one process a trial", alone),
        ("ialign tune, Ray's start and the control included", whole),
        ("ialign tune, its trials", trained),
    ):
        print(f"| {name} | {seconds:.0f} | {3600 * trials / seconds:.0f} | {alone / seconds:.1f} |")


if __name__ == "__main__":
    main()
