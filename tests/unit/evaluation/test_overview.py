"""Chance-normalised scores, averaged with equal weights, with intervals and shared ranks."""

import numpy as np
import pandas as pd
import pytest
from test_results import classified, translated

from ialign_ray.evaluation.metrics.bootstrap import estimates
from ialign_ray.evaluation.report.overview_tables import overview_rows, overview_table
from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.results.overview import COLUMNS, TOO_FEW, overview

GROUPS = {"eng": "L1", "ind": "L1", "jav": "L2", "sun": "L2", "bug": "L3"}
PLAN = ResamplingPlan(GROUPS, resamples=200)


def chosen(suite, language, right, rows=40, options=4, prefix="s"):
    """A run's predictions of a choice suite: the first `right` rows are right."""
    scores = [[1.0, 0.0, 0.0, 0.0][:options] if k < right else [0.0, 1.0, 0.0, 0.0][:options] for k in range(rows)]
    columns = {"label": 0, "options": options, "chars": 10, "prompt": "p", "order_changed": np.nan}
    ids = [f"{prefix}{k}" for k in range(rows)]
    return pd.DataFrame({"suite": suite, "language": language, "id": ids, **columns, "sum": scores})


def run(read=30, reason=30, sundanese=10):
    """Three languages: `read` (four options) in all, `reason` (two options) in Javanese only."""
    return pd.concat(
        [
            chosen("read", "ind", 40),
            chosen("read", "jav", read),
            chosen("read", "sun", sundanese),
            chosen("reason", "jav", reason, options=2, prefix="r"),
        ],
        ignore_index=True,
    )


ABILITIES = {"read": "understanding", "reason": "reasoning"}


def table_of(runs, **more):
    return overview({n: measure(f, PLAN) for n, f in runs.items()}, GROUPS, "sum", ABILITIES, **more)


def cell(table, run, scope, competency, level=None):
    found = table[(table["run"] == run) & (table["scope"] == scope) & (table["competency"] == competency)]
    found = found[found["level"] == level] if level else found[found["level"] != "task"]
    assert len(found) == 1
    return found.iloc[0]


def test_a_hand_computed_example():
    table = table_of({"mine": run()})
    assert list(table.columns) == list(COLUMNS)
    # (30/40 - 1/4) / (3/4), (30/40 - 1/2) / (1/2) and (10/40 - 1/4) / (3/4)
    read, reason, sundanese = 2 / 3, 1 / 2, 0.0
    assert cell(table, "mine", "language:jav", "understanding")["value"] == pytest.approx(read)
    assert cell(table, "mine", "language:jav", "reasoning")["value"] == pytest.approx(reason)
    assert cell(table, "mine", "language:jav", "all")["value"] == pytest.approx((read + reason) / 2)
    assert cell(table, "mine", "language:sun", "all")["value"] == pytest.approx(sundanese)
    assert cell(table, "mine", "group:L1", "all")["value"] == pytest.approx(1)
    new = cell(table, "mine", "group:L2", "all")
    assert new["value"] == pytest.approx(((read + reason) / 2 + sundanese) / 2)
    assert (new["languages"], new["above"], new["tasks"], new["n"]) == (2, 1, 2, 80)
    assert cell(table, "mine", "group:L2", "understanding")["value"] == pytest.approx(read / 2)
    assert cell(table, "mine", "group:L2", "reasoning")["languages"] == 1
    assert cell(table, "mine", "all", "all")["value"] == pytest.approx((1 + (read + reason) / 2 + sundanese) / 3)


def test_the_interval_is_that_of_the_scaled_score():
    measured = measure(run(), PLAN)
    low, high = cell(table_of({"mine": run()}), "mine", "language:jav", "understanding")[["low", "high"]]
    (key,) = [k for k in measured.measures if (k.suite, k.scope, k.metric, k.prompt) ==
              ("read", "language:jav", "accuracy", "all")]  # fmt: skip
    found = estimates(measured.measures[key].draws[None], [40], measured.weights("read"))
    ends = [(end[0] - 0.25) / 0.75 for end in found.bounds()]
    assert [low, high] == pytest.approx(ends)


def test_runs_that_cannot_be_told_apart_share_a_rank():
    runs = {"base": run(), "twin": run(read=31), "better": run(read=40, reason=40, sundanese=35)}
    table = table_of(runs)
    assert {name: cell(table, name, "group:L2", "all")["rank"] for name in runs} == {
        "base": "2", "twin": "2", "better": "1"}  # fmt: skip
    gain = cell(table, "better", "group:L2", "all")
    apart = gain["value"] - cell(table, "base", "group:L2", "all")["value"]
    assert gain["difference"] == pytest.approx(apart)
    assert 0 < gain["difference_low"] < gain["difference"] < gain["difference_high"]
    assert np.isnan(cell(table, "base", "group:L2", "all")["difference"])


def test_few_rows_have_no_rank_and_other_rows_no_difference():
    table = table_of({"base": run(), "mine": run()}, min_rows=50)
    assert cell(table, "mine", "language:sun", "all")["rank"] == TOO_FEW
    assert cell(table, "mine", "group:L2", "all")["rank"] == "1"  # 80 sentences
    part = run()
    part = part[part["id"] != "s3"]
    assert np.isnan(cell(table_of({"base": run(), "mine": part}), "mine", "group:L2", "all")["difference"])


def test_chance_of_classes_is_the_better_of_guessing_and_the_most_frequent_label():
    frame = classified(prompts=("a",))
    gold = frame["label"]
    skewed = gold.where(gold != 2, 0)  # two labels of three are the first
    frame = frame.assign(label=skewed)
    always = frame.assign(sum=[[1.0, 0.0, 0.0]] * len(frame))
    even = frame.assign(sum=[[0.0, 0.0, 0.0]] * len(frame))
    measured = {"random": measure(even, PLAN), "majority": measure(always, PLAN), "collapsed": measure(always, PLAN)}
    table = overview(measured, GROUPS, "sum", {"nusax": "understanding"})
    assert set(table["run"]) == {"collapsed"}
    assert table["value"].to_numpy() == pytest.approx(0)
    assert cell(table, "collapsed", "all", "understanding")["above"] == 0
    alone = overview({"even": measured["random"]}, GROUPS, "sum", {"nusax": "understanding"})
    score = measured["random"].measures
    (f1,) = [m.draws[0] for k, m in score.items()
             if (k.metric, k.scope, k.prompt, k.scorer) == ("f1_weighted", "language:jav", "all", "sum")]  # fmt: skip
    expected = (f1 - 1 / 3) / (2 / 3)
    assert cell(alone, "even", "language:jav", "understanding")["value"] == pytest.approx(expected)


def test_scores_without_a_maximum_and_suites_without_a_competency_are_left_out():
    table = overview({"mine": measure(translated(), PLAN)}, GROUPS, "sum", {"flores": "translation"})
    assert table.empty
    assert list(table.columns) == list(COLUMNS)
    assert overview_table(table) is None
    assert overview_rows(table, languages=True) == ([], [])
    assert overview({"mine": measure(run(), PLAN)}, GROUPS, "sum", {}).empty


def test_directions_belong_to_their_less_known_language():
    found = [
        pd.DataFrame({"suite": "find", "language": name, "id": [f"s{k}" for k in range(20)], "candidates": 20,
                      "rank": [0] * right + [1] * (20 - right), "surface_rank": 1})
        for name, right in (("eng-jav", 20), ("jav-eng", 10), ("ind-eng", 5))
    ]  # fmt: skip
    plan = ResamplingPlan(GROUPS, {"find": "retrieval"}, resamples=200)
    table = overview({"mine": measure(pd.concat(found), plan)}, GROUPS, "sum", {"find": "alignment"})
    scaled = [(20 / 20 - 0.05) / 0.95, (10 / 20 - 0.05) / 0.95]
    assert cell(table, "mine", "language:jav", "alignment")["value"] == pytest.approx(np.mean(scaled))
    assert cell(table, "mine", "group:L1", "alignment")["value"] == pytest.approx((5 / 20 - 0.05) / 0.95)


def test_tables_show_groups_first_and_each_run_as_a_column():
    table = table_of({"base": run(), "better": run(read=40, reason=40, sundanese=35)})
    runs, rows = overview_rows(table, languages=True)
    assert runs == ["base", "better"]
    assert [row["scope"] for row in rows if row["group"]][:2] == ["L1", "L2"]
    assert [(row["scope"], row["competency"]) for row in rows if not row["group"]] == [
        ("ind", "understanding"), ("jav", "understanding"), ("jav", "reasoning"), ("jav", "all competencies"),
        ("sun", "understanding")]  # fmt: skip
    text, _ = overview_table(table)
    assert "1 of 2 above chance, rank 2" in text
    assert "2 of 2 above chance, rank 1" in text
