"""Calibration and one-against-rest AUC against scikit-learn and plain loops; draws against the point metrics."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from test_metrics import by_pairs, drawn, point, within

from ialign_ray.evaluation.metrics.bootstrap import resample_weights


def sample(rows=200, labels=4, strength=1.5, seed=0):
    rng = np.random.default_rng(seed)
    gold = rng.integers(labels, size=rows)
    return gold, rng.normal(size=(rows, labels)) + strength * np.eye(labels)[gold], rng.integers(20, 300, rows)


@pytest.mark.parametrize("labels", [3, 8])
def test_auc_is_scikit_learns_one_against_rest(labels):
    gold, scores, chars = sample(labels=labels)
    expected = roc_auc_score(gold, softmax(scores, axis=1), multi_class="ovr", average="macro")
    assert point(gold, scores, chars)["auc_ovr"] == pytest.approx(expected)


def test_a_label_that_is_only_long_is_no_better_than_chance_at_fixed_length():
    rng = np.random.default_rng(1)
    gold = rng.integers(3, size=3000)
    chars = (60 + 40 * gold + rng.normal(0, 50, 3000)).clip(5).astype(int)
    by_length = -np.abs(chars[:, None] - np.array([60, 100, 140])) / 10.0
    found = point(gold, by_length, chars)
    assert found["auc_ovr"] > 0.65
    assert found["auc_ovr_length_fixed"] == pytest.approx(0.5, abs=0.04)


def test_calibration_error_is_the_gap_of_each_bin():
    gold, scores, chars = sample()
    shares = softmax(scores, axis=1)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == gold
    expected = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert point(gold, scores, chars)["calibration_error"] == pytest.approx(expected)


def test_sure_and_right_is_calibrated_sure_and_wrong_is_not():
    gold = np.array([0, 1, 0, 1])
    sure = 50.0 * np.eye(2)[gold]
    for right, scores, expected in ((gold, sure, 0.0), (1 - gold, sure, 1.0), (gold, np.zeros((4, 2)), 0.0)):
        # a tie is a guess, and says .5
        assert point(right, scores, gold)["calibration_error"] == pytest.approx(expected)


def one_vs_rest(gold, scores, chars=None):
    shares = softmax(scores, axis=1)
    return np.mean(
        [
            within(gold == k, shares[:, k]) if chars is None else by_pairs(gold == k, shares[:, k], chars)
            for k in np.unique(gold)
        ]
    )


def test_draws_are_the_metrics_of_the_rows_drawn():
    gold, scores, chars = sample(rows=60, labels=3)
    weights = resample_weights(60, 8, seed=2)
    draws = drawn(gold, scores, np.full(60, 10), weights)
    for d in range(9):
        rows = np.repeat(np.arange(60), weights[:, d].astype(int))
        assert draws["auc_ovr"][d] == pytest.approx(one_vs_rest(gold[rows], scores[rows]))
        expected = point(gold[rows], scores[rows], np.full(60, 10))["calibration_error"]
        assert draws["calibration_error"][d] == pytest.approx(expected)
    gold, scores, chars = sample(rows=200, labels=3)
    whole = point(gold, scores, chars)["auc_ovr_length_fixed"]
    assert whole == pytest.approx(one_vs_rest(gold, scores, chars))


def test_one_label_alone_has_no_auc():
    found = point([1, 1], [[0.0, 1.0], [0.0, 2.0]], [3, 4])
    assert np.isnan(found["auc_ovr"])
