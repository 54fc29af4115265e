"""Suites of lm-evaluation-harness's tasks in the experiment file."""

import pytest

from ialign_ray.config import build_experiment
from ialign_ray.config.harness_suite import code_in
from ialign_ray.errors import ConfigError


@pytest.fixture
def data(experiment_data):
    experiment_data["evaluate"]["suites"] = [{"kind": "lm_eval", "name": "words", "tasks": "words_*"}]
    return experiment_data


@pytest.mark.parametrize(
    ("name", "code"),
    [("xcopa_id", "ind"), ("belebele_jav_Latn", "jav"), ("mmlu_en_law", "eng"), ("mood_task", None), ("id_en", None),
     ("belebele_jav_Java", None)],
)  # fmt: skip
def test_the_language_is_the_only_code_in_the_name(name, code):
    assert code_in(name, ["eng", "ind", "jav"]) == code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": []}, r"evaluate\.suites\.0\.tasks"),
        ({"tasks": {}}, r"evaluate\.suites\.0: tasks is empty"),
        ({"num_fewshot": -1}, r"evaluate\.suites\.0\.num_fewshot"),
        ({"shots": 3}, r"unknown key evaluate\.suites\.0\.shots"),
    ],
)
def test_bad_settings_name_the_field(data, change, message):
    data["evaluate"]["suites"][0] |= change
    with pytest.raises(ConfigError, match=message):
        build_experiment(data, "test")


def test_a_wrong_key_of_the_old_section_is_still_named_in_full(data):
    data["evaluate"]["lm_eval"] = {"limit": 0}
    with pytest.raises(ConfigError, match=r"evaluate\.lm_eval\.limit"):
        build_experiment(data, "test")
