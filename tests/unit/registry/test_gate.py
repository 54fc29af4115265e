"""The gate is pure: paired differences in, a decision with numbers out."""

import numpy as np
import pandas as pd
import pytest

from ialign_ray.evaluation.results.cells import ResamplingPlan, measure
from ialign_ray.evaluation.results.summary import compare
from ialign_ray.evaluation.rules import Rules
from ialign_ray.registry.gate import NEW, GateDecision, judge

GROUPS = {"eng": "L1", "fra": "L1", "jav": "L2", "sun": "L2", "min": "L3"}
RULES = Rules(scorer="sum", old=frozenset({"eng", "fra"}), better_on=frozenset({"mood"}))


def pair(scope, value, low, high, *, suite="mood", kind="classification", metric="f1_weighted", n=400, scorer="sum"):
    return {
        "run": "mine/2", "against": "mine/1", "suite": suite, "kind": kind, "prompt": "all", "scorer": scorer,
        "scope": scope, "metric": metric, "value": value, "low": low, "high": high, "n": n, "p": 0.01,
    }  # fmt: skip


BETTER = pair("group:L2", 0.05, 0.02, 0.08)
KEPT = [pair(f"language:{code}", 0.0, -0.01, 0.01) for code in ("eng", "fra")]
KEPT += [pair("group:L1", 0.0, -0.01, 0.01)]


def loss(value, low, high, **more):
    fields = {"suite": "old", "kind": "instructions", "metric": "nats_per_token", "scorer": "likelihood"}
    return pair("all", value, low, high, **fields | more)


def decide(*rows, rules=RULES):
    return GateDecision(tuple(judge(pd.DataFrame(list(rows)), rules)))


def test_better_and_kept_is_accepted_with_every_number():
    decision = decide(BETTER, *KEPT)
    assert decision.accepted
    assert [c.text for c in decision.checks] == [
        "new languages (mood): better, +0.050 [+0.020, +0.080] F1 against mine/1 (n = 400, p = 0.01)",
        "old languages together (mood): kept, +0.000 [-0.010, +0.010] F1 against mine/1 (n = 400, tolerance 0.02)",
        "eng (mood): kept, +0.000 [-0.010, +0.010] F1 against mine/1 (n = 400, tolerance 0.02)",
        "fra (mood): kept, +0.000 [-0.010, +0.010] F1 against mine/1 (n = 400, tolerance 0.02)",
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([pair("group:L2", 0.01, -0.01, 0.03), *KEPT], "new languages (mood): not shown better, +0.010 [-0.010, +0.03"),
        ([pair("group:L2", 0.0, 0.0, 0.0), *KEPT], "new languages (mood): not shown better, +0.000"),
        ([pair("group:L2", -0.1, -0.2, -0.05), *KEPT], "new languages (mood): worse, -0.100 [-0.200, -0.050]"),
        (
            [BETTER, KEPT[0], KEPT[2], pair("language:fra", -0.3, -0.35, -0.25)],
            "fra (mood): worse by 0.300 [0.250, 0.350] F1 against mine/1 (n = 400, tolerance 0.02)",
        ),
        (
            [BETTER, *KEPT[1:], pair("language:eng", 0.0, -0.04, 0.04)],
            "eng (mood): may be worse by up to 0.040 F1, +0.000 [-0.040, +0.040] against mine/1",
        ),
        ([BETTER, *KEPT, loss(0.3, 0.2, 0.4)], "old instructions (old): worse by 0.300 [0.200, 0.400] nats/token"),
        ([BETTER, *KEPT, loss(0.05, -0.05, 0.15)], "old instructions (old): may be worse by up to 0.150 nats/token"),
        ([pair("group:L2", 0.2, 0.1, 0.3, n=12), *KEPT], "new languages (mood): 12 sentences in common are too few"),
        ([BETTER, pair("language:eng", 0.2, 0.1, 0.3, n=12)], "eng (mood): 12 sentences in common are too few"),
        ([pair("group:L2", 0.2, np.nan, np.nan), *KEPT], "new languages (mood): +0.200 without an interval"),
        ([BETTER, pair("language:eng", 0.2, np.nan, np.nan)], "eng (mood): +0.200 without an interval"),
        ([BETTER], "no suite measures an old language"),
        ([pair("group:L3", 0.2, 0.1, 0.3), *KEPT], "promotion.better_on names a suite without a new language"),
        ([], "no suite measures a new language"),
    ],
)
def test_refusals_tell_what_and_by_how_much(rows, said):
    decision = decide(*rows)
    assert not decision.accepted
    assert said in "; ".join(decision.refusals)


def test_a_loss_of_exactly_the_tolerance_is_kept():
    assert decide(BETTER, pair("language:eng", -0.01, -0.02, 0.0)).accepted
    assert not decide(BETTER, pair("language:eng", -0.01, -0.0201, 0.0)).accepted


def test_a_fall_of_loss_is_a_gain():
    translation = {"suite": "flores", "kind": "translation", "metric": "bits_per_byte", "scorer": "likelihood"}
    rules = Rules(scorer="sum", old=frozenset({"eng", "fra"}), better_on=frozenset({"flores"}))
    falls = pair("group:L2", -0.2, -0.3, -0.1, **translation)
    decision = decide(falls, loss(-0.1, -0.2, 0.05), rules=rules)
    assert decision.accepted
    assert "better, +0.200 [+0.100, +0.300] bits/byte" in decision.checks[0].text
    rises = pair("group:L2", 0.2, 0.1, 0.3, **translation)
    assert not decide(rises, loss(-0.1, -0.2, 0.05), rules=rules).accepted


def test_other_suites_must_not_be_worse_on_new_languages():
    other = {"suite": "topics"}
    assert decide(BETTER, *KEPT, pair("group:L2", -0.01, -0.05, 0.03, **other)).accepted
    refused = decide(BETTER, *KEPT, pair("group:L2", -0.04, -0.05, -0.03, **other))
    assert refused.refusals == [
        "new languages (topics): worse, -0.040 [-0.050, -0.030] F1 against mine/1 (n = 400, p = 0.01)"
    ]


def test_a_direction_is_old_when_both_its_sides_are():
    translation = {"suite": "flores", "kind": "translation", "metric": "bits_per_byte", "scorer": "likelihood"}
    rows = [BETTER, *KEPT, pair("language:eng-jav", 1.0, 0.9, 1.1, **translation)]
    assert decide(*rows).accepted
    refused = decide(*rows, pair("language:eng-fra", 1.0, 0.9, 1.1, **translation))
    assert refused.refusals == [
        "eng-fra (flores): worse by 1.000 [0.900, 1.100] bits/byte against mine/1 (n = 400, tolerance 0.1)"
    ]


def test_only_the_declared_scorer_counts_and_unknown_kinds_are_left_alone():
    other = pair("group:L2", 0.2, 0.1, 0.3, scorer="calibrated")
    assert not decide(other, *KEPT).accepted
    assert decide(BETTER, *KEPT, pair("language:eng", -9, -9, -9, suite="new", kind="another")).accepted


def test_one_side_can_be_asked_for():
    checks = judge(pd.DataFrame([BETTER, *KEPT]), RULES, [NEW])
    assert [c.side for c in checks] == ["new"]


def scored(strength, count=300, seed=0):
    """Predictions in which each language sees the label with its own strength."""
    rng = np.random.default_rng(seed)
    frames = []
    for language, seen in strength.items():
        gold = np.random.default_rng(7).integers(2, size=count)
        scores = np.random.default_rng(8).normal(size=(count, 2)) + rng.normal(size=(count, 2)) / 4
        scores += seen * np.eye(2)[gold]
        columns = {"suite": "mood", "prompt": "p", "language": language, "id": np.arange(count), "label": gold}
        frames.append(pd.DataFrame({**columns, "chars": 10, "sum": list(scores)}))
    return pd.concat(frames, ignore_index=True)


def judged(first, second, rules=RULES):
    plan = ResamplingPlan(GROUPS, resamples=200)
    pairs = compare("mine/2", measure(first, plan), "mine/1", measure(second, plan))
    return GateDecision(tuple(judge(pairs, rules)))


def test_on_predictions_the_better_is_accepted_and_the_forgetful_refused():
    champion = scored({"eng": 1.5, "jav": 0.3, "sun": 0.3})
    assert judged(scored({"eng": 1.8, "jav": 1.5, "sun": 1.5}, seed=1), champion).accepted
    forgetful = judged(scored({"eng": 0.2, "jav": 1.5, "sun": 1.5}, seed=1), champion)
    assert len(forgetful.refusals) == 1
    assert forgetful.refusals[0].startswith("eng (mood): worse by 0.")


def test_on_predictions_a_tie_is_refused():
    same = scored({"eng": 1.0, "jav": 1.0})
    decision = judged(same, same.sample(frac=1, random_state=0))
    assert decision.refusals == [
        "new languages (mood): not shown better, +0.000 [+0.000, +0.000] F1 against mine/1 (n = 300, p = 1)"
    ]


def test_on_predictions_only_common_sentences_count():
    champion, better = scored({"eng": 1.5, "jav": 0.3}), scored({"eng": 1.5, "jav": 1.5}, seed=1)
    missing = better[better["id"] < 20]
    assert "20 sentences in common are too few" in judged(missing, champion).refusals[0]
    few = better[better["id"] < 100]
    assert "(n = 100, p = " in judged(few, champion).checks[0].text
