"""A small comparison with real predictions' columns and texts that try to break out of the page."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ialign_ray.config import build_experiment
from ialign_ray.evaluation.report.inputs import ReportInputs
from ialign_ray.evaluation.suites.load import classification_rows

EVIL = '<script>window.broken = 1</script><img src="http://evil.example/x.png" onerror="window.broken = 1">'


def material(data, tmp_path):
    """Base, control (two seeds) and an arm (two seeds) on the suite of `experiment_data`."""
    path = tmp_path / "suite.parquet"
    rows = pq.read_table(path).to_pandas()
    rows["jav"] = [f"{text} {EVIL}" for text in rows["jav"]]
    rows.to_parquet(path)
    data["evaluate"] = data["evaluate"] | {"scorer": "sum"}
    data["languages"] = {"l1": ["eng"], "l2": ["ind"], "l3": ["jav"]}
    for corpus in data["corpora"]:
        corpus["columns"] = {"eng": "eng", "ind": "ind"}
    experiment = build_experiment(data, "test")
    test = classification_rows(experiment.evaluate.suites[0], str(tmp_path)).test
    runs, folders = {}, {}
    for number, (run, seeds) in enumerate({"base": 1, "control": 2, "<b>arm": 2}.items()):
        runs[run] = [{"mood": _predicted(test, number / 2, 10 * number + seed)} for seed in range(seeds)]
        folders[run] = [tmp_path / f"run-{number}-{seed}" for seed in range(seeds)]
    for folder in folders["<b>arm"]:
        folder.mkdir(exist_ok=True)
        records = [{"step": k, "sources": {"mt/jav": [9.0 / k, 3], "replay": [4.0, 4]}} for k in range(1, 200)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"torn', "utf-8")
        (folder / "warnings.txt").write_text(f"beware {EVIL}\n", "utf-8")
        drawn = {"by_source": {"mt": 1500, "replay": 500}, "loss_share": {"mt": 0.9, "replay": 0.1}}
        record = {"data": {"corpora": {"c": {"read": 9, "leaked": 2}}}, "drawn": drawn}
        (folder / "record.json").write_text(json.dumps(record), "utf-8")
    return ReportInputs(experiment, runs, folders)


def _predicted(test: pd.DataFrame, strength: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(len(test), 2)) + strength * np.eye(2)[test["label"]]
    columns = {name: list(scores) for name in ("sum", "mean", "calibrated")}
    parts = [test[["suite", "language", "id", "label", "chars"]].assign(prompt=p, **columns) for p in ("a", "b")]
    return pd.concat(parts, ignore_index=True)
