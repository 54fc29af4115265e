"""Subjects of an evaluation: the base model and finished runs, each with the key of its predictions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.fingerprint import base_identity, run_identity
from ialign_ray.modeling.load import load_adapted
from ialign_ray.storage import json_hash
from ialign_ray.tokens.cache import VERSION as ENCODING
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.runs import MODEL, run_folder

BASE, PREDICTIONS = "base", "predictions"


def run_name(arm: str, seed: int) -> str:
    """Folder name of an arm's run."""
    return f"{arm}-s{seed}"


def base_subject(experiment: Experiment) -> Subject:
    """The untrained base model."""
    folder = run_folder(experiment, BASE) / PREDICTIONS
    return Subject(BASE, json_hash(_scored_as(experiment)), folder, partial(open_scorer, experiment, None))


def run_subject(experiment: Experiment, run: Path) -> Subject:
    """A finished run."""
    key = json_hash([*_scored_as(experiment), run_identity(run / MODEL)])
    return Subject(run.name, key, run / PREDICTIONS, partial(open_scorer, experiment, run / MODEL))


def _scored_as(experiment: Experiment) -> list[Any]:
    # tuning and new pieces do not affect the base; prompt format and precision do
    apart = {"id", "revision", "tuning", "lora", "vocabulary", "trained_on"}
    settings = experiment.model.model_dump(mode="json", exclude=apart)
    return [settings, ENCODING, experiment.cleaning.form, base_identity(experiment.model)]


def open_scorer(experiment: Experiment, folder: Path | None) -> Scorer:
    """Open the base (None) or an adapted model for scoring."""
    import torch

    model, tokenizer = load_adapted(experiment.model, folder)
    if torch.cuda.is_available():
        model.to("cuda")
    form = experiment.cleaning.form
    encoder = Encoder.of_model(tokenizer, experiment.model, seq2seq=is_encoder_decoder(model), form=form)
    return Scorer(model, encoder, experiment.evaluate.batch_tokens)
