"""Record an exhaustive grid of real miniature trials: what `search_efficiency.py` replays.

    python tests/benchmarks/search_grid.py docs/results/search-grid/grid.csv

Each trial is trained by the product's own code in this process (45 trials of 54 steps on the pocket model, about ten
minutes on one quiet core), without early stopping, validated at 2, 6, 18 and 54 steps. Killed, it goes on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from ialign_ray.config import load_experiment
from ialign_ray.search.actor import outcomes_of
from ialign_ray.search.driver import references
from ialign_ray.search.results import OUTCOMES, POINT, TRIALS, trials_table
from ialign_ray.search.space import check_space, grid_points, point_name
from ialign_ray.search.trial_context import SearchContext, assemble, control_folder, control_point, search_folder
from ialign_ray.storage import write_json, write_text
from ialign_ray.training.pocket import ensure_model

HERE = Path(__file__).parents[2]
SPACE = """search.space={
  replay.ratio: {grid: [0, 0.25, 0.5, 0.75, 0.9]},
  model.lora.rank: {grid: [2, 8, 32]},
  train.learning_rate: {grid: [1.0e-3, 3.0e-3, 1.0e-2]}}"""
SETTINGS = [
    SPACE, "model.tuning=lora", "train.steps=54", "search.confirm_seeds=[]",
    "search.searcher=grid", "search.scheduler=none", "search.min_budget=2", "train.batch_size=8",
    "train.validation={pairs: 120, instructions: 60}", "name=search-grid", "storage.runs=runs",
]  # fmt: skip
COLUMNS = [
    "replay.ratio", "model.lora.rank", "train.learning_rate", "budget", "step", "tokens", "gain", "gain_low",
    "gain_high", "forgetting", "forgetting_low", "forgetting_high", "gain_n", "forgetting_n", "seconds", "last",
]  # fmt: skip


def record(shared: SearchContext, console: Console) -> Path:
    """Train the control and every point; the search's folder."""
    experiment, trial_context = shared.experiment, shared.trial_context(torch.device("cpu"))
    control = shared.trial(control_point(0), control_folder(experiment, 0), None, trial_context)
    control.base_losses()
    control.report(len(shared.ends) - 1)
    known, folder, example_cache = references(shared, 0), search_folder(experiment), shared.example_cache(experiment)
    # from much replay to none: stopped early, what there is holds the settings that forget little
    points = sorted(grid_points(experiment.search.space), key=lambda p: -p["replay.ratio"])
    for k, point in enumerate(points):
        began = time.monotonic()
        trial = folder / TRIALS / point_name(point)
        outcomes = outcomes_of(
            shared.trial(point, trial, example_cache, trial_context), len(shared.ends) - 1, shared, known
        )
        write_json(trial / POINT, point)
        write_json(trial / OUTCOMES, outcomes)
        console.print(f"{k + 1} of {len(points)}: {point} {time.monotonic() - began:.0f} s", highlight=False)
    return folder


def main() -> None:
    """Record and write the CSV."""
    torch.set_num_threads(1)
    console = Console(soft_wrap=True)
    experiment = load_experiment(HERE / "jobs" / "experiments" / "pocket.yaml", [*SETTINGS, *sys.argv[2:]])
    ensure_model(experiment, console)
    check_space(experiment)
    folder = record(assemble(experiment, console), console)
    table = trials_table(folder)[COLUMNS].sort_values(COLUMNS[:4])
    write_text(Path(sys.argv[1]), table.to_csv(index=False, float_format="%.6g"))


if __name__ == "__main__":
    main()
