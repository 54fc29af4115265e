"""Baselines are fitted on training labels alone and pass through the same metrics."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import BASELINES, baseline_predictions
from ialign_ray.evaluation.results.summary import summarise

GROUPS = {"ind": "L1", "jav": "L2"}


def rows(count=300, seed=0, shares=(0.5, 0.2, 0.3)):
    rng = np.random.default_rng(seed)
    frames = []
    for language in GROUPS:
        label = rng.choice(3, size=count, p=shares)
        chars = (50 + 60 * label + rng.normal(0, 20, count)).clip(1).astype(int)
        ids = [f"s{i}" for i in range(count)]
        frames.append(pd.DataFrame({"suite": "nusax", "language": language, "id": ids, "label": label, "chars": chars}))
    return pd.concat(frames, ignore_index=True)


WORDS = ("buruk", "biasa", "bagus")


def worded(frame, share=1.0, seed=0):
    """Rows with a text whose second word is the label's, in a share of them."""
    rng = np.random.default_rng(seed)
    said = [WORDS[k] if rng.random() < share else str(rng.choice(WORDS)) for k in frame["label"]]
    return frame.assign(text=[f"makanan {word} sekali" for word in said])


def scores_of(train, test):
    found = summarise(baseline_predictions(train, test, {"nusax": 3}), GROUPS, resamples=50)
    wanted = found[(found["prompt"] == "all") & (found["scorer"] == "sum") & (found["scope"] == "language:jav")]
    return wanted.set_index(["run", "metric"])["value"]


def test_values():
    test = rows(seed=1)
    found = scores_of(rows(), test)
    gold = test[test["language"] == "jav"]["label"]
    assert found["random", "accuracy"] == pytest.approx(1 / 3)
    assert found["random", "auc"] == found["majority", "auc"] == 0.5
    assert found["majority", "share_0"] == 1.0
    assert found["majority", "f1_weighted"] == pytest.approx(
        f1_score(gold, np.zeros(len(gold)), average="weighted", zero_division=0.0)
    )
    assert found["length", "f1_weighted"] > 0.75
    assert found["length", "auc"] > 0.9


@pytest.mark.slow
def test_random_is_the_expectation_of_uniform_guesses():
    test = rows(seed=1)
    gold = test[test["language"] == "jav"]["label"]
    rng = np.random.default_rng(0)
    guessed = [f1_score(gold, rng.integers(3, size=len(gold)), average="weighted") for _ in range(300)]
    assert scores_of(rows(), test)["random", "f1_weighted"] == pytest.approx(np.mean(guessed), abs=0.005)


def test_majority_is_that_of_training_not_of_test():
    test = rows(seed=1, shares=(0.1, 0.1, 0.8))
    assert scores_of(rows(), test)["majority", "share_0"] == 1.0


def test_test_labels_change_no_prediction():
    test = worded(rows(seed=1))
    changed = test.assign(label=(test["label"] + 1) % 3)
    first, second = (baseline_predictions(worded(rows()), frame, {"nusax": 3}) for frame in (test, changed))
    for name in BASELINES:
        assert [list(s) for s in first[name]["sum"]] == [list(s) for s in second[name]["sum"]]


def test_a_class_missing_in_training_and_a_language_without_training_rows():
    train = rows()
    train = train[(train["label"] != 1) & (train["language"] == "ind")]
    found = scores_of(train, rows(seed=1))
    assert found["length", "share_1"] == 0.0
    assert found["majority", "share_0"] == 1.0


def test_prompts_of_a_run_are_dropped():
    test = rows(seed=1)
    prompted = pd.concat([test.assign(prompt=p) for p in "ab"])
    found = baseline_predictions(rows(), prompted, {"nusax": 3})["length"]
    assert len(found) == len(test)
    assert set(found["prompt"]) == {"none"}


def test_refusals():
    with pytest.raises(DataError, match="'other' has no training rows"):
        baseline_predictions(rows(), rows().assign(suite="other"), {"other": 3})
    with pytest.raises(DataError, match="no number of labels"):
        baseline_predictions(rows(), rows(), {})
    with pytest.raises(DataError, match="'chars' is missing"):
        baseline_predictions(rows().drop(columns="chars"), rows(), {"nusax": 3})


def test_ngrams_learn_wording_and_are_made_only_where_there_is_text():
    made = baseline_predictions(worded(rows()), worded(rows(seed=1)), {"nusax": 3})
    assert list(made) == list(BASELINES)
    found = summarise(made, GROUPS, resamples=50)
    wanted = found[(found["prompt"] == "all") & (found["scorer"] == "sum") & (found["scope"] == "all")]
    scores = wanted.set_index(["run", "metric"])["value"]
    assert scores["ngrams", "accuracy"] == 1.0
    assert scores["length", "accuracy"] < 0.95
    assert "text" not in made["ngrams"].columns
    assert "ngrams" not in baseline_predictions(rows(), worded(rows(seed=1)), {"nusax": 3})


def test_ngrams_of_a_pair_know_which_text_is_which():
    """The word decides in the second text, and stands in the first at random."""
    train, test = (worded(frame).rename(columns={"text": "text:hypothesis"}) for frame in (rows(), rows(seed=1)))
    train, test = (
        worded(f, share=0.0, seed=k).rename(columns={"text": "text:premise"}) for k, f in enumerate((train, test))
    )
    found = baseline_predictions(train, test, {"nusax": 3})["ngrams"]
    assert (np.stack(found["sum"]).argmax(axis=1) == found["label"]).mean() == 1.0


def test_ngrams_with_one_training_label_are_the_majority():
    train = worded(rows())
    found = baseline_predictions(train[train["label"] == 2], worded(rows(seed=1)), {"nusax": 3})
    assert [list(s) for s in found["ngrams"]["sum"]] == [list(s) for s in found["majority"]["sum"]]


def test_a_suite_without_training_rows_is_crossed_fold_by_fold():
    """Labels carry no signal but a text of each row's own: only a row that was learned from could be recognised."""
    frame = rows()
    frame = frame.assign(
        text=[f"w{a}{b}" for a, b in zip(frame["language"], frame["id"])],
        fold=pd.array([int(i[1:]) % 5 for i in frame["id"]], "Int64"),
        chars=10,
    )
    learned = baseline_predictions(frame.drop(columns="fold"), frame.drop(columns="fold"), {"nusax": 3})["ngrams"]
    crossed = baseline_predictions(frame, frame, {"nusax": 3})["ngrams"]
    hit = {
        name: (np.stack(f["sum"]).argmax(axis=1) == f["label"]).mean()
        for name, f in {"learned": learned, "crossed": crossed}.items()
    }
    assert hit["learned"] > 0.95
    assert hit["crossed"] < 0.6
    one = frame[frame["fold"] == 0]
    with pytest.raises(DataError, match="all in one fold"):
        baseline_predictions(one, one, {"nusax": 3})
