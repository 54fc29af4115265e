"""The bootstrap: equal to the point metrics, honest in coverage, fast."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import by_scikit_learn, drawn, sample

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics import bootstrap
from ialign_ray.evaluation.metrics.cell import Cell


def accuracy_draws(weights, hits):
    return (hits @ weights) / weights.sum(axis=0)


def test_weights_are_a_bootstrap_and_depend_on_the_arguments_alone():
    weights = bootstrap.resample_weights(50, 200, seed=3)
    assert weights.shape == (50, 201)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=0) == 50).all()
    assert weights[:, 1:].var() == pytest.approx(49 / 50, rel=0.05)
    assert (weights == bootstrap.resample_weights(50, 200, seed=3)).all()
    with pytest.raises(DataError, match="0 units"):
        bootstrap.resample_weights(0)


@pytest.mark.slow
@settings(deadline=None)
@given(st.integers(1, 60), st.integers(2, 5), st.integers(0, 10_000), st.booleans())
def test_draws_equal_the_point_metrics_on_every_resample(rows, labels, seed, coarse):
    """Repeating each row as often as it was drawn and asking scikit-learn gives the same number."""
    gold, scores, chars = sample(rows, labels, seed=seed)
    scores = scores.round() if coarse else scores  # ties
    weights = bootstrap.resample_weights(rows, 3, seed)
    found = drawn(gold, scores, chars, weights)
    for column in range(4):
        picked = np.repeat(np.arange(rows), weights[:, column].astype(int))
        expected = by_scikit_learn(gold[picked], scores[picked], chars[picked])
        if column:  # whether enough rows are matched is decided by the sample alone
            expected.pop("auc_length_fixed")
        for name, value in expected.items():
            assert found[name][column] == pytest.approx(value, nan_ok=True), name


def test_a_sentence_in_two_languages_is_one_unit():
    gold, scores, chars = sample(100)
    once = bootstrap.resample_weights(100)
    alone = drawn(gold, scores, chars, once)["accuracy"]
    twice = np.tile(np.arange(100), 2)
    doubled = drawn(gold[twice], scores[twice], chars[twice], once, twice)["accuracy"]
    assert alone == pytest.approx(doubled)  # copies add no certainty


def test_coverage_on_simulated_data():
    rng = np.random.default_rng(0)
    weights = bootstrap.resample_weights(150, 400)
    covered = sum(
        found.low <= 0.7 <= found.high
        for found in (bootstrap.interval(accuracy_draws(weights, rng.random(150) < 0.7), 150) for _ in range(400))
    )
    assert 0.91 <= covered / 400 <= 0.98


def test_coverage_of_paired_difference_under_no_difference():
    rng = np.random.default_rng(1)
    weights = bootstrap.resample_weights(150, 400)
    false_alarms = 0
    for _ in range(300):
        difficulty = rng.random(150)
        hits = [accuracy_draws(weights, rng.random(150) < 1 - difficulty) for _ in range(2)]
        found = bootstrap.difference(*hits, 150)
        false_alarms += not found.low <= 0 <= found.high
    assert false_alarms / 300 < 0.09


def test_paired_is_tighter_than_unpaired():
    rng = np.random.default_rng(2)
    first = rng.random(300) < 0.6
    second = np.where(rng.random(300) < 0.05, ~first, first)
    same, other = bootstrap.resample_weights(300), bootstrap.resample_weights(300, seed=9)
    paired = bootstrap.difference(accuracy_draws(same, first), accuracy_draws(same, second), 300)
    unpaired = bootstrap.difference(accuracy_draws(same, first), accuracy_draws(other, second), 300)
    assert paired.half_width < unpaired.half_width / 2


def test_p_values():
    weights = bootstrap.resample_weights(200)
    low, high = accuracy_draws(weights, np.arange(200) < 100), accuracy_draws(weights, np.arange(200) < 150)
    assert bootstrap.difference(low, low, 200).p == 1.0
    found = bootstrap.difference(high, low, 200)
    assert found.value == pytest.approx(0.25)
    assert found.p < 1e-9
    assert found.low > 0


def test_rounding_noise_is_no_difference():
    draws = np.linspace(0.4, 0.6, 1001)
    found = bootstrap.difference(draws + 1e-15, draws, 100)
    assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_one_sentence_has_no_interval():
    found = bootstrap.interval(np.ones(1001), 1)
    assert found.value == 1.0
    assert np.isnan([found.low, found.high, found.half_width]).all()
    assert np.isnan(bootstrap.difference(np.ones(1001), np.zeros(1001), 1).p)


def test_a_metric_undefined_in_many_resamples_has_no_interval():
    gold = np.array([0] * 30 + [2])
    found = drawn(gold, np.random.default_rng(0).random((31, 3)), gold, bootstrap.resample_weights(31))
    assert np.isnan(bootstrap.interval(found["auc"], 31).low)
    assert np.isfinite(bootstrap.interval(found["f1_weighted"], 31).low)


def test_constant_predictions_have_a_defined_interval():
    gold, _, chars = sample(200)
    constant = np.tile([1.0, 0.0, 0.0], (200, 1))
    found = drawn(gold, constant, chars, bootstrap.resample_weights(200))
    assert bootstrap.interval(found["share_0"], 200) == bootstrap.Interval(1.0, 1.0, 1.0, 200)
    assert bootstrap.interval(found["auc"], 200) == bootstrap.Interval(0.5, 0.5, 0.5, 200)
    few = bootstrap.interval(found["share_0"], 3)  # three units that agree show nothing
    assert np.isnan(few.low)
    assert 0 < bootstrap.interval(found["f1_weighted"], 200).half_width < 0.1


def test_totals_are_those_of_the_rows_drawn():
    rng = np.random.default_rng(0)
    nats, sizes = rng.random(40) * 50, rng.integers(1, 90, 40).astype(float)
    nats[5] = np.nan  # left out of both totals
    unit = np.arange(40) // 2  # two rows a sentence
    weights = bootstrap.resample_weights(20, 9)
    cell = Cell(pd.DataFrame({"id": unit}), unit, weights)
    for column, (ratio, mean) in enumerate(zip(cell.ratio(nats, sizes), cell.mean(nats), strict=True)):
        picked = np.repeat(np.arange(40), weights[unit, column].astype(int))
        picked = picked[picked != 5]
        assert ratio == pytest.approx(nats[picked].sum() / sizes[picked].sum())
        assert mean == pytest.approx(nats[picked].mean())


def test_fifteen_cells_are_fast():
    gold, scores, chars = sample(400)
    start = time.process_time()
    weights = bootstrap.resample_weights(400)
    for _ in range(15):
        drawn(gold, scores, chars, weights)
    assert time.process_time() - start < 5  # CPU seconds: a busy machine does not fail it


def test_many_draw_vectors_at_once_are_as_one_by_one():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(6, 101))
    draws[1, 5] = np.nan  # known but for one draw
    draws[2, 1:50] = np.nan  # unknown in too many
    draws[3, 0] = np.nan
    draws[4] = 0.0
    sizes = [9, 8, 7, 6, 5, 1]
    parts = [bootstrap.estimates(row[None], [n], bootstrap.resample_weights(n, 100)) for row, n in zip(draws, sizes)]
    found = bootstrap.Estimates.joined(parts)
    (low, high), p = found.bounds(), found.p()
    for row, n in enumerate(sizes):
        one = bootstrap.difference(draws[row], np.zeros(101), n)
        expected = {"value": found.value[row], "low": low[row], "high": high[row], "n": n, "p": p[row]}
        assert vars(one) == pytest.approx(expected, nan_ok=True)
    assert np.isfinite(low).tolist() == [True, True, False, False, True, False]
    assert np.isnan(p).tolist() == [False, False, True, True, False, True]
    assert found.error[1] == pytest.approx(np.nanstd(draws[1, 1:]) * 8 / 6, rel=1e-3)
    assert p[4] == 1.0


LOSSES = {
    "normal, n = 20": (20, lambda rng, shape: rng.normal(2, 0.6, shape), 2.0),
    "normal, n = 48": (48, lambda rng, shape: rng.normal(2, 0.6, shape), 2.0),
    "lognormal s = 1, n = 48": (48, lambda rng, shape: rng.lognormal(0, 1, shape), np.exp(0.5)),
    "lognormal s = 1.5, n = 48": (48, lambda rng, shape: rng.lognormal(0, 1.5, shape), np.exp(1.125)),
}
"""Nats a token of sentences: how many, how they are drawn, and their true mean."""


@pytest.mark.parametrize("case", LOSSES)
def test_intervals_cover_the_truth_with_few_sentences_and_heavy_tails(case):
    """Percentile intervals of a ratio estimator cover .91, .94, .89 and .83 of these."""
    n, losses, truth = LOSSES[case]
    rng = np.random.default_rng(3)
    tokens = rng.integers(5, 60, (1500, n)).astype(float)
    weights = bootstrap.resample_weights(n)
    found = bootstrap.estimates(
        ((tokens * losses(rng, tokens.shape)) @ weights) / (tokens @ weights), [n] * 1500, weights
    )
    low, high = found.bounds()
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


def test_a_share_near_one_is_not_as_wide_as_a_heavy_tail():
    """Five wrong of forty-eight: the exact binomial interval is [.77, .97]."""
    weights = bootstrap.resample_weights(48)
    found = bootstrap.interval(accuracy_draws(weights, np.arange(48) >= 5), 48)
    assert 0.7 < found.low < 0.8
    assert 0.93 < found.high < 1


def test_p_is_below_the_level_exactly_where_the_interval_excludes_zero():
    rng = np.random.default_rng(4)
    weights = bootstrap.resample_weights(30, 200)
    found = bootstrap.estimates(rng.lognormal(0, 1, (500, 30)) @ weights / 30 - np.exp(0.5), [30] * 500, weights)
    for level in (0.95, 0.9, 0.9999):
        low, high = found.bounds(level)
        assert ((found.p() < 1 - level) == ((low > 0) | (high < 0))).all()
    assert (found.p() > 0).all()


def test_the_detectable_difference_is_seen_in_four_of_five_samples():
    rng = np.random.default_rng(0)
    error = 0.03
    seen = bootstrap.estimates(np.r_[0, rng.normal(0, error, 4000)][None], [10_000]).detectable()[0]
    assert seen == pytest.approx(2.80 * error, rel=0.05)
    samples = rng.normal(seen, error, 4000)
    assert np.mean(samples - 1.96 * error > 0) == pytest.approx(0.8, abs=0.03)
    assert np.isnan(bootstrap.estimates(np.full((1, 101), np.nan), [50]).detectable()[0])
