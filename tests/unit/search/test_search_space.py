import math

import pytest

from ialign_ray.config import Domain, build_experiment
from ialign_ray.errors import ClusterError, ConfigError, ModelError
from ialign_ray.search.budget import Demand, budgets, concurrency, steps_of, trial_budgets, whole_budget
from ialign_ray.search.space import check_space, grid_points, point_name, random_points, trial_count, whole


def searching(data, space, **fields):
    return build_experiment(data | {"search": {"space": space, **fields}}, "x")


def test_a_good_space_passes(experiment_data):
    space = {
        "replay.ratio": {"choice": [0, 0.5]},
        "replay.pool_size": {"choice": [None, 10]},
        "model.lora.rank": {"grid": [2, 32]},
        "model.lora.targets": {"choice": ["all-linear", ["q_proj"]]},
        "model.lora.alpha": {"uniform": [1, 64]},
        "train.learning_rate": {"log_uniform": [1e-4, 1e-2]},
        "tasks.mix": {"choice": ["pair", {"mt": 0.7, "tlm": 0.3}]},
        "train.seed": {"choice": [0, 1]},
        "train.steps": {"choice": [3, 6]},
    }
    check_space(searching(experiment_data, space))


@pytest.mark.parametrize(
    ("space", "error", "said"),
    [
        ({"model.lora.rank": {"choice": [2, 33]}}, ModelError, "rank is 33, but layer .* has a side of only 32"),
        ({"model.lora.rank": {"uniform": [1, 64]}}, ModelError, "rank is 64"),
        ({"model.lora.targets": {"choice": ["all-linear", ["nowhere"]]}}, ModelError, "layers are called"),
        ({"model.id": {"choice": ["a", "b"]}}, ConfigError, "'model.id' cannot be searched"),
        ({"model.lora.rnk": {"choice": [2]}}, ConfigError, "unknown key model.lora.rnk; did you mean 'rank'"),
        ({"replay.ratio": {"uniform": [0, 1.5]}}, ConfigError, "search.space.replay.ratio: .*ratio is 1.5"),
        ({"train.schedule": {"uniform": [0, 1]}}, ConfigError, "train.schedule takes no numbers"),
        ({"train.seed": {"uniform": [0, 9]}}, ConfigError, "list them"),
        ({"tasks.mix": {"choice": ["pair", "nonsense"]}}, ConfigError, "nonsense"),
    ],
)
def test_a_bad_space_is_one_sentence_before_any_cluster(experiment_data, space, error, said):
    with pytest.raises(error, match=said) as caught:
        check_space(searching(experiment_data, space))
    assert "\n" not in str(caught.value)


def test_what_a_full_tuning_ignores_is_refused(experiment_data):
    experiment_data["model"]["tuning"] = "full"
    with pytest.raises(ConfigError, match="set tuning: lora"):
        check_space(searching(experiment_data, {"model.lora.rank": {"choice": [2]}}))


def test_without_old_instructions_nothing_can_be_said_to_be_kept(experiment_data):
    experiment_data["replay"] = {"ratio": 0}
    with pytest.raises(ConfigError, match=r"replay\.sources"):
        check_space(searching(experiment_data, {"train.learning_rate": {"choice": [0.1]}}))


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ({}, "exactly one"),
        ({"choice": [1], "grid": [2]}, "exactly one"),
        ({"uniform": [2, 1]}, "smaller"),
        ({"log_uniform": [0, 1]}, "above 0"),
    ],
)
def test_a_domain_has_one_form(experiment_data, domain, said):
    with pytest.raises(ConfigError, match=said):
        searching(experiment_data, {"replay.ratio": domain})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"searcher": "grid"}, "cannot try all values"),
        ({"searcher": "bohb"}, "searcher 'bohb' was removed; set searcher: tpe"),
        ({"scheduler": "hyperband"}, "scheduler 'hyperband' was removed; set scheduler: asha"),
        ({"unit": "tokens"}, "needs `budget`"),
    ],
)
def test_settings_that_contradict_each_other(experiment_data, fields, said):
    with pytest.raises(ConfigError, match=said):
        searching(experiment_data, {"train.learning_rate": {"log_uniform": [1e-4, 1e-2]}}, **fields)


def test_a_search_of_before_with_a_penalty_loads(experiment_data):
    found = searching(experiment_data, SPACE, penalty=5)
    assert "penalty" not in found.model_dump()["search"]


def test_points_are_distinct_and_follow_from_the_seed():
    space = {"a.b": Domain(grid=[1, 2, 3]), "c": Domain(choice=["x", "y"])}
    assert len(grid_points(space)) == 6
    few = random_points(space, 100, 0)
    assert sorted(map(point_name, few)) == sorted(map(point_name, grid_points(space)))
    assert random_points(space, 4, 0) == random_points(space, 4, 0) != random_points(space, 4, 1)
    assert [p["a.b"] for p in random_points(space, 3, 5)] == [1, 2, 3]  # `grid` is crossed, not drawn


def test_numbers_stay_in_bounds_and_whole_where_they_must():
    space = {"model.lora.rank": Domain(uniform=(1, 8)), "train.learning_rate": Domain(log_uniform=(1e-4, 1e-2))}
    points = random_points(space, 50, 0)
    assert {p["model.lora.rank"] for p in points} == set(range(1, 9))
    assert all(isinstance(p["model.lora.rank"], int) for p in points)
    below = sum(p["train.learning_rate"] < 1e-3 for p in points)
    assert 15 <= below <= 35
    assert whole("replay.pool_size")
    assert not whole("replay.ratio")
    assert not whole("tasks.mix.mt")


def test_trials_are_no_more_than_the_space_has(experiment_data):
    space = {"replay.ratio": {"choice": [0, 0.5]}, "model.lora.rank": {"choice": [2, 4]}}
    assert trial_count(searching(experiment_data, space, trials=20).search) == 4
    assert trial_count(searching(experiment_data, space, trials=3).search) == 3
    assert trial_count(searching(experiment_data, space, searcher="grid", trials=3).search) == 4


SPACE = {"replay.ratio": {"choice": [0, 0.5]}}


def test_budgets_grow_by_the_reduction_up_to_the_whole(experiment_data):
    search = searching(experiment_data, SPACE).search
    assert budgets(search, 54) == [6, 18, 54]
    assert budgets(search, 60) == [6, 18, 54, 60]
    assert budgets(search, 1) == [1]
    assert budgets(searching(experiment_data, SPACE, min_budget=5, reduction=2).search, 20) == [5, 10, 20]
    with pytest.raises(ConfigError, match="above the whole budget"):
        budgets(searching(experiment_data, SPACE, min_budget=7).search, 6)


def test_fewer_steps_have_fewer_budgets(experiment_data):
    experiment = searching(experiment_data, SPACE | {"train.steps": {"choice": [10, 54]}})
    assert whole_budget(experiment, experiment.search) == 54
    assert trial_budgets([6, 18, 54], 10) == [6, 10]
    assert trial_budgets([6, 18, 54], 6) == [6]


def test_tokens_become_the_exact_steps():
    lengths = [5, 7, 1, 100]
    assert [steps_of(t, lengths.__getitem__) for t in (1, 5, 6, 12, 13, 14)] == [1, 1, 2, 2, 3, 4]
    with pytest.raises(ConfigError, match="no tokens"):
        steps_of(3, lambda step: 0)


def test_two_cpus_run_two_trials(experiment_data):
    search = searching(experiment_data, SPACE).search
    assert concurrency(search, [{"CPU": 2.0}]) == 2
    assert concurrency(search, [{"CPU": 1.0}]) == 1
    with pytest.raises(ClusterError, match="no node has more than 0.5"):
        concurrency(search, [{"CPU": 0.5}])


def test_trials_wait_for_nodes_that_the_autoscaler_may_start(experiment_data):
    """From nothing: a head without CPUs for work, and GPUs that come when trials ask for them."""
    search = searching(experiment_data, SPACE).search
    head, kind = {"CPU": 0.0}, {"CPU": 8.0, "GPU": 2.0}
    assert concurrency(search, [head], [(4, kind), (0, {"CPU": 999.0})]) == 8
    assert concurrency(search, [head, *[kind] * 4], [(4, kind)]) == 8  # those started are of those that may be
    assert concurrency(search, [{"CPU": 8.0}] * 3, [(1, {"CPU": 2.0})]) == 24
    assert concurrency(search, [head], [(math.inf, kind)]) == trial_count(search)
    assert concurrency(searching(experiment_data, SPACE, concurrent=3).search, [head], [(4, kind)]) == 3
    with pytest.raises(ClusterError, match="no node has more than 8 and 2"):
        concurrency(searching(experiment_data, SPACE, cpus_per_trial=9).search, [head], [(math.inf, kind)])


def test_64_gpus_run_a_trial_each_or_four(experiment_data):
    nodes = [{"CPU": 96.0, "GPU": 8.0}] * 8
    assert concurrency(searching(experiment_data, SPACE).search, nodes) == 64
    assert concurrency(searching(experiment_data, SPACE, gpus_per_trial=0.25).search, nodes) == 256
    assert concurrency(searching(experiment_data, SPACE, concurrent=10).search, nodes) == 10
    # the CPUs of each node, not of all together, are the limit here
    assert concurrency(searching(experiment_data, SPACE, cpus_per_trial=40).search, nodes) == 16
    assert concurrency(searching(experiment_data, SPACE, gpus_per_trial=0).search, [{"CPU": 4.0, "GPU": 1.0}]) == 4
    with pytest.raises(ConfigError, match="at most one GPU"):
        concurrency(searching(experiment_data, SPACE, gpus_per_trial=2).search, nodes)


def test_a_trial_on_part_of_a_gpu_spans_no_two():
    assert Demand(1, 0.4).fits({"CPU": 64, "GPU": 2}) == 4  # two on each, though 2 / 0.4 is 5
