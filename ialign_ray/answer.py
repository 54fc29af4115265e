"""Looking at a model's answer, and handing a model on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment, ModelSettings, load_experiment
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.modeling.kind import is_encoder_decoder
from ialign_ray.modeling.load import load_adapted, merge
from ialign_ray.storage import MANIFEST, is_intact, whole_folder
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.trainer import MODEL


def answer(text: str, adapter: Path | None, model: str | None, max_new_tokens: int, temperature: float) -> str:
    """A model's answer to one request."""
    from ialign_ray.inference.generation import generate

    loaded, tokenizer, settings = open_model(adapter, model)
    encoder = Encoder.of(tokenizer, settings.chat, settings.separator, seq2seq=is_encoder_decoder(loaded))
    prompt = encoder.prompt(text)
    return generate(loaded, tokenizer, [prompt], max_new_tokens=max_new_tokens, temperature=temperature)[0]


def open_model(adapter: Path | None, model: str | None) -> tuple[Any, Any, ModelSettings]:
    """(model, tokenizer, settings) of an adapter's run, or of a base model by id."""
    if adapter is not None:
        folder = model_folder(adapter)
        settings = run_experiment(folder).model
        return *load_adapted(settings, folder), settings
    if model is None:
        raise ConfigError("predict needs a model; give --adapter RUN or --model ID")
    settings = ModelSettings(id=model)
    return *load_adapted(settings, None), settings


def model_folder(path: Path) -> Path:
    """The model folder of a run, or the folder itself if it is one."""
    for folder in (path / MODEL, path):
        if (folder / "experiment.yaml").exists() and (folder / MANIFEST).exists():
            if not is_intact(folder):
                raise ModelError(f"{folder} does not match its hashes in {MANIFEST}; train or copy it again")
            return folder
    raise ModelError(f"{path} holds no finished model; name a run folder of `ialign align`")


def run_experiment(folder: Path) -> Experiment:
    """The resolved experiment that lies beside a model."""
    return load_experiment(folder / "experiment.yaml")


def export_model(run: Path, to: Path | None, merged: bool) -> Path:
    """Copy the adapter, or write the merged model, to a folder of its own."""
    folder = model_folder(run)
    target = (to or run / ("merged" if merged else "exported")).absolute()
    if target.exists():
        raise ConfigError(f"{target} exists already; remove it or choose another folder with --to")
    with whole_folder(target) as scratch:
        if not merged:
            shutil.copytree(folder, scratch, dirs_exist_ok=True)
            (scratch / MANIFEST).unlink()
            return target
        # of a quantised base only the full weights can take up the adapter
        settings = run_experiment(folder).model.model_copy(update={"quantization": None})
        model, tokenizer = load_adapted(settings, folder)
        merge(model).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for name in ("README.md", "experiment.yaml", "record.json"):
            shutil.copy(folder / name, scratch / name)
    return target
