"""Looking at a model's answer, and handing a model on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment, ModelSettings
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.load import load_adapted, merge, save_model
from ialign_ray.storage import MANIFEST, is_intact, whole_folder
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.checkpoint import read_weights
from ialign_ray.training.runs import model_folder, run_experiment, untrained_model


def answer(text: str, adapter: Path | None, model: str | None, max_new_tokens: int, temperature: float) -> str:
    """A model's answer to one request."""
    from ialign_ray.inference.generation import generate

    loaded, tokenizer, settings = open_model(adapter, model)
    encoder = Encoder.of(tokenizer, settings.chat, settings.separator, seq2seq=is_encoder_decoder(loaded))
    prompt = encoder.prompt(text)
    return generate(loaded, tokenizer, [prompt], max_new_tokens=max_new_tokens, temperature=temperature)[0].text


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


def export_model(run: Path, to: Path | None, merged: bool, checkpoint: str | None = None) -> Path:
    """Copy the adapter, or write the merged model, to a folder of its own; of a checkpoint where one is named."""
    name = "merged" if merged else "exported"
    target = (to or run / (f"{checkpoint}-{name}" if checkpoint else name)).absolute()
    if target.exists():
        raise ConfigError(f"{target} exists already; remove it or choose another folder with --to")
    if checkpoint:
        return _export_checkpoint(run, checkpoint, target, merged)
    folder = model_folder(run)
    with whole_folder(target) as scratch:
        if not merged:
            shutil.copytree(folder, scratch, dirs_exist_ok=True)
            (scratch / MANIFEST).unlink()
            return target
        model, tokenizer = load_adapted(_unquantized(run_experiment(folder)).model, folder)
        merge(model).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for name in ("README.md", "experiment.yaml", "record.json"):
            shutil.copy(folder / name, scratch / name)
    return target


def _export_checkpoint(run: Path, checkpoint: str, target: Path, merged: bool) -> Path:
    """The same of a run that is not finished, or of an earlier step; one process reads what any number wrote."""
    source = run / "checkpoints" / checkpoint
    if not is_intact(source):
        kept = ", ".join(sorted(p.name for p in source.parent.glob("step-*") if is_intact(p))) or "none"
        raise ModelError(f"{source} is no intact checkpoint; those of this run are: {kept}")
    experiment = run_experiment(run)
    model, tokenizer = untrained_model(_unquantized(experiment) if merged else experiment, run)
    read_weights(source, model)
    with whole_folder(target) as scratch:
        save_model(merge(model) if merged else model, scratch)
        tokenizer.save_pretrained(scratch)
        shutil.copy(run / "experiment.yaml", scratch)
    return target


def _unquantized(experiment: Experiment) -> Experiment:
    """With full weights, which alone can take up an adapter."""
    model = experiment.model.model_copy(update={"quantization": None})
    return experiment.model_copy(update={"model": model})
