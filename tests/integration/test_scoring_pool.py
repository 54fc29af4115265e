"""Replicas on Ray give what one process gives, a lost one is replaced, and SIGKILL of all costs a shard each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.errors import ClusterError, ModelError
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import open_scorer

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUIET = Console(quiet=True)


def experiment_of(data, **evaluate):
    return build_experiment(data | {"evaluate": data["evaluate"] | {"shard_rows": 4} | evaluate}, "test")


def load_or_die(experiment, marks, deaths):
    """Opens the model; at their second shard replicas kill themselves, each leaving a mark, `deaths` times in all."""

    def load():
        scorer, calls = open_scorer(experiment, None), []
        real = scorer.labels

        def labels(prompts, words):
            calls.append(len(prompts))
            if len(calls) > 2 and len(list(marks.iterdir())) < deaths:
                (marks / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return real(prompts, words)

        scorer.labels = labels
        return scorer

    return load


def test_replicas_score_as_one_process_does_and_a_lost_one_is_replaced(experiment_data, tmp_path, ray_cluster):
    (tmp_path / "marks").mkdir()
    single, pooled = experiment_of(experiment_data), experiment_of(experiment_data, replicas=2)
    here = Subject("base", "k", tmp_path / "here", lambda: open_scorer(single, None))
    there = Subject("base", "k", tmp_path / "there", load_or_die(pooled, tmp_path / "marks", 1))
    alone = predict_models(single, [here], QUIET)[0]["mood"]
    together = predict_models(pooled, [there], QUIET)[0]["mood"]
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert list(alone["id"] + alone["language"]) == list(together["id"] + together["language"])
    for name in ("sum", "calibrated"):
        for a, b in zip(alone[name], together[name]):
            assert a == pytest.approx(b, abs=1e-4)


def test_a_users_error_on_a_replica_is_one_sentence(experiment_data, tmp_path, ray_cluster):
    def load():
        raise ModelError("the model is not there; name another")

    pooled = experiment_of(experiment_data, replicas=2)
    with pytest.raises(ModelError, match="^the model is not there; name another$"):
        predict_models(pooled, [Subject("base", "k", tmp_path / "there", load)], QUIET)


def test_a_shard_that_kills_every_replica_ends_with_a_sentence(experiment_data, tmp_path, ray_cluster):
    def load():
        os.kill(os.getpid(), signal.SIGKILL)

    pooled = experiment_of(experiment_data | {"scaling": {"max_failures": 1}}, replicas=1 + 1, shard_rows=100)
    with pytest.raises(ClusterError, match="died 2 times at the same rows"):
        predict_models(pooled, [Subject("base", "k", tmp_path / "there", load)], QUIET)


EVALUATION = """
import sys, time
from pathlib import Path
from rich.console import Console
from ialign_ray.workflows.compare import base_subject
from ialign_ray.config import load_experiment
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.scorer import Scorer

real, log = Scorer.labels, Path(sys.argv[2])
def labels(self, prompts, words):
    found = real(self, prompts, words)
    with log.open("a") as file:
        file.write(f"{len(prompts)}\\n")
    time.sleep(float(sys.argv[3]))
    return found
Scorer.labels = labels
experiment = load_experiment(sys.argv[1])
frame = predict_models(experiment, [base_subject(experiment)], Console())[0]["mood"]
frame.to_parquet(sys.argv[4])
"""


def test_an_evaluation_killed_by_sigkill_goes_on(experiment_data, tmp_path, write_yaml):
    import pandas as pd

    experiment_data["evaluate"]["shard_rows"] = 3
    file, log = write_yaml(experiment_data), tmp_path / "log"
    command = [sys.executable, "-c", EVALUATION, str(file), str(log)]
    victim = subprocess.Popen([*command, "0.5", str(tmp_path / "never.parquet")])
    deadline = time.monotonic() + 120
    parts = tmp_path / "runs" / "tiny" / "base" / "predictions"
    while len(list(parts.rglob("part-*.parquet"))) < 3:
        assert time.monotonic() < deadline
        assert victim.poll() is None
        time.sleep(0.02)
    victim.kill()
    victim.wait()
    stored = sum(len(pd.read_parquet(p)) for p in parts.rglob("part-*.parquet"))
    assert 9 <= stored < 24
    log.unlink()
    subprocess.run([*command, "0", str(tmp_path / "resumed.parquet")], check=True)
    scored = [int(line) for line in log.read_text().split()]
    assert sum(scored) == 24 - stored + 3  # and the three content-free prompts
    experiment_data["storage"]["runs"] = str(tmp_path / "undisturbed")
    write_yaml(experiment_data)
    subprocess.run([*command, "0", str(tmp_path / "whole.parquet")], check=True)
    resumed, whole = (pd.read_parquet(tmp_path / f"{n}.parquet") for n in ("resumed", "whole"))
    assert len(resumed) == 24
    for name in whole.columns:
        for a, b in zip(whole[name], resumed[name]):
            assert (a == b) if isinstance(a, str) else (a == pytest.approx(b, abs=1e-4))
