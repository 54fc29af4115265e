"""The Ray pipeline against a bare loop on tensors that are ready, and two workers against one.

    python tests/benchmarks/pipeline.py

The pocket experiment is run by `train` as a user runs it: `first` renders and encodes while it trains, `again` finds
its examples in the cache, `two workers` halves each step. `bare` is a loop in this process over the same model and the
same passes, laid out before the clock starts: no Ray, no run log, no checkpoint. Counted are the steps from the second
on, in useful tokens a second; what the first step waits for its data, while Ray starts its tasks, is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import keep
from rich.console import Console

from ialign_ray.config import Experiment, load_experiment, override
from ialign_ray.modeling.load import load_base
from ialign_ray.storage import read_json
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.tokens.batch import Batching
from ialign_ray.training.collate import lay_out
from ialign_ray.training.loop import make_optimizer
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.run_log import records
from ialign_ray.training.step import train_step
from ialign_ray.training.trainer import train

POCKET = Path(__file__).parents[2] / "jobs" / "experiments" / "pocket.yaml"
QUIET = Console(quiet=True)


def by_ray(experiment: Experiment, name: str) -> tuple[Path, dict[str, float]]:
    run = train(experiment, name, console=QUIET)
    first, *rest = records(run)
    seconds = sum(r["seconds"] for r in rest)
    return run, {
        "tokens_per_second": sum(r["tokens"] for r in rest) / seconds,
        "data_wait_share": sum(r["data_wait"] for r in rest) / seconds,
        "first_wait_seconds": first["data_wait"],
    }


def bare(experiment: Experiment, run: Path) -> float:
    """Useful tokens a second of the same steps without anything around them."""
    settings = experiment.train
    model = load_base(experiment.model).train()
    pad, optimizer = model.config.pad_token_id, make_optimizer(model, settings)
    batching = Batching(**read_json(run / "batching.json"))
    source = ExampleSource(str(run / "data"), settings.batch_size, settings.steps)
    ready = [(b, lay_out(b, batching, settings.micro_batch_tokens, pad)) for b in local_stream(source, 0)]
    tokens, seconds = 0, 0.0
    for step, (batch, passes) in enumerate(ready):
        began = time.perf_counter()
        stats = train_step(
            model, optimizer, batch, step=step, seed=0, layout=PassLayout.of(model, settings.micro_batch_tokens, pad),
            clip_norm=settings.clip_norm, device=torch.device("cpu"), passes=passes,
        )  # fmt: skip
        if step:
            tokens, seconds = tokens + stats.counts["tokens"], seconds + time.perf_counter() - began
    return tokens / seconds


def measured(steps: int, turns: int, folder: str) -> dict[str, Any]:
    common = {
        "storage.runs": folder, "train.steps": steps, "train.checkpoint_every": steps, "scaling.workers": 1,
        "tracking.mlflow": False, "tracking.tensorboard": False,
    }  # fmt: skip
    experiment = override(load_experiment(POCKET), common)
    ensure_model(experiment, QUIET)
    found: dict[str, list[dict[str, float]]] = {"first": [], "again": [], "two workers": []}
    alone = []
    for k in range(turns):
        fresh = override(experiment, {"train.seed": k})  # another seed, other examples: nothing of them is kept yet
        for name in found:
            workers = 2 if name == "two workers" else 1
            run, numbers = by_ray(override(fresh, {"scaling.workers": workers}), f"{name.replace(' ', '-')}-{k}")
            found[name].append(numbers)
            if name == "again":
                alone.append(bare(fresh, run))
    speed = {name: [n["tokens_per_second"] for n in numbers] for name, numbers in found.items()} | {"bare": alone}

    def ratio(name: str, base: str) -> float:
        return round(statistics.median(a / b for a, b in zip(speed[name], speed[base], strict=True)), 3)

    return {
        "steps": steps,
        "rounds": turns,
        "tokens_per_second": {name: round(statistics.median(s)) for name, s in speed.items()},
        "times_bare": {name: ratio(name, "bare") for name in ("first", "again")},
        "two_workers_times_one": ratio("two workers", "again"),
        "data_wait_share": {n: round(statistics.median(x["data_wait_share"] for x in v), 4) for n, v in found.items()},
        "first_wait_seconds": {
            n: round(statistics.median(x["first_wait_seconds"] for x in v), 2) for n, v in found.items()
        },
        "batching": read_json(Path(folder) / experiment.name / "again-0" / "batching.json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        keep("pipeline", measured(options.steps, options.rounds, folder))


if __name__ == "__main__":
    main()
