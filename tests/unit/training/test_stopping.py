import math

import pytest

from ialign_ray.config import StopRule, TrainConfig, build_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.training.stopping import Validated, best_steps, reason_to_stop

RISE = StopRule(max_rise=0.1)


def run(*losses, metric="instructions", first=0):
    return [Validated((first + k) * 10, {metric: loss}) for k, loss in enumerate(losses)]


def told(rule, history):
    """The step at which a run with this rule ends, and why."""
    for k in range(len(history)):
        if reason := reason_to_stop([rule], history[: k + 1]):
            return history[k].step, reason
    return None


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2.0, 1.9, 1.8, 1.7], None),
        ([2.0, 1.9, 1.95, 1.92, 1.9], 30),
        ([2.0, 2.1, 1.9, 2.0, 1.8, 1.9], None),
        ([2.0, 2.0, 2.0], 20),
        ([2.0, math.nan, math.nan], 20),
    ],
)
def test_patience_counts_validations_without_a_gain(losses, step):
    found = told(StopRule(patience=2), run(*losses))
    assert (found[0] if found else None) == step


def test_a_gain_is_at_least_min_delta_below_the_best():
    falling = run(2.0, 1.96, 1.92, 1.88, 1.84)
    assert told(StopRule(patience=2, min_delta=0.05), falling) is None
    step, reason = told(StopRule(patience=1, min_delta=0.05), falling)
    assert step == 10
    assert "has not fallen below the 2.000 nats per token of step 0 in 1 validations" in reason


@pytest.mark.parametrize(("losses", "step"), [([2.0, 2.09, 2.05], None), ([2.0, 1.5, 2.11], 20), ([2, math.nan], 10)])
def test_forgetting_is_measured_against_the_base(losses, step):
    found = told(RISE, run(*losses))
    assert (found[0] if found else None) == step


def test_a_rise_is_told_with_its_numbers():
    assert told(RISE, run(2.0, 2.25))[1] == (
        "validation/instructions at step 10 is 2.250 nats per token, 0.250 above the base's (train.stop max_rise 0.1)"
    )


def test_the_best_step_is_never_one_that_forgot_nor_the_base():
    losses = [(3.0, 2.0), (2.5, 2.05), (2.0, 2.3), (2.4, 2.09), (2.4, 2.0), (math.nan, 2.0)]
    history = [Validated(k * 10, {"pairs": p, "instructions": i}) for k, (p, i) in enumerate(losses)]
    assert [v.step for v in best_steps([RISE], "validation/pairs", history)] == [30, 40, 10]
    assert [v.step for v in best_steps([], "validation/pairs", history)] == [20, 30, 40, 10]
    assert best_steps([RISE], "validation/pairs", history[:1]) == []


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"stop": [{"patience": 1}]}, "`stop` needs validation"),
        ({"keep": "best"}, "`keep` needs validation"),
        ({"validation": {}, "stop": [{}]}, "give exactly one of `patience` and `max_rise`"),
        ({"validation": {}, "stop": [{"patience": 1, "metric": "bleu"}]}, "train.stop.0.metric is 'bleu'"),
        ({"validation": {"each": 3}}, "unknown key train.validation.each"),
    ],
)
def test_a_wrong_rule_is_one_sentence(experiment_data, train, said):
    with pytest.raises(ConfigError) as error:
        build_experiment({**experiment_data, "train": train}, "x")
    assert said in str(error.value)


def test_rules_are_read_from_plain_data():
    train = TrainConfig.model_validate({"validation": {"every": 5}, "stop": [{"max_rise": 0.2}], "keep": "best"})
    assert train.stop[0].metric == "validation/instructions"
    assert train.best_metric == "validation/pairs"
