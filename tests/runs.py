"""Finished, evaluated runs without training: a real adapter in a run folder, and predictions of a chosen strength."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tiny_corpus import sentences

from ialign_ray.config import build_experiment, override
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.scoring.worker import store_of
from ialign_ray.evaluation.subjects import base_subject, run_subject
from ialign_ray.modeling.load import add_adapter, load_base, load_tokenizer
from ialign_ray.storage import write_json
from ialign_ray.training.run_log import ENDING
from ialign_ray.training.runs import MODEL, RECORD, run_folder, save_run

SENTENCES = 240
STRENGTHS = {
    "weak": {"eng": 1.0, "ind": 0.4, "jav": 0.4},
    "good": {"eng": 1.0, "ind": 0.9, "jav": 0.9},
    "best": {"eng": 1.4, "ind": 1.6, "jav": 1.6},
    "forgetful": {"eng": 0.0, "ind": 1.6, "jav": 1.6},
}
CONTROL = {"eng": 1.0, "ind": 0.0, "jav": 0.0}
"""Strength of the replay-only run that is registered with each."""
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


def chosen(rows, prompt, strength, noise=0):
    """What a model of a chosen strength by language would predict of a classification suite's rows; 0 is chance."""
    made = rows[["suite", "language", "id", "label", "chars"]].assign(prompt=prompt)
    # sentences have a difficulty of their own, so that runs are paired as real ones are
    hard = np.random.default_rng(5).normal(size=len(rows))
    own = np.random.default_rng(noise).normal(size=len(rows)) * 0.3
    scores = np.zeros((len(rows), 2))
    scores[np.arange(len(rows)), made["label"]] = hard + own + made["language"].map(strength).to_numpy()
    return made.assign(**{name: list(scores) for name in ("sum", "mean", "calibrated")})


def make_run(experiment, name, strength, seed=0, base=0.0, evaluated=True, ratio=0.0):
    """A finished run with its predictions, and the base's beside it."""
    replay = {"replay.ratio": ratio} | ({"replay.sources": [{"path": "old.jsonl"}]} if ratio else {})
    experiment = override(experiment, {"train.seed": seed, **replay})
    run = run_folder(experiment, name)
    if not (run / MODEL).exists():
        run.mkdir(parents=True)
        record = {"run": name, "fingerprint": f"{name}-{seed}", "data": {}, "versions": {"ialign_ray": "test"}}
        write_json(run / RECORD, record)
        model = load_base(experiment.model)
        lora = experiment.model.tuning == "lora"
        model = add_adapter(model, experiment.model.lora, seed) if lora else model
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key:
                    weight.fill_(0.01 * (seed + 1))
                elif not lora and "mlp" in key:
                    weight.mul_(1.0 + 0.5 * (seed + 1))
        write_json(run / ENDING, {"step": 3, "kept": 3})
        save_run(experiment, run, model, load_tokenizer(experiment.model))
    if not evaluated:
        return run
    store(experiment, run_subject(experiment, run), strength, seed)
    store(experiment, base_subject(experiment), dict.fromkeys(("eng", "ind", "jav"), base))
    return run


def store(experiment, subject, strength, noise=0):
    for unit in suite_units(experiment):
        store_of(subject, unit).write(row_keys(unit.rows), chosen(unit.rows, unit.prompt, strength, noise))
