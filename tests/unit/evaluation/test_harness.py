"""lm-evaluation-harness runs our folders unchanged, and its scores are ours."""

from __future__ import annotations

import builtins
import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from ialign_ray.config import LoraSettings, ModelSettings, build_experiment
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.scoring.harness import SAMPLES, report_tasks, run_tasks, selected
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import open_scorer
from ialign_ray.modeling.load import add_adapter, load_base, load_tokenizer, merge, save_model
from ialign_ray.storage import whole_folder
from ialign_ray.workflows.evaluate import evaluate

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)
PROMPT, SEPARATOR, WORDS = "{text}\nGood or bad?", "\nAnswer:", [" bad", " good"]


@pytest.fixture
def adapter(tmp_path, tiny_model_folder):
    """An adapter whose update is not zero, as after training."""
    settings = ModelSettings(id=str(tiny_model_folder))
    model = add_adapter(load_base(settings), LoraSettings(rank=4), seed=0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    with whole_folder(tmp_path / "run" / "model") as scratch:
        save_model(model, scratch)
        load_tokenizer(settings).save_pretrained(scratch)
    return tmp_path / "run" / "model"


@pytest.fixture
def data(experiment_data, tmp_path):
    """The experiment whose prompt the local harness task `mood_task` asks in the same words."""
    suite = experiment_data["evaluate"]["suites"][0]
    suite |= {"columns": {"eng": "eng"}, "labels": {"bad": {"eng": WORDS[0]}, "good": {"eng": WORDS[1]}}}
    experiment_data["model"]["separator"] = SEPARATOR
    frame = pd.read_parquet(tmp_path / "suite.parquet")
    test = frame[frame["split"] == "test"].assign(gold=lambda rows: (rows["label"] == "good").astype(int))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    test[["sid", "eng", "gold"]].to_json(tasks / "mood.jsonl", orient="records", lines=True)
    task = {
        "task": "mood_task",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "mood.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{eng}}\nGood or bad?" + SEPARATOR,
        "doc_to_choice": WORDS,
        "doc_to_target": "gold",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tasks / "mood.yaml").write_text(yaml.safe_dump(task))
    experiment_data["evaluate"]["lm_eval"] = {"include_path": str(tasks), "tasks": ["mood_task"]}
    return experiment_data


def subject(experiment, tmp_path, adapter=None, name="mine", loads=None):
    def load():
        if loads is not None:
            loads.append(name)
        return open_scorer(experiment, adapter)

    return Subject(name, f"key of {name}", tmp_path / name / "predictions", load)


def samples(folder):
    """Log-likelihood of each choice, by the sentence's id."""
    (file,) = folder.rglob(SAMPLES)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {str(r["doc"]["sid"]): [choice[0] for choice in r["filtered_resps"]] for r in rows}


def direct(tmp_path, data, **model):
    """What the harness says of a folder by itself, with no code of ours: id -> log-likelihoods."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=HFLM(**model, device="cpu", dtype="float32", batch_size=4),
        tasks=["mood_task"],
        task_manager=TaskManager(include_path=data["evaluate"]["lm_eval"]["include_path"], include_defaults=False),
        bootstrap_iters=0,
    )
    rows = found["samples"]["mood_task"]
    return {str(r["doc"]["sid"]): [choice[0] for choice in r["filtered_resps"]] for r in rows}


def ours(experiment, tmp_path, adapter=None):
    frame = predict_models(experiment, [subject(experiment, tmp_path, adapter)], QUIET)[0]["mood"]
    return dict(zip(frame["id"], frame["sum"]))


def alike(first, second):
    assert list(first) == list(second) or set(first) == set(second)
    assert len(first) == 8
    for key, values in first.items():
        np.testing.assert_allclose(values, second[key], atol=1e-3)


def test_label_scores_are_the_harness_log_likelihoods(data, tmp_path, adapter):
    experiment = build_experiment(data, "test")
    mine = ours(experiment, tmp_path, adapter)
    table = run_tasks(experiment, [subject(experiment, tmp_path, adapter)], QUIET)
    alike(mine, samples(tmp_path / "mine"))
    assert np.ptp([v[0] - v[1] for v in mine.values()]) > 0.01  # the sentences do differ
    (row,) = table.to_dict("records")
    frame = pd.read_parquet(tmp_path / "suite.parquet").astype({"sid": str}).set_index("sid")["label"]
    right = np.mean([("bad", "good")[int(np.argmax(v))] == frame[key] for key, v in mine.items()])
    assert (row["run"], row["task"], row["metric"], row["n"]) == ("mine", "mood_task", "acc", 8)
    assert row["value"] == pytest.approx(right)
    spread = 1.96 * np.sqrt(right * (1 - right) / 7)
    assert [row["low"], row["high"]] == pytest.approx([right - spread, right + spread])


def test_adapter_and_merged_folder_run_in_the_harness_unchanged(data, tmp_path, adapter, tiny_model_folder):
    experiment = build_experiment(data, "test")
    scorer = open_scorer(experiment, adapter)
    merged = tmp_path / "merged"
    merge(scorer.model).save_pretrained(merged)
    scorer.encoder.tokenizer.save_pretrained(merged)
    mine = ours(experiment, tmp_path, adapter)
    alike(mine, direct(tmp_path, data, pretrained=str(merged)))
    alike(mine, direct(tmp_path, data, pretrained=str(tiny_model_folder), peft=str(adapter)))
    base = direct(tmp_path, data, pretrained=str(tiny_model_folder))
    assert max(abs(a - b) for key in mine for a, b in zip(mine[key], base[key])) > 0.01  # the adapter does something


def test_a_task_is_run_once_and_again_when_it_changes(data, tmp_path):
    experiment, loads = build_experiment(data, "test"), []
    subjects = [subject(experiment, tmp_path, loads=loads)]
    first = run_tasks(experiment, subjects, QUIET)
    pd.testing.assert_frame_equal(first, run_tasks(experiment, subjects, QUIET))
    assert loads == ["mine"]
    file = tmp_path / "tasks" / "mood.jsonl"
    file.write_text(file.read_text().replace('"gold":0', '"gold":1'))
    again = run_tasks(experiment, subjects, QUIET)
    assert loads == ["mine", "mine"]
    assert again["value"][0] != first["value"][0] or (first["value"][0] == 1 - first["value"][0])


def test_evaluate_writes_the_table_beside_the_verdict(data, tmp_path, adapter, tiny_model_folder, capsys):
    experiment = selected(build_experiment(data, "test"), ["lm_eval:mood_task"])
    evaluate(experiment, [adapter.parent], console=Console(width=120))
    table = pd.read_csv(tmp_path / "run" / "evaluation" / "lm_eval.csv")
    assert list(table["run"]) == ["base", "run"]
    assert "mood_task" in (tmp_path / "run" / "evaluation" / "LM_EVAL.md").read_text()
    assert "mood_task" in capsys.readouterr().out
    assert not (tmp_path / "run" / "evaluation" / "results.csv").exists()  # the file's own suites were not asked for


def test_suites_are_chosen_by_name(data):
    experiment = build_experiment(data, "test")
    assert selected(experiment, []) is experiment
    both = selected(experiment, ["mood", "lm_eval:a", "lm_eval:b"]).evaluate
    assert [s.name for s in both.suites] == ["mood"]
    assert both.lm_eval.tasks == ["a", "b"]
    with pytest.raises(ConfigError, match="--suite 'mud' is not in evaluate.suites; use one of mood, or lm_eval:TASK"):
        selected(experiment, ["mud"])


def test_an_unknown_task_and_missing_data_are_one_sentence(data, tmp_path):
    experiment = build_experiment(data, "test")
    with pytest.raises(ConfigError, match="lm_eval:moood: lm-evaluation-harness has no such task, nor does evaluate"):
        run_tasks(selected(experiment, ["lm_eval:moood"]), [subject(experiment, tmp_path)], QUIET)
    (tmp_path / "tasks" / "mood.jsonl").unlink()
    with pytest.raises(DataError, match="lm_eval:mood_task: its data cannot be read"):
        run_tasks(experiment, [subject(experiment, tmp_path)], QUIET)


def test_without_the_harness_one_sentence_says_how_to_get_it(data, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("lm_eval"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    experiment = build_experiment(data, "test")
    with pytest.raises(ConfigError, match=r"not installed; pip install 'ialign_ray\[lm-eval\]'"):
        run_tasks(experiment, [subject(experiment, tmp_path)], QUIET)


def test_a_score_without_error_has_no_interval(tmp_path, capsys):
    row = {"run": "a", "task": "t", "metric": "bleu", "filter": "none", "value": 1.0, "low": float("nan"),
           "high": float("nan"), "n": 3, "higher_is_better": True}  # fmt: skip
    report_tasks(pd.DataFrame([row]), tmp_path, QUIET)
    assert "| a | t | bleu | 1.000 | 3 |" in (tmp_path / "LM_EVAL.md").read_text()


CHOICES = [
    {"sid": f"{code}{k}", "lang": code, "passage": passage.format(k), "question": question, "gold": gold}
    | {"options": [option.format(k) for option in options]}
    for k in range(4)
    for code, passage, question, options, gold in [
        ("eng", "The river {} is wide.", "What is wide?", ["the river", "a hill {}", "rice", "Monday"], 0),
        ("khm", "ទន្លេ {} ធំ។", "អ្វីធំ?", ["ភ្នំ", "ទន្លេ {}", "បាយ", "ថ្ងៃចន្ទ"], 1),
        ("ary", "الواد {} واسع.", "شنو واسع؟", ["جبل {}", "الروز", "الواد", "الاثنين"], 2),
    ]
]


@pytest.fixture
def choices(experiment_data, tmp_path):
    """The same multiple-choice rows and prompt as a suite and as a task of the harness."""
    (tmp_path / "tasks").mkdir()
    file = tmp_path / "tasks" / "choices.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in CHOICES))
    # the delimiter before a choice is the separator after a prompt
    experiment_data["model"]["separator"] = " "
    experiment_data["languages"]["l2"] += ["khm", "ary"]
    long = {"language": "lang", "text": {"passage": "passage", "question": "question"}}
    experiment_data["evaluate"]["suites"] = [
        {"kind": "choice", "name": "choices", "path": str(file), "id": "sid", "choices": "options", "answer": "gold",
         "long": long | {"values": {c: c for c in ("eng", "khm", "ary")}},
         "prompts": [{"name": "p", "text": "{passage}\nQ: {question}\nA:"}]}
    ]  # fmt: skip
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    task = {
        "task": "choice_task",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{passage}}\nQ: {{question}}\nA:",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "target_delimiter": " ",
        "metric_list": metrics,
    }
    (tmp_path / "tasks" / "choices.yaml").write_text(yaml.safe_dump(task))
    return experiment_data


def test_choice_scores_are_acc_and_acc_norm_of_the_harness(choices, tmp_path, tiny_model_folder):
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    experiment = build_experiment(choices, "test")
    frame = predict_models(experiment, [subject(experiment, tmp_path)], QUIET)[0]["choices"]
    model = HFLM(pretrained=str(tiny_model_folder), device="cpu", dtype="float32", batch_size=4)
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(model=model, tasks=["choice_task"], task_manager=manager, bootstrap_iters=0)
    samples = {r["doc"]["sid"]: r for r in found["samples"]["choice_task"]}
    assert len(frame) == len(samples) == 12
    encoder = open_scorer(experiment, None).encoder
    for row in frame.to_dict("records"):
        sample = samples[row["id"].partition(":")[2]]
        np.testing.assert_allclose(row["sum"], [c[0] for c in sample["filtered_resps"]], atol=1e-3)
        assert sample["acc"] == (np.argmax(row["sum"]) == row["label"])
        assert sample["acc_norm"] == (np.argmax(row["per_character"]) == row["label"])
        for arguments in sample["arguments"].values() if isinstance(sample["arguments"], dict) else sample["arguments"]:
            text, answer = arguments.values() if isinstance(arguments, dict) else arguments
            ids = encoder.prompt(text), encoder.label(answer.removeprefix(" "))
            assert model._encode_pair(text, answer) == ids
    for metric, scorer in (("acc", "sum"), ("acc_norm", "per_character")):
        right = [np.argmax(scores) == label for scores, label in zip(frame[scorer], frame["label"])]
        assert found["results"]["choice_task"][f"{metric},none"] == pytest.approx(np.mean(right), abs=1e-3)
