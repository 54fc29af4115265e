from __future__ import annotations

import pandas as pd
import pytest

from ialign_ray.config import ClassificationSuite, TranslationSuite, build_experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.suites.load import classification_rows, translation_rows
from ialign_ray.tasks.templating import fill

LABELS = {"negative": {"eng": "negative"}, "neutral": {"eng": "neutral"}, "positive": {"eng": "positive"}}


@pytest.fixture
def table(tmp_path):
    rows = [
        {
            "id": k,
            "split": "train" if k < 6 else "test",
            "label": list(LABELS)[k % 3],
            "eng": f"sentence {k}",
            "jav": f"ukara {k} dawa",
        }
        for k in range(18)
    ]
    path = tmp_path / "suite.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def suite(path, **changes):
    plain = {
        "name": "s",
        "path": str(path),
        "id": "id",
        "columns": {"eng": "eng", "jav": "jav"},
        "labels": LABELS,
        "prompts": [{"name": "p", "text": "{text}\nHow?"}],
    }
    return ClassificationSuite.model_validate(plain | changes)


def test_test_rows_are_the_same_sentences_in_every_language(table):
    rows = classification_rows(suite(table, test_limit=5), ".")
    by_language = rows.test.groupby("language")["id"].apply(set)
    assert by_language["eng"] == by_language["jav"]
    assert len(by_language["eng"]) == 5
    assert len(rows.train) == 12
    assert list(rows.test["chars"]) == [len(t) for t in rows.test["text"]]


def test_a_label_that_the_suite_does_not_name_is_refused(table):
    fewer = {k: LABELS[k] for k in ("negative", "positive")}
    with pytest.raises(DataError, match="'neutral'"):
        classification_rows(suite(table, labels=fewer), ".")


def test_a_label_missing_from_the_data_is_refused(table):
    with pytest.raises(DataError, match="'mixed' occurs in no row"):
        classification_rows(suite(table, labels=LABELS | {"mixed": {"eng": "mixed"}}), ".")


def test_an_empty_language_is_refused(table):
    frame = pd.read_parquet(table)
    frame["jav"] = ""
    frame.to_parquet(table)
    with pytest.raises(DataError, match=r"'jav' \(jav\) is empty"):
        classification_rows(suite(table), ".")


def test_no_test_rows_is_refused(table):
    with pytest.raises(DataError, match="split = 'dev'"):
        classification_rows(suite(table, test="dev"), ".")


def prompted(table, text):
    return suite(table, prompts=[{"name": "p", "language": "eng", "text": text}])


def test_braces_of_a_prompt_that_are_no_slot_are_text(table):
    text = '{text}\nAnswer as {"mood": "good"} or {}, \\frac{ }{-}.'
    assert fill(prompted(table, text).prompts[0].text, {"text": "{text}"})[0] == text


@pytest.mark.parametrize("slot", ["0", "text.x", "text!r", "text:>99999999", "text[0]", " text ", "Text", "other"])
def test_an_unknown_slot_of_a_prompt_is_refused(table, slot):
    with pytest.raises(ValueError, match="unknown slot"):
        prompted(table, f"{{text}} {{{slot}}}")


def test_a_prompt_that_names_its_slot_thousands_of_times_is_refused(table):
    with pytest.raises(ValueError, match="9000 slots"):
        prompted(table, "{text}" * 9000)


def test_mismatched_sources_are_other_sentences_of_the_same_set(table, experiment_data):
    experiment = build_experiment(experiment_data, "test")
    made = TranslationSuite.model_validate(
        {"name": "t", "path": str(table), "columns": {"eng": "eng", "jav": "jav"}, "directions": [("eng", "jav")]}
    )
    rows = translation_rows(made, experiment, made.prompts[0])
    assert (rows["prompt"] != rows["mismatched"]).all()
    assert set(rows["mismatched"]) <= set(rows["prompt"])
    assert "from English to Javanese" in rows["prompt"][0]
