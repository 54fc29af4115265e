"""`ialign predict`: the answer of one model to one prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import ModelSettings
from ialign_ray.errors import ConfigError
from ialign_ray.inference.generation import generate
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.load import load_adapted
from ialign_ray.registry.reference import registry_of, resolve
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.pocket import ensure_base
from ialign_ray.training.runs import model_folder, run_experiment
from ialign_ray.workflows.promote import DEFAULT_REGISTRY


def answer(text: str, adapter: Path | None, model: str | None, max_new_tokens: int, temperature: float) -> str:
    """Return a model's answer to one prompt."""
    loaded, tokenizer, settings = open_model(adapter, model)
    form = None if adapter is None else run_experiment(model_folder(adapter)).cleaning.form
    encoder = Encoder.of_model(tokenizer, settings, seq2seq=is_encoder_decoder(loaded), form=form)
    found = generate(
        loaded,
        tokenizer,
        [encoder.prompt(text)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        ends=encoder.ends,
    )
    return found[0].text


def open_model(adapter: Path | None, model: str | None) -> tuple[Any, Any, ModelSettings]:
    """Return (model, tokenizer, settings) of an adapter's run, or of a base model by id."""
    settings, folder = model_settings(adapter, model)
    return *load_adapted(settings, folder), settings


def model_settings(adapter: Path | None, model: str | None) -> tuple[ModelSettings, Path | None]:
    """Return the settings and the folder that `load_adapted` opens; the pocket base is trained if it is missing."""
    folder = None
    if adapter is not None:
        folder = model_folder(adapter)
        settings = run_experiment(folder).model
    elif model is not None:
        settings = ModelSettings(id=model)
    else:
        raise ConfigError("predict needs a model; give --adapter RUN or --model ID")
    ensure_base(settings.id, Console(stderr=True))
    return settings, folder


def from_registry(model: str, location: str | None) -> tuple[Path | None, str | None]:
    """Return (adapter folder, None) if `--model` names a version of the registry, otherwise (None, model)."""
    registry = registry_of(model, location or DEFAULT_REGISTRY)
    if registry is None:
        return None, model
    chosen = resolve(model, registry)
    sys.stderr.write(f"ialign: {chosen}\n")
    return chosen.folder, None
