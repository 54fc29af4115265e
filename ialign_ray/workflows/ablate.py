"""`ialign ablate`: lists of settings, each trained with its control over seeds, in one table as in papers."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from ialign_ray.cluster.join import cluster
from ialign_ray.config import Experiment, override
from ialign_ray.config.model import DECLARED
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.report.ablation import AblationRow, write_ablation
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.trained_on import trained_on
from ialign_ray.evaluation.subjects import BASE, base_subject, run_subject
from ialign_ray.modeling.load import add_adapter, load_base
from ialign_ray.storage import is_intact, json_hash, read_json
from ialign_ray.streaming.examples import encode_example
from ialign_ray.terminal import BlockTable
from ialign_ray.training.pocket import ensure_model, train_here
from ialign_ray.training.prepare import prepare
from ialign_ray.training.run_log import records
from ialign_ray.training.runs import MODEL, RECORD, run_folder
from ialign_ray.workflows.compare import trained

_SAMPLE = 200
"""Number of examples from which the tokens per step are estimated."""
_PROBE = 6
"""Number of steps over which the time per step is measured; the first two are warm-up."""


def ablate(experiment: Experiment, console: Console) -> Path:
    """Train and score every setting; return the table's file. Finished runs and predictions are reused."""
    ensure_model(experiment, console)
    settings = plan_ablation(experiment)
    with cluster(experiment.scaling):
        for seed in experiment.ablate.seeds:  # a complete table of one seed is made before the next seed starts
            for setting in settings:
                trained(setting.seeded(seed), setting.run(seed), console, on_cluster=True)
    subjects = [base_subject(experiment)]
    subjects += [run_subject(s.seeded(seed), run_folder(experiment, s.run(seed))) for s, seed in _runs(settings)]
    known = trained_on(experiment, {s.name: s.folder.parent for s in subjects[1:]})
    found = iter(known.clear(frames) for frames in predict_models(experiment, subjects, console))
    rows = [AblationRow(BASE, None, [next(found)])]
    for s in settings:
        folders = [_folder(s, seed) for seed in experiment.ablate.seeds]
        rows.append(AblationRow(s.name, s.control, [next(found) for _ in folders], folders))
    folder = Path(experiment.storage.runs).absolute() / experiment.name
    return write_ablation(experiment, rows, folder, console, known.warnings)


def _runs(settings: Sequence[Setting]) -> Iterator[tuple[Setting, int]]:
    return ((setting, seed) for setting in settings for seed in setting.experiment.ablate.seeds)


@dataclass(frozen=True)
class RunCost:
    """Cost of one run of a setting."""

    setting: Setting
    tokens: int
    """Target and prompt tokens, estimated from a sample."""
    finished: int
    """Seeds that are finished."""


def print_estimate(experiment: Experiment, console: Console) -> None:
    """Print every run with its steps, tokens and estimated time; train only a few steps to time one.

    The time is that of finished runs, or otherwise of a few steps on one thread of this machine, without Ray: an upper
    bound if workers share a step.
    """
    ensure_model(experiment, console)
    settings, seeds = plan_ablation(experiment), experiment.ablate.seeds
    costs = [_cost(setting) for setting in settings]
    seconds, how = _seconds_per_token(settings, costs)
    rows = []
    for cost in costs:
        left = len(seeds) - cost.finished
        steps, tokens = f"{cost.setting.experiment.train.steps:,}", f"{cost.tokens:,}"
        words = (cost.setting.name, cost.setting.control or "")
        rows.append((*words, steps, tokens, str(left), _time(left * cost.tokens * seconds)))
    console.print(
        BlockTable(("setting", "measured against", "steps", "tokens per run", "runs left", "time left"), rows)
    )
    total = sum((len(seeds) - cost.finished) * cost.tokens for cost in costs)
    console.print(
        f"{len(settings)} settings x {len(seeds)} seeds; {total:,} tokens left to train on, about "
        f"{_time(total * seconds)} ({how}), and starting and scoring each run",
        highlight=False,
        soft_wrap=True,
    )


def _cost(setting: Setting) -> RunCost:
    prepared = prepare(setting.experiment)
    lengths = [
        len(e.prompt) + len(e.target)
        for e in (encode_example(prepared.plan, prepared.encoder, i) for i in range(_SAMPLE))
    ]
    train = setting.experiment.train
    done = [seed for seed in setting.experiment.ablate.seeds if is_intact(_folder(setting, seed) / MODEL)]
    return RunCost(setting, round(float(np.mean(lengths)) * train.batch_size * train.steps), len(done))


def _folder(setting: Setting, seed: int) -> Path:
    return run_folder(setting.experiment, setting.run(seed))


def _seconds_per_token(settings: Sequence[Setting], costs: Sequence[RunCost]) -> tuple[float, str]:
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
    """Seconds per step, in this process."""
    short = override(experiment, {"train.steps": _PROBE, "train.checkpoint_every": _PROBE})
    prepared = prepare(short)
    model = load_base(short.model)
    if short.model.tuning == "lora":
        model = add_adapter(model, short.model.lora, short.train.seed)
    with tempfile.TemporaryDirectory() as scratch:
        train_here(model, prepared.plan, prepared.encoder, short.train, Path(scratch), lambda step: None)
        # without the two steps that warm up
        return float(median(record["seconds"] for record in records(Path(scratch))[2:]))


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


REFERENCE, CONTROL = "reference", "control"
_OF_ALIGNMENT = ("tasks.", "corpora.", "replay.ratio")
"""Fields without effect if every example is replay: controls that differ only in these are one run."""


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    name: str
    """Its changes as text; `reference` for the values of the file, `control` if everything is replay."""
    changes: dict[str, Any]
    """Dotted fields -> values."""
    experiment: Experiment
    """The file with the changes."""
    control: str | None
    """The setting of equal compute without parallel text that it is compared with; None for a control."""

    def run(self, seed: int) -> str:
        """Folder name of its run with a seed."""
        plain = re.sub(r"[^\w.]+", "-", self.name).strip("-")[:60]
        unique = "" if self.name in (REFERENCE, CONTROL) else f"-{json_hash(self.changes)[:6]}"
        return f"{plain}{unique}-s{seed}"

    def seeded(self, seed: int) -> Experiment:
        """The experiment of its run with a seed."""
        return override(self.experiment, {"train.seed": seed})


def plan_ablation(experiment: Experiment) -> list[Setting]:
    """Every setting of `ablate`, controls first; equivalent settings are merged.

    Raises ConfigError for no axes, and for a value that its field does not take, before anything is trained.
    """
    if not experiment.ablate.axes:
        raise ConfigError("ablate.axes is empty; name fields and values, e.g. {replay.ratio: [0, 0.1, 0.5]}")
    controls: dict[str, Setting] = {}
    settings: dict[str, Setting] = {}
    for changes in _combinations(experiment):
        control = _control(experiment, changes)
        controls.setdefault(_content(control.experiment), control)
        name = controls[_content(control.experiment)].name
        made = Setting(_name(changes), changes, override(experiment, changes), name)
        # a replay-only setting is a control already
        if _content(made.experiment) not in controls and made.experiment.replay.ratio < 1:
            settings.setdefault(_content(made.experiment), made)
    return [*controls.values(), *settings.values()]


def _combinations(experiment: Experiment) -> Iterator[dict[str, Any]]:
    axes = experiment.ablate.axes
    if not experiment.ablate.one_at_a_time:
        yield from (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))
        return
    yield {}
    yield from ({field: value} for field, values in axes.items() for value in values)


def _control(experiment: Experiment, changes: Mapping[str, Any]) -> Setting:
    # these fields do not affect controls, so settings that differ in them share one
    kept = {field: value for field, value in changes.items() if not field.startswith(_OF_ALIGNMENT)}
    made = {**kept, "replay.ratio": 1.0}
    name = f"{CONTROL} ({_name(kept)})" if _content(override(experiment, kept)) != _content(experiment) else CONTROL
    return Setting(name, made, override(experiment, made), None)


def _name(changes: Mapping[str, Any]) -> str:
    if not changes:
        return REFERENCE
    return ", ".join(f"{field}={_value(value)}" for field, value in changes.items())


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _content(experiment: Experiment) -> str:
    """Key that is equal for experiments that train the same weights, except for the seed."""
    return json_hash(
        experiment.model_dump(mode="json", include={"model", "corpora", "replay", "tasks", "train"}, exclude=DECLARED)
    )
