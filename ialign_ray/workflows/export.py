"""`ialign export`: an adapter or merged model in a separate folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from ialign_ray.config import Experiment
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.evaluation.report.inputs import load_material
from ialign_ray.modeling.load import load_adapted, merge, save_model
from ialign_ray.storage import MANIFEST, is_intact, whole_folder
from ialign_ray.training.checkpoint import read_weights
from ialign_ray.training.runs import model_folder, run_experiment, untrained_model


def export_model(run: Path, to: Path | None, merged: bool, checkpoint: str | None = None) -> Path:
    """Copy the adapter, or write the merged model, to a separate folder; from a checkpoint if one is named."""
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
            _add_scores(run, scratch)
            return target
        model, tokenizer = load_adapted(_unquantized(run_experiment(folder)).model, folder)
        merge(model).save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        for name in ("README.md", "experiment.yaml", "record.json"):
            shutil.copy(folder / name, scratch / name)
        _add_scores(run, scratch)
    return target


def _add_scores(run: Path, exported: Path) -> None:
    """Add the scores of `ialign evaluate` to the card, if the run has some."""
    scores = run / "evaluation" / "results.parquet"
    if scores.exists():
        from ialign_ray.evaluation.report.card_scores import add_scores

        evaluated = load_material(run / "evaluation").experiment
        add_scores(exported / "README.md", pd.read_parquet(scores), evaluated, run.name)


def _export_checkpoint(run: Path, checkpoint: str, target: Path, merged: bool) -> Path:
    """Export from a checkpoint, of an unfinished run or an earlier step; one process reads the shards of any number."""
    source = run / "checkpoints" / checkpoint
    if not is_intact(source):
        kept = ", ".join(sorted(p.name for p in source.parent.glob("step-*") if is_intact(p))) or "none"
        raise ModelError(f"{source} is not an intact checkpoint; those of this run are: {kept}")
    experiment = run_experiment(run)
    model, tokenizer = untrained_model(_unquantized(experiment) if merged else experiment, run)
    read_weights(source, model)
    with whole_folder(target) as scratch:
        save_model(merge(model) if merged else model, scratch)
        tokenizer.save_pretrained(scratch)
        shutil.copy(run / "experiment.yaml", scratch)
    return target


def _unquantized(experiment: Experiment) -> Experiment:
    """The experiment with unquantised weights, since only those can be merged with an adapter."""
    model = experiment.model.model_copy(update={"quantization": None})
    return experiment.model_copy(update={"model": model})
