"""Tasks of lm-evaluation-harness are suites like any other, with the harness's own scores."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from rich.console import Console

from ialign_ray.config import LoraSettings, ModelSettings, build_experiment, dump_yaml
from ialign_ray.corpus.pairs import PAIR_SCHEMA
from ialign_ray.errors import DataError, IalignError
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.results.summary import summarise
from ialign_ray.evaluation.rules import rules_of
from ialign_ray.evaluation.scoring.harness import as_suites, selected, whole_table
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.scoring.trained_on import trained_on
from ialign_ray.evaluation.scoring.worker import Subject
from ialign_ray.evaluation.subjects import open_scorer
from ialign_ray.modeling.load import add_adapter, load_base, load_tokenizer, save_model
from ialign_ray.storage import whole_folder
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import REPLAY_SCHEMA
from ialign_ray.workflows.evaluate import judge

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

pytestmark = pytest.mark.slow
QUIET = Console(quiet=True)
WORDS = {"eng": ("river", "rice", "hill"), "ind": ("sungai", "nasi", "bukit"), "jav": ("kali", "sega", "gunung")}
MEANS = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]


def plan(folder, pairs):
    """A run's training data."""
    made = [{"row_id": f"c:{k}:eng-jav", "source_language": "eng", "target_language": "jav", "source": a, "target": b}
            for k, (a, b) in enumerate(pairs)]  # fmt: skip
    tables = (pa.Table.from_pylist(made, PAIR_SCHEMA), pa.Table.from_pylist([], REPLAY_SCHEMA))
    Plan(0, 0.5, {"mt": 1.0}, [], {}, frozenset({"eng"}), *tables).save(folder / "data" / "plan")
    return folder


def write_task(folder, name, rows, **changes):
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        "metric_list": MEANS,
    }
    task = {k: v for k, v in (task | changes).items() if v is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return name


def some_rows(code, count=8):
    words = WORDS[code]
    return [
        {"question": f"{code} which of the words number {k} is about water or food?", "gold": k % 3,
         "options": [f"{word} {k}" if k % 2 else word for word in words], "passage": f"p{k // 2}"}
        for k in range(count)
    ]  # fmt: skip


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    for code in WORDS:
        write_task(folder, f"words_{code}_Latn", some_rows(code))
    return folder


@pytest.fixture
def data(experiment_data, tasks):
    experiment_data["evaluate"]["suites"] = [
        {"kind": "lm_eval", "name": "words", "tasks": "words_*", "include_path": str(tasks)}
    ]
    return experiment_data


def subject(experiment, tmp_path, loads=None, name="mine"):
    def load():
        if loads is not None:
            loads.append(name)
        return open_scorer(experiment, None)

    return Subject(name, f"key of {name}", tmp_path / name / "predictions", load)


def frame_of(experiment, tmp_path, suite="words"):
    return predict_models(experiment, [subject(experiment, tmp_path)], QUIET)[0][suite]


def by_harness(folder, tasks, model, **settings):
    return lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", dtype="float32", batch_size=4),
        tasks=tasks,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
        **settings,
    )


@pytest.mark.parametrize("shots", [0, 2])
def test_our_mean_of_a_task_is_its_result_in_the_harness(data, tmp_path, tasks, tiny_model_folder, shots):
    data["evaluate"]["suites"][0] |= {"num_fewshot": shots, "seed": 7}
    data["evaluate"]["shard_rows"] = 3  # the examples of a row do not depend on the shard
    frame = frame_of(build_experiment(data, "test"), tmp_path)
    names = [f"words_{code}_Latn" for code in WORDS]
    found = by_harness(tasks, names, tiny_model_folder, num_fewshot=shots, fewshot_random_seed=7)
    assert list(frame.groupby("language").size()) == [8, 8, 8]
    for name, part in frame.groupby("task"):
        for metric in ("acc", "acc_norm"):
            assert part[f"measured:{metric}"].mean() == pytest.approx(found["results"][name][f"{metric},none"])
        theirs = [[answer[0] for answer in row["filtered_resps"]] for row in found["samples"][name]]
        ours = [[answer[0] for answer in json.loads(row)] for row in part.sort_values("id")["answers"]]
        np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert (frame["score"] == frame["measured:acc"]).all()  # the first metric of the task's list
    assert frame["chance"].unique() == pytest.approx([1 / 3])


def test_the_chat_template_and_an_adapter_are_used_as_in_the_harness(data, tmp_path, tasks, tiny_model_folder):
    settings = ModelSettings(id=str(tiny_model_folder))
    model, tokenizer = load_base(settings), load_tokenizer(settings)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    chatty, run = tmp_path / "chatty", tmp_path / "run"
    model.save_pretrained(chatty)
    tokenizer.save_pretrained(chatty)
    data["model"]["id"] = str(chatty)
    data["evaluate"]["suites"][0] |= {"num_fewshot": 1, "tasks": "words_jav_Latn"}
    adapted = add_adapter(model, LoraSettings(rank=4), seed=0)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    with whole_folder(run) as scratch:
        save_model(adapted, scratch)
        tokenizer.save_pretrained(scratch)
    experiment = build_experiment(data, "test")
    mine = Subject("run", "key", tmp_path / "predictions", lambda: open_scorer(experiment, run))
    frame = predict_models(experiment, [mine], QUIET)[0]["words"]
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(chatty), peft=str(run), device="cpu", dtype="float32", batch_size=4),
        tasks=["words_jav_Latn"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        num_fewshot=1,
        apply_chat_template=True,
    )["samples"]["words_jav_Latn"]
    assert found[0]["arguments"][0][0].count("assistant:") == 2
    theirs = [[answer[0] for answer in row["filtered_resps"]] for row in found]
    ours = [[answer[0] for answer in json.loads(row)] for row in frame.sort_values("id")["answers"]]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_generated_answers_with_filters_are_scored_as_in_the_harness(data, tmp_path, tasks, tiny_model_folder):
    chains = [
        {"name": "first", "filter": [{"function": "take_first"}]},
        {"name": "letter", "filter": [{"function": "regex", "regex_pattern": "([a-z])"}, {"function": "take_first"}]},
    ]
    exact = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}, {"metric": "chrf"}]
    rows = [row | {"target": "e"} for row in some_rows("eng")]
    write_task(tasks, "say_eng", rows, output_type="generate_until", doc_to_choice=None, doc_to_target="target",
               metric_list=exact, generation_kwargs={"until": ["\n"], "max_gen_toks": 4}, filter_list=chains,
               target_delimiter="")  # fmt: skip
    data["evaluate"]["suites"][0] |= {"tasks": "say_eng", "metric": "exact_match,letter"}
    experiment = build_experiment(data, "test")
    frame = frame_of(experiment, tmp_path)
    found = by_harness(tasks, ["say_eng"], tiny_model_folder)["results"]["say_eng"]
    assert frame["score"].mean() == pytest.approx(found["exact_match,letter"])
    assert frame["measured:exact_match"].mean() == pytest.approx(found["exact_match,first"])
    assert not frame["chance"].any()
    whole = whole_table(experiment, "mine", {"words": frame})
    scores = {f"{row['metric']},{row['filter']}": row["value"] for row in whole.to_dict("records")}
    assert scores == pytest.approx({k: found[k] for k in ("chrf,first", "chrf,letter")})


def test_languages_of_a_group_are_resampled_together(data, tmp_path):
    experiment = build_experiment(data, "test")
    frame = frame_of(experiment, tmp_path)
    assert set(frame["id"]) == {str(k) for k in range(8)}
    groups = experiment.languages.groups()
    results = summarise({"mine": measure(frame, ResamplingPlan(groups, resamples=100))}, groups, resamples=100)
    chosen = results[(results["metric"] == "lm_eval_score") & (results["scope"] == "group:L2")].iloc[0]
    assert chosen["n"] == 8
    assert chosen["value"] == pytest.approx(frame[frame["language"] != "eng"]["score"].mean())
    assert {"lm_eval_acc", "lm_eval_acc_norm", "lm_eval_chance"} <= set(results["metric"])


def test_several_tasks_of_a_language_keep_their_rows_apart(data, tmp_path, tasks):
    for code in WORDS:
        write_task(tasks, f"more_{code}_Latn", some_rows(code, 5))
    data["evaluate"]["suites"][0]["tasks"] = ["words_*", "more_*"]
    (unit,) = suite_units(build_experiment(data, "test"))
    of_language = unit.rows.groupby("language")["id"].agg(set)
    assert (
        of_language["eng"]
        == of_language["jav"]
        == {*(f"words:{k}" for k in range(8)), *(f"more:{k}" for k in range(5))}
    )


def test_fields_of_the_rows_are_ids_and_clusters(data, tmp_path):
    data["evaluate"]["suites"][0] |= {"cluster": "passage", "limit": 6}
    experiment = build_experiment(data, "test")
    frame = frame_of(experiment, tmp_path)
    assert frame.groupby("language")["cluster"].nunique().to_dict() == dict.fromkeys(WORDS, 3)
    data["evaluate"]["suites"][0] |= {"id": "passage"}
    with pytest.raises(DataError, match=r"evaluate\.suites\.words: id 'p0' is used twice in eng"):
        suite_units(build_experiment(data, "test"))
    data["evaluate"]["suites"][0] |= {"id": "number"}
    with pytest.raises(DataError, match=r"words\.id: the task's rows have no field 'number'; they have question, gold"):
        suite_units(build_experiment(data, "test"))


def test_rows_are_predicted_once_and_again_if_they_or_their_examples_change(data, tmp_path, tasks):
    loads = []

    def run():
        experiment = build_experiment(data, "test")
        return predict_models(experiment, [subject(experiment, tmp_path, loads)], QUIET)[0]["words"]

    first = run()
    pd.testing.assert_frame_equal(first, run())
    assert len(loads) == 1
    data["evaluate"]["suites"][0]["limit"] = 4
    assert len(run()) == 12
    assert len(loads) == 1
    data["evaluate"]["suites"][0]["num_fewshot"] = 1
    run()
    assert len(loads) == 2
    data["evaluate"]["suites"][0]["seed"] = 5
    run()
    assert len(loads) == 3
    del data["evaluate"]["suites"][0]["num_fewshot"]
    file = tasks / "words_jav_Latn.jsonl"
    file.write_text(file.read_text().replace("number 0", "number zero"))
    run()
    assert len(loads) == 4


def test_finished_predictions_stay_after_an_error(data, tmp_path, tasks):
    write_task(tasks, "odd_eng", some_rows("eng"))
    (tasks / "odd_eng.jsonl").unlink()
    experiment, loads = build_experiment(data, "test"), []
    predict_models(experiment, [subject(experiment, tmp_path, loads)], QUIET)
    data["evaluate"]["suites"].append(
        {"kind": "lm_eval", "name": "odd", "tasks": "odd_eng", "include_path": str(tasks)}
    )
    broken = build_experiment(data, "test")
    with pytest.raises(DataError, match="lm_eval:odd_eng: its data cannot be read"):
        predict_models(broken, [subject(broken, tmp_path, loads)], QUIET)
    predict_models(experiment, [subject(experiment, tmp_path, loads)], QUIET)
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "wrods"}, r"words\.tasks: lm-evaluation-harness has no task 'wrods', nor does include_path"),
        ({"tasks": "wrods_*"}, r"words\.tasks: no task of lm-evaluation-harness matches 'wrods_\*'"),
        ({"tasks": "plain"}, r"language of task plain is not clear from its name; write tasks: \{LANGUAGE: plain\}"),
        ({"tasks": "from_ind_to_jav"}, r"codes of several languages \(ind, jav\); write tasks: \{ind: from_ind"),
        ({"tasks": "words_zul_Latn"}, r"task words_zul_Latn is in 'zul', which is in no group"),
        ({"tasks": {"zul": "plain"}}, r"language 'zul' of task plain is in no group"),
        ({"tasks": {"eng": ["plain", "plain"]}}, r"task plain is named twice"),
        ({"tasks": {"eng": "plain", "ind": "exact"}}, r"tasks plain and exact have different metrics \(acc and exact"),
        ({"tasks": {"eng": "plain"}, "metric": "bleu"}, r"metric 'bleu' is not a mean over the rows of task plain, "),
        ({"tasks": {"eng": "chrf"}}, r"no score of task chrf is a mean over rows; name it in evaluate\.lm_eval\.tasks"),
        ({"tasks": {"eng": "plain"}, "languages": ["ind"]}, r"no task is left in the languages that are measured"),
        ({"tasks": {"eng": "plain"}, "include_path": "missing"}, r"include_path missing of .* is not a folder"),
        ({"tasks": {"eng": "empty"}}, r"lm_eval:empty: its data (has no rows|cannot be read)"),
        ({"tasks": {"eng": "template"}}, r"lm_eval:template: lm-evaluation-harness cannot use the task \("),
    ],
)
def test_bad_tasks_are_one_sentence(data, tasks, change, message):
    words = some_rows("eng")
    for name in ("plain", "from_ind_to_jav", "words_zul_Latn"):
        write_task(tasks, name, words)
    generated = {"output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "question"}
    write_task(tasks, "exact", words, metric_list=[{"metric": "exact_match"}], **generated)
    write_task(tasks, "chrf", words, metric_list=[{"metric": "chrf"}], **generated)
    write_task(tasks, "empty", [])
    write_task(tasks, "template", words, doc_to_text="{{question")
    data["evaluate"]["suites"][0] |= change
    with pytest.raises(IalignError, match=message):
        suite_units(build_experiment(data, "test"))


def test_grouped_and_languages_choose_among_the_tasks(data, tasks):
    write_task(tasks, "words_zul_Latn", some_rows("eng"))
    data["evaluate"]["suites"][0]["grouped"] = True
    (unit,) = suite_units(build_experiment(data, "test"))
    assert set(unit.rows["language"]) == {"eng", "ind", "jav"}
    data["evaluate"]["suites"][0] |= {"grouped": False, "languages": ["jav"]}
    (unit,) = suite_units(build_experiment(data, "test"))
    assert set(unit.rows["language"]) == {"jav"}


def test_groups_and_tags_are_their_tasks(data, tasks):
    (tasks / "all.yaml").write_text(yaml.safe_dump({"group": "all_words", "task": [f"words_{c}_Latn" for c in WORDS]}))
    changed = [{"task": "words_eng_Latn", "num_fewshot": 1}]
    (tasks / "some.yaml").write_text(yaml.safe_dump({"group": "some_words", "task": changed}))
    data["evaluate"]["suites"][0]["tasks"] = "all_words"
    (whole,) = suite_units(build_experiment(data, "test"))
    assert len(whole.rows) == 24
    data["evaluate"]["suites"][0]["tasks"] = "some_words"
    (part,) = suite_units(build_experiment(data, "test"))
    english = whole.rows[whole.rows["language"] == "eng"]
    assert len(part.rows) == 8
    assert (part.rows["length"].to_numpy() > english["length"].to_numpy()).all()  # the group adds an example


def test_verdict_report_and_gate_read_the_suite(data, tmp_path, tasks):
    experiment = build_experiment(data, "test")
    assert rules_of(experiment).better_on == frozenset()  # the languages of a pattern are not known without the harness
    data["evaluate"]["suites"][0]["tasks"] = [f"words_{code}_Latn" for code in WORDS]
    experiment = build_experiment(data, "test")
    assert rules_of(experiment).better_on == {"words"}
    assert build_experiment(yaml.safe_load(dump_yaml(experiment)), "again") == experiment
    folder = tmp_path / "evaluation"
    subjects = {n: [subject(experiment, tmp_path / "runs", name=n)] for n in ("base", "control", "arm")}
    statements = judge(experiment, subjects, folder, QUIET)
    assert {"gain", "forgetting"} <= {s.topic for s in statements if s.run == "arm"}
    comparisons = pd.read_csv(folder / "comparisons.csv")
    paired = comparisons[(comparisons["run"] == "arm") & (comparisons["metric"] == "lm_eval_score")]
    assert (paired["value"] == 0).all()
    assert {"group:L1", "group:L2", "language:jav"} <= set(paired["scope"])
    assert "words" in (folder / "report.html").read_text()
    overview = pd.read_csv(folder / "overview.csv")
    of_arm = overview[(overview["run"] == "arm") & (overview["scope"] == "group:L2")]
    scaled = of_arm.set_index("competency")["value"]
    results = pd.read_csv(folder / "results.csv")
    of_group = results[(results["run"] == "arm") & (results["scope"] == "group:L2") & (results["prompt"] == "all")]
    score = of_group.set_index("metric")["value"]["lm_eval_score"]
    assert scaled["all"] == pytest.approx((score - 1 / 3) / (2 / 3))
    assert "words L2 score" in (folder / "RESULTS.md").read_text()
    assert set(pd.read_csv(folder / "mcnemar.csv")["suite"]) == {"words"}


def test_rows_of_tasks_are_kept_out_of_training(data, tasks):
    from ialign_ray.streaming.curate import evaluation_index

    index = evaluation_index(build_experiment(data, "test"))
    question = some_rows("jav")[5]["question"]
    asked = pa.array([question, f"Before that, {question}", "another sentence of other words entirely"])
    assert index.origins_of(asked)[:2] == ["words", "words"]
    assert (index.exact(asked) | index.overlaps(asked)).tolist() == [True, True, False]


def test_rows_that_a_run_was_trained_on_are_found(data, tmp_path):
    run = plan(tmp_path / "one", [(some_rows("jav")[5]["question"], "unrelated words of nobody here")])
    known = trained_on(build_experiment(data, "test"), {"one": run})
    assert known.suites == {"words": frozenset({"5"})}


def test_old_sections_and_options_become_suites(data, tmp_path, tasks):
    data["evaluate"]["suites"] = []
    write_task(tasks, "plain", some_rows("eng"))
    data["evaluate"]["lm_eval"] = {"tasks": ["words_ind_Latn", "plain"], "include_path": str(tasks), "limit": 4}
    experiment, notes = as_suites(build_experiment(data, "test"))
    assert [suite.name for suite in experiment.evaluate.suites] == ["lm_eval:words_ind_Latn"]
    assert experiment.evaluate.lm_eval.tasks == ["plain"]
    assert len(notes) == 1
    assert "plain" in notes[0]
    (unit,) = suite_units(experiment)
    assert len(unit.rows) == 4
    chosen, _ = as_suites(selected(build_experiment(data, "test"), ["lm_eval:words_jav_Latn"]))
    assert [suite.name for suite in chosen.evaluate.suites] == ["lm_eval:words_jav_Latn"]
