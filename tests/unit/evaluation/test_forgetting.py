"""Backward transfer, the declared retention number, and the correlation of gains."""

import numpy as np
import pytest
from pydantic import ValidationError
from test_results import GROUPS, classified, f1_of, translated

from ialign_ray.config.evaluate import EvaluateConfig
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.results import cells, forgetting, summary, transfer

PLAN = cells.ResamplingPlan(GROUPS, {"chat": "instructions", "flores": "translation"}, resamples=200)


def measured(**kw):
    return cells.measure([classified(**kw), translated(suite="chat", names=("dolly",))], PLAN)


def config(**retention):
    return EvaluateConfig.model_validate({"scorer": "sum", "seed_spread": 0}).model_copy(
        update={"retention": EvaluateConfig().retention.model_copy(update=retention)}
    )


def test_backward_transfer_is_the_mean_change_over_old_tasks():
    after, before = classified(seed=1), classified(seed=2)
    found = forgetting.backward_transfer("arm", cells.measure(after, PLAN), cells.measure(before, PLAN), config())
    expected = np.mean([f1_of(after, "ind", p) - f1_of(before, "ind", p) for p in "ab"])
    assert found.change.value == pytest.approx(expected)
    assert found.tasks == 1  # ind alone is L1 and measured
    assert found.change.low < expected < found.change.high


@pytest.mark.parametrize(
    ("bonus", "outcome", "word"),
    [
        (0.0, "retained", "retained its old work"),
        (-3.0, "lost", "lost more than"),
        (-0.05, "not shown", "is not shown"),
    ],
)
def test_retained_lost_and_not_shown_differ(bonus, outcome, word):
    found = forgetting.retention("arm", measured(bonus={"ind": bonus}), measured(), config())
    assert found.outcome == outcome
    assert word in found.text
    assert "n = 200" in found.text


def test_a_loss_within_the_limit_and_one_run_are_named():
    found = forgetting.retention("arm", measured(bonus={"ind": -0.5}), measured(), config(tolerance=0.5))
    assert found.outcome == "lost, within the limit"
    one = EvaluateConfig.model_validate({"scorer": "sum"})
    assert forgetting.retention("arm", measured(), measured(), one).outcome == "one run"
    several = cells.measure([classified(seed=s) for s in range(3)], PLAN)
    assert forgetting.retention("arm", several, measured(), one).luck == "measured"


def test_another_number_may_be_declared():
    settings = config(suite="chat", group="all", tolerance=0.5)
    found = forgetting.retention("arm", measured(), measured(), settings)
    assert "nats per token" in found.what
    assert (found.tolerance, found.outcome) == (0.5, "retained")
    with pytest.raises(ConfigError, match="metric is 'no'"):
        forgetting.retention("arm", measured(), measured(), config(metric="no"))
    left_out = config(suite="unasked", metric="accuracy")  # by `--suite`: what was asked is told all the same
    assert forgetting.retention("arm", measured(), measured(), left_out) is None
    with pytest.raises(ValidationError, match="'nothere', which is not a suite here"):
        EvaluateConfig.model_validate({"retention": {"suite": "nothere"}})


def test_old_tasks_are_turned_so_that_plus_is_better():
    runs = {
        "base": measured(),
        "arm": cells.measure([classified(), translated(3.0, suite="chat", names=("dolly",))], PLAN),
    }
    old = forgetting.old_tasks(summary.compare_all(runs), GROUPS, "sum")
    assert set(zip(old["suite"], old["language"])) == {("nusax", "ind"), ("chat", "dolly")}
    chat = old[old["suite"] == "chat"].iloc[0]
    assert chat["low"] < chat["value"] < chat["high"] < 0  # more nats is worse


def test_gains_by_seed_and_their_correlation():
    arm = [classified(seed=s, bonus={"jav": s / 2, "bug": s / 2}) for s in range(4)]
    runs = {"base": cells.measure(classified(seed=9), PLAN), "arm": cells.measure(arm, PLAN)}
    gains = transfer.gains_by_seed(runs, "sum")
    assert len(gains[gains["group"] == "L2"]) == 4
    found = transfer.transfer_correlations(gains)["nusax"]
    assert found.r > 0.9
    assert found.n == 4
