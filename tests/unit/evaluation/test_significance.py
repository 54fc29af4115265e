"""Holm, McNemar, power and correlation: what is handed to scipy, and what is said of the answer."""

from math import comb

import numpy as np
import pandas as pd
import pytest
from test_results import GROUPS, classified

from ialign_ray.evaluation.results import cells, significance, summary


def test_holm_by_hand_and_with_unknown_p():
    found = significance.holm([0.01, np.nan, 0.04, 0.03])
    assert found[[0, 2, 3]] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(found[1])
    assert np.isnan(significance.holm([np.nan])).all()


def test_mcnemar_counts_sentences_of_either_run():
    plan = cells.ResamplingPlan(GROUPS, resamples=20)
    first, second = (classified(strength=s, seed=s, prompts=("a",)) for s in (2, 1))
    rows = significance.mcnemar_rows("x", cells.measure(first, plan), "y", cells.measure(second, plan), "sum")
    row = rows[rows["language"] == "jav"].iloc[0]
    right = [
        (np.stack(part["sum"]).argmax(1) == part["label"]).to_numpy()
        for part in (f[f["language"] == "jav"] for f in (first, second))
    ]
    better, worse = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert (row["better"], row["worse"], row["n"]) == (better, worse, 200)
    assert row["p"] == pytest.approx(
        min(1.0, 2 * sum(comb(better + worse, k) for k in range(min(better, worse) + 1)) / 2 ** (better + worse))
    )
    assert (rows["p_holm"] >= rows["p"]).all()


def test_a_run_against_itself_shows_nothing():
    measured = cells.measure(classified(), cells.ResamplingPlan(GROUPS, resamples=20))
    rows = significance.mcnemar_rows("x", measured, "y", measured, "sum")
    assert set(rows["p"]) == {1.0}


def test_sentences_it_takes():
    assert significance.to_show(100, 0.04, 0.02).endswith("about 400 sentences")
    assert significance.to_show(100, 0.01, 0.02) == ""
    assert significance.to_show(100, float("nan"), 0.02) == ""


@pytest.mark.parametrize(
    ("n", "said"),
    [(2, "no correlation"), (3, "too few"), (4, "almost nothing"), (30, "n = 30 runs")],
)
def test_a_correlation_says_when_n_is_too_small(n, said):
    rng = np.random.default_rng(1)
    x = rng.normal(size=n)
    found = significance.correlation(x.tolist(), (x + rng.normal(0, 0.5, n)).tolist())
    assert said in str(found)
    assert "no correlation" in str(significance.correlation([1, 1, 1, 1], [1, 2, 3, 4]))


def test_holm_is_over_the_languages_of_one_comparison():
    names = ["run", "against", "suite", "prompt", "scorer", "metric", "scope", "p"]
    of = [("a", "base", "s", "all", "sum", "f1", f"language:{c}", 0.01) for c in ("x", "y", "z")]
    frame = pd.DataFrame([*of, ("a", "base", "s", "all", "sum", "f1", "group:L2", 0.01)], columns=names)
    found = significance.with_holm(frame)["p_holm"]
    assert found[:3].tolist() == pytest.approx([0.03] * 3)
    assert np.isnan(found[3])


def test_a_family_of_many_languages_can_reach_significance():
    """With p from 1,000 resamples alone, Holm over 26 languages or more can never fall below .05."""
    codes = [f"l{k:02d}" for k in range(60)]
    groups = dict.fromkeys(codes, "L2")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"suite": "s", "language": np.repeat(codes, 60), "id": np.tile(np.arange(60).astype(str), 60)})
    texts = rows.assign(nats=rng.normal(100, 5, len(rows)), tokens=30, bytes=100)
    plan = cells.ResamplingPlan(groups, {"s": "perplexity"})
    first, second = (cells.measure(texts.assign(nats=texts["nats"] - by), plan) for by in (rng.normal(4, 3, 3600), 0))
    found = summary.compare("a", first, "b", second)
    found = found[found["scope"].str.startswith("language:") & (found["metric"] == "bits_per_byte")]
    assert (found["p_holm"] < 0.05).all()


def test_mcnemar_counts_a_cluster_once():
    plan = cells.ResamplingPlan(GROUPS, resamples=20)
    frames = [classified(strength=s, seed=s, prompts=("a",)) for s in (2, 1)]
    for extra, n in (({}, 200), ({"cluster": [str(int(i[1:]) // 4) for i in frames[0]["id"]]}, 50)):
        first, second = (cells.measure(frame.assign(**extra), plan) for frame in frames)
        assert set(significance.mcnemar_rows("x", first, "y", second, "sum")["n"]) == {n}
