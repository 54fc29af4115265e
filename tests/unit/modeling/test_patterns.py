import json
import time
from pathlib import Path

import pytest

from ialign_ray.errors import ModelError
from ialign_ray.modeling import patterns
from ialign_ray.modeling.patterns import check_patterns

NAMES = [f"model.layers.{i}.self_attn.{kind}_proj" for i in range(24) for kind in "qkvo"]
BOMB = r"(\w+\.?)+!"


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": BOMB},
        {"exclude_modules": BOMB},
        {"rank_pattern": {BOMB: 4}},
        {"alpha_pattern": {BOMB: 4}},
        {"modules_to_save": [BOMB]},
        {"layers_pattern": BOMB},
        {"layers_pattern": ["layers", BOMB]},
        {"rank_pattern": {f"{i}.*": 4 for i in range(20_000)}},
    ],
)
def test_a_pattern_that_is_not_matched_in_time_is_refused(config, monkeypatch):
    monkeypatch.setattr(patterns, "SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(ModelError, match="not matched in"):
        check_patterns(json.loads(json.dumps(config)), NAMES, Path("here"))
    assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "layers_pattern": "layers"},
        {"target_modules": r"(?i)model\.(?!vision).*\.(q|v)_proj", "rank_pattern": {r"layers\.[0-3]\..*q_proj": 2}},
        {"target_modules": 5, "rank_pattern": [1], "modules_to_save": None, "layers_pattern": {"a": 1}},
    ],
)
def test_patterns_of_adapters_are_accepted(config):
    check_patterns(config, NAMES, Path("here"))


def test_plain_names_cost_no_process(monkeypatch):
    monkeypatch.setattr(patterns.subprocess, "run", None)
    check_patterns({"target_modules": ["q_proj"], "alpha_pattern": {"layers.0.q_proj": 1}}, NAMES, Path("here"))


@pytest.mark.parametrize("pattern", ["(", "a{2", "[", "(" * 5000])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(ModelError, match="not a regular expression"):
        check_patterns({"target_modules": pattern + "("}, NAMES, Path("here"))
