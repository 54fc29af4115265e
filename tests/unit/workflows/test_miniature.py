"""The miniature's own instructions: no evaluation sentence, all labels, and a base model that loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ialign_ray.config import load_experiment
from ialign_ray.corpus.pairs import load_parallel
from ialign_ray.streaming.curate import curate
from ialign_ray.workflows.ablate import plan_ablation

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
pytestmark = [pytest.mark.skipif(not DATA.exists(), reason="the shared data is not here"), pytest.mark.slow]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "instructions.jsonl"
    script = [sys.executable, "jobs/miniature_instructions.py", str(DATA), str(path)]
    subprocess.run(script, check=True, cwd=ROOT)
    return path


def squeezed(text):
    return " ".join(str(text).casefold().split())


def test_no_nusax_sentence_that_is_evaluated_is_learned_in_any_language(file):
    nusax = pd.read_parquet(DATA / "nusax/nusax.parquet")
    languages = ["ace", "ban", "bbc", "bjn", "bug", "eng", "ind", "jav", "mad", "min", "nij", "sun"]
    tested = nusax[nusax["split"] != "train"][languages].to_numpy().ravel().tolist()
    rows = pd.read_json(file, lines=True)
    learned = "\n".join(squeezed(f"{a} {b}") for a, b in zip(rows["inputs"], rows["targets"]))
    words = set(zip(learned.split(), learned.split()[1:], learned.split()[2:]))
    likely = [t for t in tested if tuple(squeezed(t).split()[1:4]) in words]  # within punctuation's reach
    assert [t for t in likely if len(squeezed(t)) > 20 and squeezed(t) in learned] == []
    trained = nusax[nusax["split"] == "train"]["ind"]
    assert all(squeezed(t) in learned for t in trained[:20])  # what is looked for would be found
    held, train = (rows[rows["split"] == split] for split in ("heldout", "train"))
    assert len(held) == 300
    assert not set(held["inputs"]) & set(train["inputs"])
    assert {"negatif", "netral", "positif", "negative", "neutral", "positive"} <= set(train["targets"])


def test_the_experiment_trains_on_every_training_sentence_and_plans_fifteen_runs(file, tmp_path):
    changes = [f"storage.data={DATA}", f"storage.runs={tmp_path}", f"replay.sources.0.path={file}"]
    experiment = load_experiment(
        ROOT / "jobs/experiments/miniature.yaml", [*changes, f"evaluate.suites.old.path={file}"]
    )
    built, _ = curate(experiment)
    counts = load_parallel(experiment, built).counts["nusax"]
    assert (counts.read, counts.leaked, counts.kept) == (500, 0, 500)
    settings = plan_ablation(experiment)
    assert [s.experiment.replay.ratio for s in settings] == [1.0, 0.5, 0.0, 0.01, 0.1]
    assert {s.control for s in settings} == {None, "control"}
    assert experiment.ablate.seeds == [0, 1, 2]


def test_a_small_base_is_trained_on_an_instruction_file(file, tmp_path):
    from transformers import AutoModelForCausalLM

    script = [sys.executable, "jobs/small_base.py", str(file), str(tmp_path / "m"), "--steps", "2", "--batch-size", "4"]
    subprocess.run(script, check=True, cwd=ROOT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert 1_300_000 < sum(p.numel() for p in model.parameters()) < 1_500_000
