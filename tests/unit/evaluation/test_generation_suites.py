"""Generated answers against references: rows, faults, metrics in many scripts, and the report."""

import json
import os
import sys
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console
from sacrebleu.metrics.chrf import CHRF

from ialign_ray.config import build_experiment
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.comet import PYTHON, judged_texts
from ialign_ray.evaluation.metrics.generation import answer_draws, best_rouge_l, plain, rouge_l, units
from ialign_ray.evaluation.report.write import report
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.scoring.suite_kinds import kind_of, suite_units
from ialign_ray.evaluation.subjects import open_scorer
from ialign_ray.evaluation.suites.answers import generation_rows
from ialign_ray.streaming.curate import evaluation_index

LONG = {
    "language": "lang",
    "text": {"passage": "passage", "question": "question"},
    "values": {"eng": "en", "jav": "jv"},
}
ROWS = [
    {"id": f"r{k}", "lang": lang, "passage": f"Passage {k} in {lang}.", "question": f"What is {k}?",
     "answers": [f"It is {k}.", f"{k}"]}
    for k in range(4) for lang in ("en", "jv")
]  # fmt: skip


def asked(experiment_data, tmp_path, rows=ROWS, **changes):
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    suite = {
        "kind": "generation", "name": "open", "path": "rows.jsonl", "long": LONG, "reference": "answers", "id": "id",
        "prompts": [
            {"name": "plain", "text": "{passage}\n{question}"},
            {"name": "named", "language": "ind", "text": "Jawab dalam bahasa {language}: {question}\n{passage}"},
        ],
        "max_new_tokens": 4,
    }  # fmt: skip
    experiment_data["evaluate"]["suites"] = [suite | changes]
    return build_experiment(experiment_data, "test")


def made(experiment):
    (suite,) = experiment.evaluate.suites
    return generation_rows(suite, experiment, suite.asked[0])


def test_rows_hold_every_text_and_all_references(experiment_data, tmp_path):
    experiment = asked(experiment_data, tmp_path)
    (suite,) = experiment.evaluate.suites
    first, second = (generation_rows(suite, experiment, prompt) for prompt in suite.asked)
    assert first["prompt"][0] == "Passage 0 in en.\nWhat is 0?"
    assert second["prompt"].tolist()[-1] == "Jawab dalam bahasa Jawa: What is 3?\nPassage 3 in jv."
    assert first["references"].tolist()[1] == ["It is 1.", "1"]
    assert first["source"][0] == "Passage 0 in en.\nWhat is 0?"
    assert sorted(first["language"]) == ["eng"] * 4 + ["jav"] * 4


@pytest.mark.parametrize(
    ("reference", "row", "found"),
    [
        ("answers", {"answers": "One text."}, ["One text."]),
        (["a", "b"], {"a": "first", "b": "second"}, ["first", "second"]),
        (["a", "b"], {"a": "first", "b": None}, ["first"]),
        (["a", "b"], {"a": "", "b": "second"}, ["second"]),
        ({"eng": "a", "jav": "b"}, {"a": "first", "b": "second"}, ["first"]),
        ("answers", {"answers": 42}, ["42"]),
    ],
)
def test_layouts_of_references(experiment_data, tmp_path, reference, row, found):
    rows = [{k: v for k, v in one.items() if k != "answers"} | row for one in ROWS]
    assert made(asked(experiment_data, tmp_path, rows, reference=reference))["references"][0] == found


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"answers": []}, "row 3 (id 'eng:r1'), eng has no reference in column 'answers'"),
        ({"answers": None}, "row 3 (id 'eng:r1'), eng has no reference"),
        ({"answers": [""]}, "has an empty reference"),
        ({"answers": ["good", " \t"]}, "has an empty reference"),
        ({"question": ""}, "column 'question' is empty"),
        ({"passage": None, "question": None}, "column 'passage' is empty"),
        ({"id": "r0"}, "duplicate id"),
    ],
)
def test_rows_that_are_wrong(experiment_data, tmp_path, change, part):
    rows = [row | change if k == 2 else row for k, row in enumerate(ROWS)]
    with pytest.raises(DataError) as caught:
        made(asked(experiment_data, tmp_path, rows))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"reference": {"eng": "answers"}}, "language 'jav' has no columns in `reference`"),
        ({"prompts": [{"name": "p", "text": "{passage}"}]}, "lacks the slot {question}"),
        ({"prompts": [{"name": "p", "text": "{passage} {question} {answer}"}]}, "unknown slot {answer}"),
        ({"prompts": []}, "prompts"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"metric": "bleu"}, "metric is 'bleu'"),
        ({"reference": []}, "reference"),
        ({"also": ["f1_macro"]}, "also is 'f1_macro'"),
    ],
)
def test_settings_that_are_wrong(experiment_data, tmp_path, change, part):
    with pytest.raises(ConfigError, match=None) as caught:
        asked(experiment_data, tmp_path, **change)
    assert part in str(caught.value)


def test_references_are_kept_out_of_training(experiment_data, tmp_path):
    experiment = asked(
        experiment_data, tmp_path, [row | {"answers": [f"the secret number {row['id']}"]} for row in ROWS]
    )
    (suite,) = experiment.evaluate.suites
    assert set(suite.text_columns) == {"passage", "question", "answers"}
    found = evaluation_index(experiment).exact(pa.array(["the secret number r1", "another secret"]))
    assert list(found) == [True, False]


def test_answers_are_generated_once_per_prompt_and_measured(experiment_data, tmp_path):
    experiment = asked(experiment_data, tmp_path)
    scorer = open_scorer(experiment, None)
    frames = [unit.predict(scorer, unit.rows.reset_index(drop=True)) for unit in suite_units(experiment)]
    assert [set(frame["prompt"]) for frame in frames] == [{"plain"}, {"named"}]
    frame = pd.concat(frames, ignore_index=True)
    assert kind_of("open", frame, None) == "generation"
    assert (frame["new_tokens"] <= 4).all()
    plan = ResamplingPlan(experiment.languages.groups(), {"open": "generation"}, resamples=10)
    assert {"chrf", "rouge_l", "exact_match", "valid"} <= {key.metric for key in measure(frame, plan).measures}
    runs = {name: [{"open": frame}] for name in ("base", "control")}
    better = frame.assign(hypothesis=[given[0] for given in frame["references"]], cut=False)
    report(
        experiment,
        runs | {"control": [{"open": better}], "arm": [{"open": frame}]},
        tmp_path / "out",
        Console(quiet=True),
    )
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Passage 0 in en." in page  # examples show prompt, reference and answers
    assert "It is 0." in page
    text = (tmp_path / "out" / "RESULTS.md").read_text("utf-8")
    assert "open L2 ROUGE-L" in text
    assert "nrefs:2" in text


def cell(answers, references, sources=None, language="eng", cut=None):
    n = len(answers)
    rows = pd.DataFrame({"suite": "open", "prompt": "p", "language": language, "id": [str(k) for k in range(n)]})
    rows["source"] = sources or ["What is it?"] * n
    rows["prompt_text"] = "Answer: " + rows["source"]
    rows["hypothesis"], rows["references"], rows["cut"] = answers, references, cut or [False] * n
    rows["new_tokens"] = 1
    return Cell(rows, np.arange(n), np.ones((n, 1)))


def test_several_references_count_as_sacrebleu_counts_them():
    answers, references = ["the cat sat", "a dog"], [["a cat sat", "the cat sat down", "cats"], ["the dog"]]
    expected = CHRF(word_order=2).corpus_score(
        answers, [["a cat sat", "the dog"], ["the cat sat down", None], ["cats", None]]
    )
    assert answer_draws(cell(answers, references))["chrf"][0] == pytest.approx(expected.score)


def test_shares_of_answers():
    answers = ["It is.", "", "What is it?", "answer: what is it", "long", "  IT is!"]
    drawn = answer_draws(cell(answers, [["it is"]] * 6, cut=[False] * 4 + [True, False]))
    found = {name: float(draws[0]) for name, draws in drawn.items()}
    shares = {"exact_match": 2 / 6, "empty": 1 / 6, "copied": 2 / 6, "cut": 1 / 6, "valid": 2 / 6}
    assert found | shares == pytest.approx(found)
    assert not any(name.startswith("off_target") for name in found)  # too few references


def test_answers_in_another_language_are_found():
    english = [f"The weather in the village was very good on day {k} of the long journey." for k in range(20)]
    answers = ["Cuaca di desa itu sangat baik pada hari perjalanan yang panjang."] * 5 + english[5:]
    drawn = answer_draws(cell(answers, [[text] for text in english]))
    assert drawn["off_target"][0] == pytest.approx(0.25)
    assert drawn["off_target_reference"][0] == 0


def test_a_missing_answer_is_refused():
    with pytest.raises(DataError, match="row 1 has no answer"):
        answer_draws(cell(["a", None], [["a"], ["b"]]))


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("  Jakarta. ", "jakarta", True),
        ("\u201cÉté\u201d", unicodedata.normalize("NFD", "été"), True),
        ("東京。", "東京", True),
        ("two  words", "two words", True),
        ("C++", "C", True),
        ("don't", "dont", False),
        ("!", "?", False),
        ("", "", True),
    ],
)
def test_exact_match_ignores_form_case_and_edges(one, two, same):
    assert (plain(one) == plain(two)) is same


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The Cat's 3 hats!", ["the", "cat", "s", "3", "hats"]),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("မြန်မာ", ["မြ", "န်", "မ", "ာ"]),
        ("ភាសា", ["ភា", "សា"]),
        ("東京 Tokyo", ["東", "京", "tokyo"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("... \u200b", []),
        ("", []),
    ],
)
def test_units_of_scripts(text, found):
    assert units(text) == [unicodedata.normalize("NFC", unit) for unit in found]


def naive(one, two):
    table = np.zeros((len(one) + 1, len(two) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_rouge_is_the_longest_common_subsequence():
    rng = np.random.default_rng(0)
    for _ in range(200):
        one, two = ([f"w{k}" for k in rng.integers(0, 5, rng.integers(0, 90))] for _ in range(2))
        total = len(one) + len(two)
        expected = 2 * naive(one, two) / total if total else 0
        assert rouge_l(" ".join(one), " ".join(two)) == pytest.approx(expected)
    assert rouge_l("", "") == rouge_l("...", "?!") == rouge_l("a", "") == 0
    assert best_rouge_l("saya makan nasi", ["dia tidur", "saya makan nasi"]) == 1


COMET = """
import json, os, sys

def download_model(model, saving_directory=None, local_files_only=False):
    return f"/cache/{model}/checkpoints/model.ckpt"

class Model:
    def __init__(self, path):
        self.path = path

    def predict(self, samples, batch_size=16, gpus=1, devices=None, mc_dropout=0, progress_bar=True,
                accelerator="auto", num_workers=None, length_batching=True):
        print("a bar on standard output")
        with open(os.environ["CALLS"], "a") as file:
            print(json.dumps([self.path, gpus, samples]), file=file)
        if samples[0]["src"] == "fail":
            raise RuntimeError("boom")
        scores = [float(sample["mt"] == sample["ref"]) for sample in samples]
        return type("Prediction", (), {"scores": scores, "system_score": sum(scores) / len(scores)})()

def load_from_checkpoint(checkpoint_path, reload_hparams=False, strict=False, local_files_only=False):
    return Model(checkpoint_path)
"""


@pytest.fixture
def comet(tmp_path, monkeypatch):
    """A module of the documented API of unbabel-comet, and the file of the calls that it gets."""
    (tmp_path / "site" / "comet").mkdir(parents=True)
    (tmp_path / "site" / "comet" / "__init__.py").write_text(COMET)
    (tmp_path / "site" / "torch.py").write_text("class cuda:\n    is_available = staticmethod(lambda: False)\n")
    launcher = tmp_path / "python"
    launcher.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(launcher))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_comet_judges_source_answer_and_references(comet, experiment_data, tmp_path):
    experiment = asked(experiment_data, tmp_path, also=["comet"])
    suite_units(experiment)  # installed
    rows = cell(["right", "wrong"], [["a", "right"], ["b"]], sources=["s1", "s2"]).rows
    plan = ResamplingPlan({"eng": "L1"}, {"open": "generation"}, 10, named={"open": ("comet",)})
    for _ in range(2):
        measured = measure(rows, plan).measures
    found = {key.metric: float(m.draws[0]) for key, m in measured.items() if key.scope == "all" and key.prompt == "all"}
    assert found["comet"] == 0.5  # the best reference of each row
    assert "africomet" not in found
    (call,) = [json.loads(line) for line in comet.read_text().splitlines()]  # once, although measured twice
    assert call[:2] == ["/cache/Unbabel/wmt22-comet-da/checkpoints/model.ckpt", 0]
    assert call[2][1] == {"src": "s1", "mt": "right", "ref": "right"}
    assert len(call[2]) == 3


def test_comet_that_fails_is_reported(comet, tmp_path):
    plan = ResamplingPlan({"eng": "L1"}, {"open": "generation"}, 10, named={"open": ("comet",)})
    with pytest.raises(Exception, match="wmt22-comet-da"):
        measure(cell(["x"], [["y"]], sources=["fail"]).rows, plan)


@pytest.mark.parametrize("python", [sys.executable, "/nowhere/python"])
def test_comet_that_is_not_installed_is_refused_before_scoring(experiment_data, tmp_path, monkeypatch, python):
    monkeypatch.setenv(PYTHON, python)
    experiment = asked(experiment_data, tmp_path, metric="comet")
    with pytest.raises(ConfigError) as caught:
        suite_units(experiment)
    assert "pip install unbabel-comet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.environ[PYTHON] == python


def test_a_metric_gets_the_texts_of_both_kinds():
    answered = cell(["h"], [["r1", "r2"]], sources=["s"])
    assert judged_texts(answered) == [("s", "h", ("r1", "r2"))]
    translated = answered.rows.drop(columns="references").assign(reference="r")
    assert judged_texts(Cell(translated, np.arange(1), np.ones((1, 1)))) == [("s", "h", ("r",))]
    scored = translated.drop(columns="hypothesis")
    assert judged_texts(Cell(scored, np.arange(1), np.ones((1, 1)))) is None
