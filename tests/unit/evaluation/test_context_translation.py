"""Few-shot translation: pairs before the request, never those of test rows, and the same before a wrong source."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny_corpus import sentences, tiny_experiment

from ialign_ray.config import build_experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.scoring.context_suites import contexted_units
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.evaluation.subjects import open_scorer


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model_folder):
    """Function of settings of the context that returns its units of the translation suite."""
    folder = tmp_path_factory.mktemp("translation")
    data = tiny_experiment(folder, tiny_model_folder)
    # the sentences of two test rows are in a corpus of its own too, which nothing removes from training here
    rows = sentences(12, first=60)
    pd.DataFrame([{k: v for k, v in row.items() if k != "sid"} | {"sid": f"t{row['sid']}"} for row in rows]).to_parquet(
        folder / "tests.parquet"
    )
    columns = {"eng": "eng", "jav": "jav"}
    suite = {
        "kind": "translation", "name": "mt", "path": "tests.parquet", "id": "sid", "columns": columns, "pivot": "eng",
        "prompts": [{"name": "plain", "text": "{source_language} to {target_language}: {source}"}],
    }  # fmt: skip

    def units(**context):
        data["evaluate"] |= {"suites": [suite], "contexts": [{"name": "c", **context}]}
        experiment = build_experiment(data, "test")
        return experiment, contexted_units(experiment, ["c"])

    return units


@pytest.fixture(scope="module")
def scorer(made):
    return open_scorer(made(pairs={"k": 2})[0], None)


def test_requests_follow_pairs_of_their_direction_in_the_suites_wording(made, scorer):
    experiment, (unit,) = made(pairs={"k": 2})
    tests = set(unit.rows["source"]) | set(unit.rows["target"])
    for direction, stored in zip(unit.rows["language"], unit.rows["context"], strict=True):
        shown = json.loads(stored)
        assert len(shown) == 2
        called = {"eng": "English", "jav": "Javanese"}
        first, second = (called[code] for code in direction.split("-"))
        for text in shown:
            assert text.startswith(f"{first} to {second}: ")
            asked, answer = text.split(": ", 1)[1].split("\n")
            assert not {asked, answer} & tests
    rows = unit.rows.head(2).reset_index(drop=True)
    found = unit.predict(scorer, rows)
    prefix = [" ".join(json.loads(stored)) for stored in rows["context"]]
    assert all(prefix)
    whole = ["\n\n".join([*json.loads(s), p]) for s, p in zip(rows["context"], rows["prompt"], strict=True)]
    wrong = ["\n\n".join([*json.loads(s), p]) for s, p in zip(rows["context"], rows["mismatched"], strict=True)]
    np.testing.assert_allclose(found["nats"], scorer.nats(whole, list(rows["target"]))[0], atol=1e-3)
    np.testing.assert_allclose(found["mismatched_nats"], scorer.nats(wrong, list(rows["target"]))[0], atol=1e-3)
    assert found[["blocks", "dropped"]].to_numpy().tolist() == [[2, 0]] * 2
    plain = suite_units(experiment)[0]
    assert not np.allclose(plain.predict(scorer, plain.rows.head(2))["nats"], found["nats"])


def test_long_pairs_are_dropped_whole_and_counted(made, scorer):
    _, (unit,) = made(pairs={"k": 2})
    row = unit.rows.head(1)
    shown = json.loads(row["context"].iloc[0])
    longer = max(row["prompt"].iloc[0], row["mismatched"].iloc[0], key=scorer.prompt_tokens)
    room = scorer.prompt_tokens("\n\n".join([shown[1], longer]))
    short = type(unit)(**{**unit.__dict__, "max_tokens": room})
    found = short.predict(scorer, row)
    assert found[["blocks", "dropped"]].iloc[0].tolist() == [1, 1]
    expected = scorer.nats(["\n\n".join([shown[1], row["prompt"].iloc[0]])], list(row["target"]))[0]
    np.testing.assert_allclose(found["nats"], expected, atol=1e-3)


def test_other_contexts_leave_translation_alone_and_k_above_the_pool_is_an_error(made):
    assert made(dictionary={"path": "words.csv"})[1] == []
    with pytest.raises(DataError, match=r"contexts\.c\.pairs\.k is 5000, but the pool has"):
        made(pairs={"k": 5000})
