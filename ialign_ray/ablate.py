"""`ialign ablate`: lists of settings, each trained with its control over seeds, in the papers' one table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from ialign_ray.ablation_plan import Setting, plan_ablation
from ialign_ray.cluster import cluster
from ialign_ray.compare import BASE, base_subject, run_subject
from ialign_ray.config import Experiment, override
from ialign_ray.evaluation.ablation import Row, write_ablation
from ialign_ray.evaluation.predict import predict_models
from ialign_ray.modeling.load import add_adapter, load_base
from ialign_ray.storage import is_intact, read_json
from ialign_ray.streaming import encode_example
from ialign_ray.training.history import records
from ialign_ray.training.prepare import prepare
from ialign_ray.training.scratch import train_here
from ialign_ray.training.trainer import MODEL, RECORD, align, run_folder

_SAMPLE = 200
"""Examples that tokens a step are estimated from."""
_PROBE = 6
"""Steps that the time of one is measured over; the first two warm up."""


def ablate(experiment: Experiment, console: Console) -> Path:
    """Train and score every setting; returns the table's file. Finished runs and predictions are kept."""
    settings = plan_ablation(experiment)
    with cluster(experiment.scaling):
        for seed in experiment.ablate.seeds:  # a whole table of one seed comes before the next seed begins
            for setting in settings:
                align(setting.seeded(seed), setting.run(seed), resume=True, console=console)
    subjects = [base_subject(experiment)]
    subjects += [run_subject(s.seeded(seed), run_folder(experiment, s.run(seed))) for s, seed in _runs(settings)]
    found = iter(predict_models(experiment, subjects, console))
    rows = [Row(BASE, None, [next(found)])]
    for s in settings:
        folders = [_folder(s, seed) for seed in experiment.ablate.seeds]
        rows.append(Row(s.name, s.control, [next(found) for _ in folders], folders))
    return write_ablation(experiment, rows, Path(experiment.storage.runs).absolute() / experiment.name, console)


def _runs(settings: Sequence[Setting]) -> Iterator[tuple[Setting, int]]:
    return ((setting, seed) for setting in settings for seed in setting.experiment.ablate.seeds)


@dataclass(frozen=True)
class Cost:
    """What one run of a setting takes."""

    setting: Setting
    tokens: int
    """Target and prompt tokens, estimated from a sample."""
    finished: int
    """Seeds that are done."""


def dry_run(experiment: Experiment, console: Console) -> None:
    """Print every run with its steps, tokens and an estimate of the time; trains nothing but a few steps to time one.

    The time is that of the runs that are finished, or else of a few steps on one thread of this machine, without
    Ray: an upper bound where workers share a step.
    """
    settings, seeds = plan_ablation(experiment), experiment.ablate.seeds
    costs = [_cost(setting) for setting in settings]
    seconds, how = _seconds_per_token(settings, costs)
    table = Table("setting", "measured against", "steps", "tokens a run", "runs left", "time left")
    for cost in costs:
        left = len(seeds) - cost.finished
        name, against = cost.setting.name.replace("[", r"\["), (cost.setting.control or "").replace("[", r"\[")
        steps = cost.setting.experiment.train.steps
        table.add_row(name, against, f"{steps:,}", f"{cost.tokens:,}", str(left), _time(left * cost.tokens * seconds))
    console.print(table)
    total = sum((len(seeds) - cost.finished) * cost.tokens for cost in costs)
    console.print(
        f"{len(settings)} settings x {len(seeds)} seeds; {total:,} tokens left to train on, about "
        f"{_time(total * seconds)} ({how}), and starting and scoring each run",
        highlight=False,
        soft_wrap=True,
    )


def _cost(setting: Setting) -> Cost:
    prepared = prepare(setting.experiment)
    lengths = [
        len(e.prompt) + len(e.target)
        for e in (encode_example(prepared.plan, prepared.encoder, i) for i in range(_SAMPLE))
    ]
    train = setting.experiment.train
    done = [seed for seed in setting.experiment.ablate.seeds if is_intact(_folder(setting, seed) / MODEL)]
    return Cost(setting, round(float(np.mean(lengths)) * train.batch_size * train.steps), len(done))


def _folder(setting: Setting, seed: int) -> Path:
    return run_folder(setting.experiment, setting.run(seed))


def _seconds_per_token(settings: Sequence[Setting], costs: Sequence[Cost]) -> tuple[float, str]:
    known = []
    for setting, cost in zip(settings, costs, strict=True):
        for seed in setting.experiment.ablate.seeds:
            record = _folder(setting, seed) / RECORD
            if is_intact(record.parent / MODEL) and "wall_seconds" in (told := read_json(record)):
                known.append(told["wall_seconds"] / cost.tokens)
    if known:
        return median(known), f"as {len(known)} finished runs took"
    train = settings[-1].experiment.train
    per_step = costs[-1].tokens / train.steps
    return _probe(settings[-1].experiment) / per_step, f"by {_PROBE - 2} steps on one thread"


def _probe(experiment: Experiment) -> float:
    """Seconds a step, in this process."""
    short = override(experiment, {"train.steps": _PROBE, "train.checkpoint_every": _PROBE})
    prepared = prepare(short)
    model = load_base(short.model)
    if short.model.tuning == "lora":
        model = add_adapter(model, short.model.lora, short.train.seed)
    with tempfile.TemporaryDirectory() as scratch:
        train_here(model, prepared.plan, prepared.encoder, short.train, Path(scratch), lambda step: None)
        return float(median(record["seconds"] for record in records(Path(scratch))[2:]))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
