"""The verdict says what the intervals show, and no more."""

import numpy as np
import pytest
from test_results import GROUPS, classified, translated

from ialign_ray.config import build_experiment
from ialign_ray.config.evaluate import PrimaryConfig
from ialign_ray.evaluation.metrics.bootstrap import Difference
from ialign_ray.evaluation.results import cells, summary
from ialign_ray.evaluation.results.analysis import analyse
from ialign_ray.evaluation.results.verdict import verdict
from ialign_ray.evaluation.rules import Rules, forgetting_outcome, gain_outcome

NAN = float("nan")


def judge(rules=None, spread=0.0, **runs):
    """The verdict; runs of one training seed are taken to have no spread over seeds."""
    plan = cells.ResamplingPlan(GROUPS, resamples=300)
    measured = {name: cells.measure(frames, plan) for name, frames in runs.items()}
    names = {"nusax": ("negative", "neutral", "positive")}
    pairs = summary.compare_all(measured, seed_spread=spread)
    return verdict(summary.summarise(measured, GROUPS), pairs, rules, names)


def said(statements, topic, run="arm", word=""):
    return [s for s in statements if s.topic == topic and s.run == run and word in s.text]


@pytest.mark.parametrize(
    ("low", "high", "gain", "forgetting"),
    [
        (0.01, 0.09, "gained", "kept"),
        (-0.09, -0.03, "lost", "forgot"),
        (-0.09, -0.01, "lost", "not shown either way"),
        (-0.05, 0.05, "not shown", "not shown either way"),
        (-0.01, 0.05, "not shown", "kept"),
        (-0.02, -0.001, "lost", "lost, within the limit"),
        (0.0, 0.0, "not shown", "kept"),
        (NAN, NAN, "not shown", "not shown either way"),
    ],
)
def test_outcomes(low, high, gain, forgetting):
    better = Difference((low + high) / 2, low, high, 100, 0.5)
    assert gain_outcome(better) == gain
    assert forgetting_outcome(better, 0.02) == forgetting


def test_identical_runs_show_nothing():
    frame = classified()
    found = judge(base=frame, control=frame, arm=frame)
    gains = said(found, "gain")
    assert [s.outcome for s in gains] == ["not shown", "not shown"]
    assert "L2 (nusax): arm shows no gain or loss against control: +0.000 [+0.000, +0.000]" in gains[0].text
    assert [s.outcome for s in said(found, "forgetting")] == ["kept"]
    assert [s.outcome for s in said(found, "old")] == ["kept"]


def test_a_planted_gain_and_a_planted_loss():
    found = judge(base=classified(seed=1), control=classified(seed=2), arm=classified(bonus={"jav": 1.5, "bug": -1}))
    l2, l3 = said(found, "gain")
    assert (l2.outcome, l3.outcome) == ("gained", "lost")
    assert l2.text.startswith("New languages L2 (nusax): arm gained +0.")
    assert "weighted F1 (n = 200, p = " in l2.text


def test_forgetting_is_found():
    arm = classified(seed=3, bonus={"ind": -0.9})
    found = said(judge(base=classified(seed=1), control=classified(seed=2), arm=arm), "forgetting")
    assert [s.outcome for s in found] == ["forgot"]
    assert "arm forgot more than 0.02 against base: -0." in found[0].text


def test_what_the_control_learned_is_not_forgotten():
    arm, control = classified(seed=3), classified(seed=2, bonus={"ind": 1.5})
    found = judge(base=classified(seed=1), control=control, arm=arm)
    assert [s.outcome for s in found if s.run == "arm" and s.topic == "old"] == ["behind"]
    assert "forgot" not in {s.outcome for s in found}
    assert all("forg" not in s.text for s in said(found, "old"))


def test_a_proven_loss_within_the_limit_is_a_loss():
    arm = classified(seed=1, bonus={"ind": -0.2})
    found = said(judge(Rules(tolerance=0.3), base=classified(seed=1), arm=arm), "forgetting")
    assert [s.outcome for s in found] == ["lost, within the limit"]
    assert "kept" not in found[0].text


def test_one_training_run_cannot_be_told_from_luck_unless_the_effect_exceeds_the_declared_spread():
    runs = {"base": classified(seed=1), "control": classified(seed=2), "arm": classified(bonus={"jav": 1.5})}
    found = judge(spread=None, **runs)
    assert said(found, "gain")[0].outcome == "one run"
    assert {s.outcome for s in found if s.topic in ("gain", "forgetting", "old")} <= {
        "one run", "not shown", "not shown either way"
    }  # fmt: skip
    assert said(judge(spread=0.03, **runs), "gain")[0].outcome == "gained"
    assert said(judge(spread={"f1_weighted": 0.5}, **runs), "gain")[0].outcome == "not shown"
    assert said(judge(spread={"accuracy": 0.5}, **runs), "gain")[0].outcome == "one run"


def test_a_gain_that_one_scorer_alone_shows_says_so():
    control, arm = classified(seed=2), classified(seed=2)
    arm["sum"] = list(classified(seed=2, bonus={"jav": 1.5})["sum"])
    found = said(judge(control=control, arm=arm), "gain")[0]
    assert found.outcome == "gained by one scorer"
    assert "by mean scores not shown" in found.text
    both = said(judge(control=control, arm=classified(seed=2, bonus={"jav": 1.5})), "gain")[0]
    assert both.outcome == "gained"
    assert "by mean scores gained" in both.text


def test_the_declared_end_point_comes_first_and_all_else_is_exploratory():
    rules = Rules(primary=PrimaryConfig(suite="nusax", group="L3", metric="accuracy"))
    runs = {"base": classified(seed=1), "control": classified(seed=2), "arm": classified(bonus={"bug": 1.5})}
    found = [s for s in judge(rules, **runs) if s.run == "arm" and s.topic != "warning"]
    assert [s.topic for s in found] == ["primary", "gain", "gain", "forgetting", "old"]
    assert found[0].outcome == "gained"
    assert all("(exploratory)" in s.text for s in found[1:])
    assert not any("(exploratory)" in s.text for s in judge(**runs))


def test_likelihoods_are_turned_so_that_more_is_better():
    def run(bits, loss):
        return [translated(bits), translated(loss, seed=5, suite="chat", names=("dolly",))]

    found = judge(base=run(3.0, 1.0), control=run(3.0, 1.0), arm=run(2.5, 1.5))
    assert [s.outcome for s in said(found, "gain")] == ["gained", "gained"]
    assert "arm gained +0.500" in said(found, "gain")[0].text
    lost = said(found, "forgetting")
    assert [s.outcome for s in lost] == ["forgot"]
    assert lost[0].text.startswith("Old instructions (chat): arm forgot more than 0.1 against base: -1.")


def test_losses_are_judged_by_the_limit_that_the_gate_has(experiment_data, tmp_path):
    """A report that says "forgot" of what promotion lets pass would have two truths."""
    suites = [{"kind": "instructions", "name": "chat", "path": str(tmp_path / "old.jsonl")}]
    data = experiment_data | {"evaluate": {"suites": suites, "resamples": 300}, "promotion": {"loss_tolerance": 2.5}}
    before, after = ([{"chat": translated(c, suite="chat", names=("dolly",))}] for c in (2.0, 3.0))
    found = analyse(build_experiment(data, "test"), {"base": before, "arm": after}, {}).statements
    assert said(found, "forgetting")[0].text.startswith(
        "Old instructions (chat): arm lost some of what base could do, within the limit of 2.5"
    )


def test_no_control_no_gain():
    found = judge(base=classified(seed=1), arm=classified(bonus={"jav": 2}))
    assert [s.text for s in found if s.topic == "gain"] == [
        "No gain can be shown: there is no compute-matched control run 'control'."
    ]


def test_collapse_is_named():
    arm = classified()
    arm["sum"] = [scores + np.array([9.0, 0, 0]) if i % 10 else scores for i, scores in enumerate(arm["sum"])]
    (found,) = said(judge(control=classified(), arm=arm), "warning", word="collapse")
    assert found.outcome == "collapse"
    assert found.text.startswith("arm collapses to 'negative' in nusax (share of predictions: bug 9")


def test_length_and_size_warnings():
    length = classified(seed=9, count=30, prompts=("none",))
    found = judge(length=length, control=classified(seed=2, count=30), arm=classified(count=30))
    assert "text length alone on L1 (nusax)" in said(found, "warning", word="length")[0].text
    (few,) = said(found, "warning", word="too few")
    assert "L2 ±0.1" in few.text
    assert "with n = 30" in few.text
    strong = judge(length=classified(0.0, seed=9), control=classified(seed=2), arm=classified(2.0))
    assert not said(strong, "warning", word="length")


def test_one_sentence_is_too_few():
    (few,) = said(judge(control=classified(count=1), arm=classified(count=1)), "warning", word="too few")
    assert "L2 unknown with n = 1" in few.text


def test_a_gain_by_calibration_alone_is_warned_of():
    control = classified(seed=2)
    arm = control.copy()
    control["sum"] = [scores + np.array([0, 1.5, 0]) for scores in control["sum"]]
    found = judge(control=control, arm=arm)
    assert {s.outcome for s in said(found, "gain")} == {"gained by one scorer"}
    assert len(said(found, "warning", word="shifted label bias")) == 3


def test_one_seed_is_said_and_two_are_not():
    single = judge(control=classified(seed=2), arm=classified())
    assert said(single, "warning", word="one training seed")
    double = judge(control=[classified(seed=2), classified(seed=3)], arm=[classified(), classified(seed=1)])
    assert not said(double, "warning", word="one training seed")
    assert "s.d. over 2 seeds" in said(double, "gain")[0].text
    assert (
        "s.d. over 2 seeds"
        in said(judge(base=classified(seed=9), arm=[classified(), classified(seed=1)]), "forgetting")[0].text
    )


def test_rules_name_other_runs():
    found = judge(Rules(control="ratio 1"), **{"ratio 1": classified(seed=2), "arm": classified()})
    assert all("against ratio 1" in s.text for s in said(found, "gain"))
    assert np.all([s.text.endswith(".") for s in found])
