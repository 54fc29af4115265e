from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.errors import ClusterError
from ialign_ray.evaluation.scoring import actors
from ialign_ray.evaluation.scoring.actors import Layout, shared
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.scorer import Scorer
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import open_scorer

QUIET = Console(quiet=True)


@pytest.fixture
def counted(monkeypatch):
    """Numbers of prompts that a model was asked, content-free ones included, in every call."""
    calls = []
    for name in ("labels", "nats"):
        real = getattr(Scorer, name)

        def asked(self, prompts, others, real=real):
            calls.append(len(prompts))
            return real(self, prompts, others)

        monkeypatch.setattr(Scorer, name, asked)
    return calls


@pytest.fixture
def data(experiment_data):
    columns = experiment_data["evaluate"]["suites"][0]["columns"]
    experiment_data["evaluate"]["suites"] += [
        {"kind": "translation", "name": "mt", "path": "suite.parquet", "id": "sid", "columns": columns,
         "directions": [["eng", "ind"], ["eng", "jav"]]},
        {"kind": "instructions", "name": "old", "path": "old.jsonl", "limit": 7},
    ]  # fmt: skip
    experiment_data["evaluate"]["shard_rows"] = 5
    return experiment_data


def predicted(data, folder, key="model", name="base"):
    experiment = build_experiment(data, "test")
    subject = Subject(name, key, folder / "predictions", lambda: open_scorer(experiment, None))
    return predict_models(experiment, [subject], QUIET)[0]


def same(first, second):
    assert list(first) == list(second)
    for name, frame in first.items():
        assert list(frame.columns) == list(second[name].columns)
        for column in frame.columns:
            a, b = frame[column].to_list(), second[name][column].to_list()
            if isinstance(a[0], str):
                assert a == b
            else:
                np.testing.assert_allclose(np.array(a, float), np.array(b, float), atol=1e-4)


def test_no_row_is_scored_twice(data, tmp_path, counted):
    first = predicted(data, tmp_path / "run")
    assert sum(counted) > 0
    assert {name: len(frame) for name, frame in first.items()} == {"mood": 24, "mt": 32, "old": 7}
    counted.clear()
    same(first, predicted(data, tmp_path / "run"))
    assert counted == []


def test_the_size_of_a_shard_changes_nothing(data, tmp_path):
    first = predicted(data, tmp_path / "run")
    same(first, predicted(data | {"evaluate": data["evaluate"] | {"shard_rows": 1000}}, tmp_path / "other"))


@pytest.mark.parametrize("done", [1, 4])
def test_a_killed_evaluation_computes_the_missing_rows_alone(data, tmp_path, counted, monkeypatch, done):
    whole = predicted(data, tmp_path / "undisturbed")
    everything = sum(counted)
    counted.clear()
    for unit in {type(unit) for unit in suite_units(build_experiment(data, "test"))}:
        real = unit.predict

        def dying(self, scorer, rows, real=real):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real(self, scorer, rows)

        monkeypatch.setattr(unit, "predict", dying)
    left = done
    with pytest.raises(KeyboardInterrupt):
        predicted(data, tmp_path / "run")
    before, left = sum(counted), 1000
    counted.clear()
    same(whole, predicted(data, tmp_path / "run"))
    assert before >= 5 * done
    # what was scored before is not again, but for the three content-free prompts of the new process
    assert sum(counted) == everything - before + 3


def test_a_grown_suite_a_new_language_and_a_mended_sentence_cost_their_own_rows(data, tmp_path, counted):
    data["evaluate"]["suites"] = data["evaluate"]["suites"][:1]
    suite = data["evaluate"]["suites"][0]
    suite |= {"test_limit": 3, "columns": {"eng": "eng"}}
    predicted(data, tmp_path / "run")
    for change, rows in (({"test_limit": None}, 5), ({"columns": {"eng": "eng", "ind": "ind"}}, 8), ({}, 0)):
        counted.clear()
        suite |= change
        predicted(data, tmp_path / "run")
        assert sum(counted) == rows + (3 if rows else 0)
    frame = pd.read_parquet(tmp_path / "suite.parquet")
    frame.loc[frame["split"] == "test", "eng"] = [*["new words"], *frame[frame["split"] == "test"]["eng"][1:]]
    frame.to_parquet(tmp_path / "suite.parquet")
    counted.clear()
    predicted(data, tmp_path / "run")
    assert sum(counted) == 1 + 3


def test_another_model_prompt_or_label_word_is_scored_anew(data, tmp_path, counted):
    data["evaluate"]["suites"] = data["evaluate"]["suites"][:1]
    suite = data["evaluate"]["suites"][0]
    predicted(data, tmp_path / "run")
    counted.clear()
    predicted(data, tmp_path / "run", key="other model")
    suite["prompts"][0]["text"] = "{text}\nHow is it?"
    predicted(data, tmp_path / "run")
    suite["labels"]["bad"] = {"eng": "awful"}
    predicted(data, tmp_path / "run")
    assert sum(counted) == 3 * (24 + 3)
    counted.clear()
    suite["labels"]["bad"] = {"eng": "awful", "ind": "buruk"}  # a word that no prompt uses
    predicted(data, tmp_path / "run")
    assert counted == []


def test_calibration_subtracts_one_prior_a_prompt(data, tmp_path):
    data["evaluate"]["suites"][0]["prompts"].append({"name": "other", "text": "Is this good?\n{text}"})
    frame = predicted(data, tmp_path / "run")["mood"]
    shift = np.stack(frame["sum"]) - np.stack(frame["calibrated"])
    priors = [part.to_numpy() for _, part in pd.DataFrame(shift).groupby(frame["prompt"])]
    assert len(priors) == 2
    for part in priors:
        assert np.allclose(part, part[0], atol=1e-6)
    assert not np.allclose(priors[0][0], priors[1][0], atol=1e-3)


def test_a_log_gets_lines_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(actors, "EVERY", 0.0)
    with actors.scoring_progress(Console(force_terminal=False, width=200), 4) as advance:
        advance("base, mood", 1)
        advance("base, mt", 3)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("base, mood: scored 1 of 4 rows, about ")
    assert last.startswith("base, mt: scored 4 of 4 rows in ")


@pytest.mark.parametrize(
    ("wanted", "cpus", "gpus", "expected"),
    [
        (2, 2.0, 0.0, Layout(2, 1.0, 0.0, 1)),
        (2, 16.0, 0.0, Layout(2, 1.0, 0.0, 8)),
        (None, 16.0, 4.0, Layout(4, 1.0, 1.0, 4)),
        (4, 16.0, 2.0, Layout(4, 1.0, 0.5, 4)),
    ],
)
def test_replicas_share_the_machines(wanted, cpus, gpus, expected):
    assert shared(wanted, {"CPU": cpus, "GPU": gpus}) == expected


def test_more_replicas_than_cores_are_refused():
    with pytest.raises(ClusterError, match=r"evaluate.replicas is 3, but the cluster has 2 CPUs"):
        shared(3, {"CPU": 2.0})
