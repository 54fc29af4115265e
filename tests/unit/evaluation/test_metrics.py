"""Point metrics against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics import classification


def sample(rows=300, labels=3, strength=1.0, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(labels, size=rows)
    return (
        gold,
        rng.normal(size=(rows, labels)) + strength * np.eye(labels)[gold],
        rng.integers(20, 300, rows),
    )


@given(st.integers(1, 80), st.integers(2, 5), st.integers(0, 10_000))
def test_f1_accuracy_and_shares_equal_scikit_learn(rows, labels, seed):
    gold, scores, chars = sample(rows, labels, seed=seed)
    predicted = scores.argmax(axis=1)
    found = classification.classification_metrics(gold, scores, chars)
    for average in ("weighted", "macro"):
        expected = f1_score(gold, predicted, average=average, zero_division=0.0)
        assert found[f"f1_{average}"] == pytest.approx(expected)
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    assert [found[f"share_{k}"] for k in range(labels)] == pytest.approx(
        np.bincount(predicted, minlength=labels) / rows
    )


def test_auc_of_two_labels_is_the_ordinary_one_and_ignores_a_bias():
    gold, scores, _ = sample(labels=2)
    expected = roc_auc_score(gold, scores[:, 1] - scores[:, 0])
    assert classification.auc(gold, scores) == pytest.approx(expected)
    assert classification.auc(gold, scores + np.array([7.0, 0.0])) == pytest.approx(expected)


def test_auc_of_three_labels_leaves_the_middle_out():
    gold, scores, _ = sample(labels=3)
    ends = gold != 1
    expected = roc_auc_score(gold[ends] == 2, (scores[:, 2] - scores[:, 0])[ends])
    assert classification.auc(gold, scores) == pytest.approx(expected)


def test_fixed_length_takes_a_pure_length_score_to_chance_and_spares_a_real_one():
    rng = np.random.default_rng(1)
    gold = rng.integers(3, size=3000)
    chars = (60 + 40 * gold + rng.normal(0, 50, 3000)).clip(5).astype(int)
    by_length = np.stack([-chars, np.zeros(3000), chars], axis=1) / 100.0
    real = rng.normal(size=(3000, 3)) + 2 * np.eye(3)[gold]
    assert classification.auc(gold, by_length) > 0.8
    assert classification.auc_length_fixed(gold, by_length, chars) == pytest.approx(0.5, abs=0.04)
    assert classification.auc_length_fixed(gold, real, chars) == pytest.approx(classification.auc(gold, real), abs=0.02)


def test_constant_predictions_are_a_uniform_guess():
    gold, _, chars = sample(labels=4)
    found = classification.classification_metrics(gold, np.zeros((300, 4)), chars)
    assert found["accuracy"] == pytest.approx(0.25)
    assert [found[f"share_{k}"] for k in range(4)] == [0.25] * 4
    assert found["auc"] == found["auc_length_fixed"] == 0.5


def test_two_tied_labels_get_half_each():
    found = classification.classification_metrics([0, 1], [[0.0, 0.0, -9.0], [0.0, 0.0, -9.0]], [5, 6])
    assert found["accuracy"] == found["share_0"] == found["share_1"] == 0.5


def test_one_class_missing_leaves_auc_undefined_and_f1_defined():
    gold, scores, chars = sample()
    kept = gold != 2
    found = classification.classification_metrics(gold[kept], scores[kept], chars[kept])
    assert np.isnan(found["auc"])
    assert np.isnan(found["auc_length_fixed"])
    expected = f1_score(gold[kept], scores[kept].argmax(1), average="weighted", zero_division=0.0)
    assert found["f1_weighted"] == pytest.approx(expected)


def test_one_row():
    found = classification.classification_metrics([1], [[0.0, 1.0]], [9])
    assert found["f1_weighted"] == found["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[0.0, 1.0], [np.nan, 0.0]], r"1 of 2 rows hold NaN.*row 1"),
        ([[0.0, 1.0], [np.inf, 0.0]], "infinite"),
        ([[0.0, 1.0], [0.0]], "same number"),
        ([[0.0, 1.0], None], "same number"),
        ([[0.0], [1.0]], "two labels"),
        ([], "got shape"),
    ],
)
def test_bad_scores_are_refused(scores, said):
    with pytest.raises(DataError, match=said):
        classification.score_matrix(scores)


@pytest.mark.parametrize("gold", [[0, 2], [0, -1], [0, 0.5], [0, np.nan], [0], ["a", "b"]])
def test_bad_labels_are_refused(gold):
    with pytest.raises(DataError, match="label"):
        classification.gold_labels(gold, labels=2, rows=2)


def test_likelihood_metrics():
    ln2 = np.log(2)
    assert classification.bits_per_byte([8 * ln2, 4 * ln2], [4, 2]) == pytest.approx(2.0)
    assert classification.nats_per_token([3.0, 5.0], [2, 2]) == pytest.approx(2.0)
    assert classification.source_use([8 * ln2, 1.0], [12 * ln2, np.nan], [4, 99]) == pytest.approx(1.0)
    assert np.isnan(classification.source_use([1.0], [np.nan], [4]))
    with pytest.raises(DataError, match="0 bytes"):
        classification.bits_per_byte([1.0], [0])
