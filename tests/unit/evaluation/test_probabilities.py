"""Calibration and one-against-rest AUC against scikit-learn and plain loops; draws against the point metrics."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from ialign_ray.evaluation.metrics.bootstrap import resample_weights
from ialign_ray.evaluation.metrics.classification import gold_labels, score_matrix
from ialign_ray.evaluation.metrics.probabilities import (
    auc_ovr,
    calibration_error,
    probability_draws,
    probability_metrics,
)


def sample(rows=200, labels=4, strength=1.5, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(labels, size=rows)
    return gold, rng.normal(size=(rows, labels)) + strength * np.eye(labels)[gold], rng.integers(20, 300, rows)


@pytest.mark.parametrize("labels", [3, 8])
def test_auc_is_scikit_learns_one_against_rest(labels):
    gold, scores, chars = sample(labels=labels)
    expected = roc_auc_score(gold, softmax(scores, axis=1), multi_class="ovr", average="macro")
    assert probability_metrics(gold, scores, chars)["auc_ovr"] == pytest.approx(expected)


def test_a_label_that_is_only_long_is_no_better_than_chance_at_fixed_length():
    rng = np.random.default_rng(1)
    gold = rng.integers(3, size=3000)
    chars = (60 + 40 * gold + rng.normal(0, 50, 3000)).clip(5).astype(int)
    by_length = -np.abs(chars[:, None] - np.array([60, 100, 140])) / 10.0
    assert auc_ovr(gold, by_length) > 0.65
    assert auc_ovr(gold, by_length, chars) == pytest.approx(0.5, abs=0.04)


def test_calibration_error_is_the_gap_of_each_bin():
    gold, scores, _ = sample()
    shares = softmax(scores, axis=1)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == gold
    expected = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(gold, scores) == pytest.approx(expected)


def test_sure_and_right_is_calibrated_sure_and_wrong_is_not():
    gold = np.array([0, 1, 0, 1])
    sure = 50.0 * np.eye(2)[gold]
    assert calibration_error(gold, sure) == pytest.approx(0.0)
    assert calibration_error(1 - gold, sure) == pytest.approx(1.0)
    assert calibration_error(gold, np.zeros((4, 2))) == pytest.approx(0.0)  # a tie is a guess, and says .5


def test_draws_are_the_metrics_of_the_rows_drawn():
    gold, scores, chars = sample(rows=60, labels=3)
    scores, gold = score_matrix(scores), gold_labels(gold, 3, 60)
    weights = resample_weights(60, 8, seed=2)
    draws = probability_draws(weights, np.arange(60), gold, scores, np.full(60, 10))
    for d in range(9):
        rows = np.repeat(np.arange(60), weights[:, d].astype(int))
        expected = probability_metrics(gold[rows], scores[rows], np.full(60, 10))
        for name in ("calibration_error", "auc_ovr"):
            assert draws[name][d] == pytest.approx(expected[name])
    whole = probability_draws(weights, np.arange(60), gold, scores, chars)
    assert whole["auc_ovr_length_fixed"][0] == pytest.approx(auc_ovr(gold, scores, chars))


def test_one_label_alone_has_no_auc():
    found = probability_metrics([1, 1], [[0.0, 1.0], [0.0, 2.0]], [3, 4])
    assert np.isnan(found["auc_ovr"])
