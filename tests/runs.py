"""Finished, evaluated runs without training: a real adapter in a run folder, and predictions of a chosen strength."""

from io import StringIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from tiny_corpus import sentences

from ialign_ray.compare import BASE, PREDICTIONS, base_key, run_key
from ialign_ray.config import build_experiment, override
from ialign_ray.evaluation.predict import predict_suites
from ialign_ray.evaluation.suites import classification_rows
from ialign_ray.modeling.load import add_adapter, load_base, load_tokenizer
from ialign_ray.storage import write_json
from ialign_ray.training.trainer import MODEL, RECORD, run_folder, save_run

SENTENCES = 240
STRENGTHS = {
    "weak": {"eng": 1.0, "ind": 0.4, "jav": 0.4},
    "good": {"eng": 1.0, "ind": 0.9, "jav": 0.9},
    "best": {"eng": 1.4, "ind": 1.6, "jav": 1.6},
    "forgetful": {"eng": 0.0, "ind": 1.6, "jav": 1.6},
}
WEAK, GOOD, BEST, FORGETFUL = range(1, 5)
"""Versions of the registered model `mine` of the fixture `library`."""


def small_experiment(tmp_path, model):
    """English old, Indonesian and Javanese new; a suite of 120 test sentences."""
    rows = [
        {**row, "label": ("bad", "good")[k % 2], "split": ("train", "test")[k // 2 % 2]}
        for k, row in enumerate(sentences(SENTENCES))
    ]
    if not (tmp_path / "suite.parquet").exists():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "suite.parquet")
    return build_experiment(
        {
            "name": "small",
            "languages": {"l1": ["eng"], "l2": ["ind", "jav"]},
            "model": {"id": str(model), "lora": {"rank": 2}},
            "corpora": [{"name": "c", "path": "suite.parquet", "columns": {"eng": "eng", "ind": "ind", "jav": "jav"}}],
            "evaluate": {"suites": [suite("mood")], "resamples": 200, "tolerance": 0.05, "scorer": "sum"},
            "storage": {"data": str(tmp_path), "runs": str(tmp_path / "runs")},
            "train": {"steps": 3},
        },
        "test",
    )


def suite(name):
    return {
        "kind": "classification",
        "name": name,
        "path": "suite.parquet",
        "columns": {"eng": "eng", "ind": "ind", "jav": "jav"},
        "id": "sid",
        "labels": {"bad": {"eng": "bad"}, "good": {"eng": "good"}},
        "prompts": [{"name": "plain", "text": "{text}\nGood or bad?"}],
    }


class Chosen:
    """Scores labels as a model of a chosen strength by language would; 0 is chance."""

    def __init__(self, strength, noise=0):
        self.strength, self.noise = strength, noise

    def classify(self, suite, base, tick):
        rows = classification_rows(suite, base).test
        made = rows.drop(columns="text").assign(prompt=suite.prompts[0].name)
        # sentences have a difficulty of their own, so that runs are paired as real ones are
        hard = np.random.default_rng(5).normal(size=len(rows))
        own = np.random.default_rng(self.noise).normal(size=len(rows)) * 0.3
        margin = hard + own + made["language"].map(self.strength).to_numpy()
        scores = np.zeros((len(rows), 2))
        scores[np.arange(len(rows)), made["label"]] = margin
        return made.assign(**{s: list(scores) for s in ("sum", "mean", "calibrated")})


def make_run(experiment, name, strength, seed=0, ratio=0.5, base=0.0):
    """A finished run with its predictions, and the base's beside it."""
    experiment = override(experiment, {"train.seed": seed, "replay.ratio": 0.0})
    run = run_folder(experiment, name)
    if not (run / MODEL).exists():
        run.mkdir(parents=True)
        record = {"run": name, "fingerprint": f"{name}-{seed}", "data": {}, "versions": {"ialign_ray": "test"}}
        write_json(run / RECORD, record)
        model = add_adapter(load_base(experiment.model), experiment.model.lora, seed)
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.fill_(0.01 * (seed + 1))
        save_run(experiment, run, model, load_tokenizer(experiment.model))
    predict(experiment, run / PREDICTIONS, run_key(experiment, run), strength, seed)
    predict(
        experiment, run.parent / BASE / PREDICTIONS, base_key(experiment), dict.fromkeys(("eng", "ind", "jav"), base)
    )
    return run


def predict(experiment, folder, key, strength, noise=0):
    return predict_suites(experiment, lambda: Chosen(strength, noise), folder, key, Console(file=StringIO()))
