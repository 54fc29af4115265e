"""`ialign compare`: base, control and arms over seeds, trained, scored and judged side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from ialign_ray.cluster import cluster
from ialign_ray.config import Experiment, override
from ialign_ray.evaluation.predict import Scorer, predict_suites
from ialign_ray.evaluation.report import report
from ialign_ray.evaluation.verdict import Statement
from ialign_ray.modeling.kind import is_encoder_decoder
from ialign_ray.modeling.load import load_adapted, model_location
from ialign_ray.storage import json_hash, read_json
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.trainer import MODEL, RECORD, align, run_folder

BASE, PREDICTIONS = "base", "predictions"


def compare(experiment: Experiment, console: Console) -> list[Statement]:
    """Train every arm with every seed, score all of them and the base, print and write table and verdict.

    Finished runs and predictions are kept, so an interrupted comparison goes on where it stopped.
    """
    runs: dict[str, Path] = {}
    variants = arms(experiment)
    with cluster(experiment.scaling):
        for name, variant in variants.items():
            runs[name] = align(variant, name, resume=True, console=console)
    predictions: dict[str, list[dict[str, pd.DataFrame]]] = {BASE: [predict_base(experiment, console)]}
    for arm in experiment.compare.arms:
        predictions[arm] = [
            predict_run(experiment, runs[run_name(arm, seed)], console) for seed in experiment.compare.seeds
        ]
    folder = Path(experiment.storage.runs).absolute() / experiment.name
    return report(experiment, predictions, folder, console)


def arms(experiment: Experiment) -> dict[str, Experiment]:
    """Run name -> the experiment with that arm's overrides and seed."""
    return {
        run_name(arm, seed): override(experiment, {**changes, "train.seed": seed})
        for arm, changes in experiment.compare.arms.items()
        for seed in experiment.compare.seeds
    }


def run_name(arm: str, seed: int) -> str:
    """Folder name of an arm's run."""
    return f"{arm}-s{seed}"


def predict_base(experiment: Experiment, console: Console) -> dict[str, pd.DataFrame]:
    """Predictions of the untouched base model."""
    folder, key = run_folder(experiment, BASE) / PREDICTIONS, base_key(experiment)
    return predict_suites(experiment, lambda: open_scorer(experiment, None), folder, key, console)


def base_key(experiment: Experiment) -> str:
    """What the base's scores depend on: prompt format and precision, but neither tuning nor new pieces."""
    settings = experiment.model.model_dump(exclude={"tuning", "lora", "vocabulary"})
    return json_hash([settings, model_location(experiment.model.id)])


def predict_run(experiment: Experiment, run: Path, console: Console) -> dict[str, pd.DataFrame]:
    """Predictions of a finished run."""
    folder, key = run / PREDICTIONS, run_key(experiment, run)
    return predict_suites(experiment, lambda: open_scorer(experiment, run / MODEL), folder, key, console)


def run_key(experiment: Experiment, run: Path) -> str:
    """What a finished run's scores depend on."""
    record = read_json(run / MODEL / RECORD)
    return json_hash([experiment.model.id, record["fingerprint"], record["finished"]])


def open_scorer(experiment: Experiment, folder: Path | None) -> Scorer:
    """The base (None) or an adapted model, ready to score."""
    import torch

    model, tokenizer = load_adapted(experiment.model, folder)
    if torch.cuda.is_available():
        model.to("cuda")
    chat, separator = experiment.model.chat, experiment.model.separator
    encoder = Encoder.of(tokenizer, chat, separator, seq2seq=is_encoder_decoder(model))
    return Scorer(model, encoder, experiment.evaluate.batch_tokens)


def evaluate(experiment: Experiment, runs: Sequence[Path], control: Path | None, console: Console) -> list[Statement]:
    """Score finished runs beside the base and, when given, the replay-only control."""
    predictions = {BASE: [predict_base(experiment, console)]}
    if control:
        predictions["control"] = [predict_run(experiment, control, console)]
    for run in runs:
        predictions[run.name] = [predict_run(experiment, run, console)]
    return report(experiment, predictions, runs[0] / "evaluation", console)
