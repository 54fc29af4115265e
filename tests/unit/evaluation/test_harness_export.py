"""Exported suites give the same scores in lm-evaluation-harness."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.scoring.harness_export import export_tasks
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import open_scorer

QUIET = Console(quiet=True)


@pytest.fixture
def data(experiment_data, tmp_path):
    """One suite of every kind that is exported, and one that is not."""
    columns = {"eng": "eng", "jav": "jav"}
    mood = experiment_data["evaluate"]["suites"][0] | {"columns": columns}
    mood["labels"] = {"bad": {"eng": " bad {a}"}, "good": {"eng": " good"}}
    mood["prompts"] = [{"name": "plain", "text": "{text}\nGood or bad?"}, {"name": "other", "text": "Mood of {text}?"}]
    choices = [
        {"sid": f"{code}{k}", "lang": code, "question": f"{code}: which {{word}} is number {k}?", "answer": k % 3}
        | {"options": [f"{word} {k}" for word in ("rice", "the wide river", "hill")]}
        for code in ("eng", "jav")
        for k in range(6)
    ]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    long = {"language": "lang", "text": {"question": "question"}, "values": {"eng": "eng", "jav": "jav"}}
    choice = {
        "kind": "choice", "name": "pick", "path": "choices.jsonl", "id": "sid", "choices": "options", "long": long,
        "prompts": [{"name": "open", "text": "{question}"}, {"name": "listed", "text": "{question}\n{choices}\nSo"}],
        "by": ["text", "letter"], "letters": [" A", " B", " C"],
    }  # fmt: skip
    texts = {"path": "suite.parquet", "columns": columns, "id": "sid"}
    translation = texts | {"kind": "translation", "name": "mt", "pivot": "eng", "generate": True, "max_new_tokens": 5}
    perplexity = texts | {"kind": "perplexity", "name": "ppl"}
    retrieval = texts | {"kind": "retrieval", "name": "find", "pivot": "eng"}
    experiment_data["evaluate"]["suites"] = [mood, choice, translation, perplexity, retrieval]
    return experiment_data


def predictions(experiment, tmp_path):
    subject = Subject("mine", "key", tmp_path / "predictions", lambda: open_scorer(experiment, None))
    return predict_models(experiment, [subject], QUIET)[0]


def by_harness(folder, groups, model):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    return lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4),
        tasks=groups,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )


def sums(samples):
    return {str(row["doc"]["id"]): [answer[0] for answer in row["filtered_resps"]] for row in samples}


@pytest.mark.slow
@pytest.mark.parametrize("separator", ["\nAnswer:", "\nSay {this}:"])
def test_the_harness_gives_exported_suites_equal_scores(data, tmp_path, tiny_model_folder, separator):
    data["model"]["separator"] = separator
    experiment = build_experiment(data, "test")
    groups, notes = export_tasks(experiment, tmp_path / "tasks")
    assert groups == ["mood", "pick", "mt", "ppl"]
    assert notes == ["find: a suite of kind retrieval is not written"]
    mine = predictions(experiment, tmp_path)
    found = by_harness(tmp_path / "tasks", groups, tiny_model_folder)
    cells = {("mood", "plain"): "sum", ("mood", "other"): "sum", ("pick", "open"): "sum",
             ("pick", "letter:listed"): "letter:sum"}  # fmt: skip
    for (suite, prompt), scorer in cells.items():
        part = mine[suite][mine[suite]["prompt"] == prompt]
        for language, rows in part.groupby("language"):
            name = f"{suite}_{prompt}_{language}".replace(":", "_")
            theirs = sums(found["samples"][name])
            assert len(rows) == len(theirs) > 0
            for row in rows.to_dict("records"):
                np.testing.assert_allclose(row[scorer], theirs[row["id"]], atol=1e-3)
            right = [np.argmax(scores) == label for scores, label in zip(rows[scorer], rows["label"], strict=True)]
            assert found["results"][name]["acc,none"] == pytest.approx(np.mean(right))
    for language, rows in mine["ppl"].groupby("language"):
        bits = rows["nats"].sum() / rows["bytes"].sum() / np.log(2)
        assert found["results"][f"ppl_{language}"]["bits_per_byte,none"] == pytest.approx(bits, abs=1e-4)
    for direction, rows in mine["mt"].groupby("language"):
        theirs = {str(r["doc"]["id"]): r["filtered_resps"][0] for r in found["samples"][f"mt_plain_{direction}"]}
        assert rows.set_index("id")["hypothesis"].to_dict() == {k: text.strip() for k, text in theirs.items()}
    assert found["results"]["mood"]["acc,none"] == pytest.approx(
        np.mean([found["results"][f"mood_{p}_{c}"]["acc,none"] for p in ("plain", "other") for c in ("eng", "jav")])
    )


@pytest.mark.slow
def test_accuracy_is_equal_after_a_line_break_too(data, tmp_path, tiny_model_folder):
    experiment = build_experiment(data, "test")
    groups, _ = export_tasks(experiment, tmp_path / "tasks", ["pick"])
    frame = predictions(experiment, tmp_path)["pick"]
    found = by_harness(tmp_path / "tasks", groups, tiny_model_folder)
    for language, rows in frame[frame["prompt"] == "open"].groupby("language"):
        theirs = sums(found["samples"][f"pick_open_{language}"])
        for row in rows.to_dict("records"):  # the line break, which the harness scores, is the same for all options
            apart = np.subtract(row["sum"], theirs[row["id"]])
            np.testing.assert_allclose(apart, apart.mean(), atol=1e-3)
        right = [np.argmax(scores) == label for scores, label in zip(rows["sum"], rows["label"], strict=True)]
        assert found["results"][f"pick_open_{language}"]["acc,none"] == pytest.approx(np.mean(right))


def test_the_files_hold_every_row_and_its_own_settings(data, tmp_path):
    groups, _ = export_tasks(build_experiment(data, "test"), tmp_path / "tasks", ["mood"])
    assert groups == ["mood"]
    group = yaml.safe_load((tmp_path / "tasks" / "mood.yaml").read_text())
    assert group["task"] == [f"mood_{prompt}_{code}" for prompt in ("plain", "other") for code in ("eng", "jav")]
    task = yaml.safe_load((tmp_path / "tasks" / "mood_plain_jav.yaml").read_text())
    rows = pd.read_json(task["dataset_kwargs"]["data_files"]["test"], lines=True)
    assert len(rows) == 8
    assert rows["choices"][0] == [" bad {a}", " good"]
    assert rows["prompt"].str.endswith("\nGood or bad?").all()
    with pytest.raises(ConfigError, match="--suite 'mud' is not in evaluate.suites; use one of mood, pick, mt, ppl, f"):
        export_tasks(build_experiment(data, "test"), tmp_path / "tasks", ["mud"])


def test_the_command_needs_both_file_and_folder(data, write_yaml, ialign, tmp_path):
    code, out, _ = ialign("suites", write_yaml(data), "--export-harness", tmp_path / "tasks", "--suite", "ppl")
    assert code == 0
    assert "--tasks ppl" in out
    code, _, err = ialign("suites", "--export-harness", tmp_path / "tasks")
    assert code == 2
    assert err.startswith("ialign: an export needs an experiment file")
