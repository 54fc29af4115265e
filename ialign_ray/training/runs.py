"""A run's folder: its location and contents, and how it is written."""

from __future__ import annotations

import platform
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment, TrainConfig, dump_yaml, load_experiment
from ialign_ray.errors import ModelError
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.load import save_model
from ialign_ray.storage import MANIFEST, is_intact, read_json, whole_folder, write_json, write_text
from ialign_ray.training.batch_size import BATCHING
from ialign_ray.training.card import model_card
from ialign_ray.training.full_disk import CURE, writing
from ialign_ray.training.objective import objective_of
from ialign_ray.training.prepare import Prepared
from ialign_ray.training.run_log import ENDING, ledger, records
from ialign_ray.version import __version__

MODEL, RECORD, FAILURE = "model", "record.json", "failure.json"


def run_folder(experiment: Experiment, name: str) -> Path:
    """Folder of a run of this experiment."""
    return Path(experiment.storage.runs).absolute() / experiment.name / name


def finished_run(folder: Path | str) -> Path:
    """The run folder of a run or of its model folder. Raises ModelError if the run is not finished."""
    folder = Path(folder).absolute()
    run = folder.parent if folder.name == MODEL else folder
    if not is_intact(run / MODEL):
        raise ModelError(f"{run} has no finished model; run `ialign align ... --resume` first, or name another run")
    return run


def untrained_model(experiment: Experiment, run: Path) -> tuple[Any, Any]:
    """Return (model, tokenizer) of a run before its first step, with rows for new pieces and the adapter."""
    from ialign_ray.modeling.load import add_adapter, load_base, load_tokenizer
    from ialign_ray.modeling.vocabulary import extend_embeddings

    tokenizer = load_tokenizer(experiment.model, str(run / "data" / "tokenizer"))
    model = load_base(experiment.model)
    extended = experiment.model.vocabulary is not None
    rows = extend_embeddings(model, load_tokenizer(experiment.model), tokenizer) if extended else []
    if experiment.model.tuning == "lora":
        model = add_adapter(model, experiment.model.lora, experiment.train.seed, rows)
    return model, tokenizer


def save_run(
    experiment: Experiment, run: Path, model: Any, tokenizer: Any, weights: dict[str, Any] | None = None
) -> None:
    """Write adapter (or full model), tokenizer, settings, record and card atomically as one folder.

    `weights` are the gathered ones of a sharded model. Raises CheckpointError if the disk is full.
    """

    ended = {"ending": read_json(run / ENDING), "drawn": drawn_summary(run, experiment.train), "finished": _now()}
    if (run / BATCHING).exists():  # equal weights need an equal order of summation
        ended["batching"] = read_json(run / BATCHING)
    record = read_json(run / RECORD) | ended
    with writing(run / MODEL, CURE), whole_folder(run / MODEL) as scratch:
        save_model(model, scratch, weights)
        tokenizer.save_pretrained(scratch)
        write_text(scratch / "experiment.yaml", dump_yaml(experiment))
        write_json(scratch / RECORD, record)
        write_text(scratch / "README.md", model_card(experiment, record, seq2seq=is_encoder_decoder(model)))


def start_record(experiment: Experiment, name: str, prepared: Prepared, fingerprint: str) -> dict[str, Any]:
    """Record written before the first step: data counts, fingerprint, versions."""
    known = {"python": platform.python_version(), "ialign_ray": __version__}
    return {
        "run": name,
        "experiment": experiment.name,
        "started": _now(),
        "fingerprint": fingerprint,
        "data": prepared.counts(),
        "versions": known | {p: version(p) for p in ("torch", "transformers", "peft", "ray")},
    }


def drawn_summary(run: Path, settings: TrainConfig) -> dict[str, Any]:
    """Summary of the ledger: examples by source, their share of the loss, distinct replay rows, epochs, tokens."""
    rows = ledger(run).to_pydict()
    by_source = Counter(rows["source"])
    tokens: Counter[str] = Counter()
    for step in records(run):
        tokens.update({source: n for source, (_, n) in step["sources"].items()})
    replay = {r for r, task in zip(rows["row_id"], rows["task"], strict=True) if task == "replay"}
    return {
        "examples": len(rows["row_id"]),
        "tokens": sum(rows["tokens"]),
        "by_source": dict(sorted(by_source.items())),
        "loss_share": {k: round(v, 4) for k, v in objective_of(settings).shares(by_source, tokens).items()},
        "replay_share": round(rows["task"].count("replay") / max(1, len(rows["task"])), 4),
        "distinct_replay": len(replay),
        "epochs": max(rows["epoch"], default=-1) + 1,
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def model_folder(path: Path) -> Path:
    """The model folder of a run, or the folder itself if it is one."""
    for folder in (path / MODEL, path):
        if (folder / "experiment.yaml").exists() and (folder / MANIFEST).exists():
            if not is_intact(folder):
                raise ModelError(f"{folder} does not match its hashes in {MANIFEST}; train or copy it again")
            return folder
    raise ModelError(f"{path} contains no finished model; name a run folder of `ialign align`")


def run_experiment(folder: Path) -> Experiment:
    """Load the resolved experiment in a model's folder."""
    return load_experiment(folder / "experiment.yaml", stored=True)
