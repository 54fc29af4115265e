"""A verdict that says "forgot" of what the gate promotes would be two truths: both judge the same drawn differences."""

import pandas as pd
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ialign_ray.evaluation.results.verdict import verdict
from ialign_ray.evaluation.rules import Rules
from ialign_ray.registry.gate import judge

SUITES = {
    "classification": ("f1_weighted", "sum", ["language:eng", "language:fra", "group:L1", "group:L2"]),
    "instructions": ("nats_per_token", "likelihood", ["all", "group:trained"]),
}
"""Kinds of which both speak: metric, scorer and scopes."""
LIMITS = st.sampled_from([0.0, 0.02, 0.1, 0.25])
SCORES = {"suite": "s", "kind": "none", "prompt": "all", "scorer": "none", "scope": "all", "metric": "none", "seeds": 2}
RESULTS = pd.DataFrame([SCORES | {"run": "arm", "value": 0.0, "low": 0.0, "high": 0.0, "n": 9}])


@st.composite
def suites(draw):
    """The rows of one suite's comparison: bounds often at a limit, few unknown, few of too few sentences."""
    kind = draw(st.sampled_from(list(SUITES)))
    metric, scorer, scopes = SUITES[kind]
    typical = draw(st.sampled_from([0.05, 0.0, -0.02, -0.1, -0.25, -0.5]))
    rows = []
    for scope in scopes:
        low = draw(st.sampled_from([typical, typical, typical, 0.05, -0.02, -0.1, -0.25, float("nan")]))
        high = low + draw(st.sampled_from([0.0, 0.01, 0.3]))
        n = draw(st.sampled_from([400, 400, 400, 12]))
        if metric != "f1_weighted":
            low, high = -high, -low
        about = {"kind": kind, "metric": metric, "scorer": scorer, "scope": scope, "n": n}
        rows.append(about | {"value": (low + high) / 2, "low": low, "high": high})
    return rows


@settings(max_examples=8, deadline=None, phases=[Phase.reuse, Phase.generate])  # to shrink takes minutes
@given(st.lists(suites(), min_size=12, max_size=12), LIMITS, LIMITS)
def test_the_gate_and_the_verdict_never_contradict_each_other(drawn, tolerance, loss_tolerance):
    rules = Rules(tolerance=tolerance, loss_tolerance=loss_tolerance, old=frozenset({"eng", "fra"}))
    about = {"run": "arm", "against": "control", "prompt": "all", "p": 0.5, "seeds": 1, "seed_sd": 0.0}
    about |= {"detectable": 0.1, "clusters": 9, "error": 0.1, "sentence_error": 0.1, "luck": "none"}
    pairs = pd.DataFrame([about | row | {"suite": f"s{k}"} for k, rows in enumerate(drawn) for row in rows])
    said = verdict(RESULTS, pd.concat([pairs, pairs.assign(against="base")]), rules)
    for suite, part in pairs.groupby("suite"):
        checks = judge(part, rules)
        of_suite = [s for s in said if f"({suite})" in s.text]
        forgetting = {s.outcome for s in of_suite if s.topic == "forgetting"}
        kept = [check.passed for check in checks if check.side == "old"]
        assert forgetting <= {"kept", "lost, within the limit"} or not all(kept)
        enough = part[part["scope"] == "group:L2"]["n"].ge(rules.min_rows).all()
        worse = any(check.side == "new" and not check.passed for check in checks)
        lost = any(s.topic == "gain" and s.outcome == "lost" for s in of_suite)
        assert lost == worse or not enough
        better = judge(part, Rules(better_on=frozenset({suite})), ["new"])
        if better and all(check.passed for check in better):
            assert "gained" in {s.outcome for s in of_suite if s.topic == "gain"}
