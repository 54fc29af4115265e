import math
import pickle

import pytest

from ialign_ray.config import Domain, SearchConfig
from ialign_ray.search import searchers
from ialign_ray.search.driver import scheduler
from ialign_ray.search.searchers import distributions, searcher, values
from ialign_ray.search.space import point_name

SPACE = {
    "replay.ratio": Domain(choice=[0.75, 0, 0.25, 0.5]),
    "model.lora.rank": Domain(choice=[2, 4, 8]),
    "tasks.mix": Domain(choice=["pair", {"mt": 1.0}]),
}


@pytest.fixture(autouse=True)
def cluster_of_two(monkeypatch):
    monkeypatch.setattr(searchers, "nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(searchers, "startable", list)


def settings(**fields):
    return SearchConfig(**({"space": SPACE, "trials": 24} | fields))


def outcome(point, last=True, budget=9):
    """A world where more replay forgets less and gains less."""
    gain = 2 - point["replay.ratio"] - abs(point["model.lora.rank"] - 4) / 10
    violation = 0.4 - point["replay.ratio"]
    return {
        "gain": gain, "forgetting": violation + 0.1, "violation": violation, "score": gain - 10 * max(0, violation),
        "last": last, "budget": budget, "failed": "", "feasible": violation <= 0,
    }  # fmt: skip


def drive(chooser, trials, first=0):
    seen = []
    for k in range(first, first + trials):
        config = chooser.suggest(f"t{k}")
        if not isinstance(config, dict):
            return seen, config
        seen.append(config["point"])
        result = outcome(config["point"])
        chooser.on_trial_result(f"t{k}", result)
        chooser.on_trial_complete(f"t{k}", result)
    return seen, None


@pytest.mark.parametrize("name", ["grid", "random", "tpe", "nsga2"])
def test_every_searcher_tries_all_of_a_small_space_once(name):
    chooser = searcher(settings(searcher=name))
    seen, ended = drive(chooser, 30)
    assert len({point_name(p) for p in seen}) == len(seen) == 24
    assert ended == searchers.Searcher.FINISHED


def test_tpe_prefers_what_forgets_little_enough():
    space = SPACE | {"train.learning_rate": Domain(log_uniform=(1e-4, 1e-1))}
    chooser = searcher(settings(searcher="tpe", trials=60, space=space))
    seen, _ = drive(chooser, 60)
    late = [p["replay.ratio"] for p in seen[30:]]
    assert sum(r == 0.5 for r in late) > 15  # the least replay that is feasible; a quarter would be chance
    assert sum(r < 0.4 for r in late) < 8


def test_a_front_has_two_objectives():
    chooser = searcher(settings(searcher="nsga2", objective="front", trials=12))
    drive(chooser, 12)
    assert len(chooser.study.directions) == 2
    assert {t.values[0] for t in chooser.study.best_trials if t.values}


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_a_trial_that_was_stopped_early_is_not_on_the_front(name):
    space = {name: domain for name, domain in SPACE.items() if name != "tasks.mix"}
    chooser = searcher(settings(searcher=name, objective="front", trials=12, space=space))
    ended = {True: set(), False: set()}
    for k in range(12):
        whole = k % 2 == 0
        result = outcome(chooser.suggest(f"t{k}")["point"], last=whole, budget=9 if whole else 3)
        ended[whole].add((result["gain"], result["forgetting"]))
        chooser.on_trial_result(f"t{k}", result)
        chooser.on_trial_complete(f"t{k}", result)
    told = {tuple(t.values) for t in chooser.study.trials if t.state.name == "COMPLETE"}
    assert told == ended[True]
    assert not {tuple(t.values) for t in chooser.study.best_trials} & ended[False]


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_a_restored_searcher_goes_on_as_the_one_that_was_killed(name, tmp_path):
    whole = searcher(settings(searcher=name, trials=12))
    first, _ = drive(whole, 6)
    whole.save(str(tmp_path / "state"))
    rest, _ = drive(whole, 6, first=6)
    again = searcher(settings(searcher=name, trials=12))
    again.restore(str(tmp_path / "state"))
    assert drive(again, 6, first=6)[0] == rest
    assert not {point_name(p) for p in first} & {point_name(p) for p in rest}


def test_no_more_trials_than_there_is_room_for(tmp_path):
    chooser = searcher(settings(searcher="random"), most=2)
    assert isinstance(chooser.suggest("a"), dict)
    assert isinstance(chooser.suggest("b"), dict)
    assert chooser.suggest("c") is None
    chooser.on_trial_complete("a", outcome({"replay.ratio": 0.5, "model.lora.rank": 8}))
    assert isinstance(chooser.suggest("c"), dict)
    chooser.save(str(tmp_path / "state"))
    chooser.restore(str(tmp_path / "state"))
    assert chooser.running == set()  # one that Tune does not bring back must not hold a place for ever
    chooser.on_trial_result("b", outcome({"replay.ratio": 0.5, "model.lora.rank": 2}))
    assert chooser.running == {"b"}


def test_stopped_failed_and_repeated_results_are_told_as_what_they_are():
    from optuna.trial import TrialState

    chooser = searcher(settings(searcher="tpe"), most=3)
    points = [chooser.suggest(t)["point"] for t in ("stopped", "failed", "whole")]
    early = outcome(points[0], last=False, budget=3)
    for _ in range(2):  # a resumed trial says it again
        chooser.on_trial_result("stopped", early)
    chooser.on_trial_complete("stopped", early)
    chooser.on_trial_complete("failed", {"failed": "the loss is nan", "gain": math.nan, "last": False})
    chooser.on_trial_complete("whole", outcome(points[2]))
    states = [t.state for t in chooser.study.trials]
    assert states == [TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE]
    assert chooser.study.trials[0].intermediate_values == {3: early["gain"]}
    assert chooser.study.trials[2].value == outcome(points[2])["gain"]


def test_numbers_keep_their_order_and_other_values_survive_the_way():
    space = SPACE | {"replay.pool_size": Domain(uniform=(10, 20)), "model.lora.dora": Domain(choice=[True, False])}
    known = distributions(space)
    assert known["replay.ratio"].high == 3
    drawn = {
        "replay.ratio": 1, "model.lora.rank": 2, "tasks.mix": known["tasks.mix"].choices[1], "replay.pool_size": 12,
        "model.lora.dora": known["model.lora.dora"].choices[1],
    }  # fmt: skip
    assert values(space, drawn) == {
        "replay.ratio": 0.25, "model.lora.rank": 8, "tasks.mix": {"mt": 1.0}, "replay.pool_size": 12,
        "model.lora.dora": False,
    }  # fmt: skip


class Trial:
    def __init__(self, name):
        self.trial_id = name


def test_asha_decides_at_our_budgets_and_not_again_when_a_trial_repeats_itself():
    asha = scheduler(settings(reduction=2, scheduler="asha"), [2, 4, 8])
    trials = [Trial(str(k)) for k in range(4)]
    for trial in trials:
        asha.on_trial_add(None, trial)
    first = [
        asha.on_trial_result(None, t, {"budget": 2, "score": s}) for t, s in zip(trials, (1, 3, 0, 2), strict=True)
    ]
    assert first == ["CONTINUE", "CONTINUE", "STOP", "CONTINUE"]
    again = pickle.loads(pickle.dumps(asha))
    assert again.on_trial_result(None, trials[0], {"budget": 2, "score": 1}) == "CONTINUE"
    assert again.on_trial_result(None, trials[1], {"budget": 4, "score": 3}) == "CONTINUE"
    assert again.on_trial_result(None, trials[0], {"budget": 4, "score": 1}) == "STOP"
