import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ialign_ray.config import build_experiment
from ialign_ray.tasks import mixture as module
from ialign_ray.tasks.mixture import Draw, Mixture
from ialign_ray.tasks.plan import Plan
from ialign_ray.training.prepare import prepare

ratios = st.one_of(
    st.floats(0, 1), st.integers(0, 1000).map(lambda k: k / 1000), st.sampled_from([0.0, 0.1, 0.3, 1 / 3, 1.0])
)


@given(ratios, st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(1, 600))
def test_the_replay_ratio_is_exact_at_every_length(ratio, pairs, replay, seed, n):
    mixture = Mixture(seed, ratio, pairs, replay)
    exact = Fraction(str(ratio))
    count = 0
    for i in range(n):
        count += mixture.draw(i).replay
        assert count == (i + 1) * exact.numerator // exact.denominator


def test_the_replay_ratio_is_exact_after_millions():
    """0.1 is one tenth, not the double above it."""
    mixture = Mixture(0, 0.1, 7, 7)
    assert [mixture.draw(10**15 + k).replay for k in range(10)] == [False] * 9 + [True]


@settings(max_examples=30)
@given(ratios, st.integers(0, 10_000))
def test_every_window_holds_the_replay_ratio(ratio, start):
    mixture = Mixture(0, ratio, 13, 11)
    count = sum(mixture.draw(i).replay for i in range(start, start + 200))
    assert abs(count - 200 * ratio) < 1 + 1e-9


@given(st.sampled_from([0.0, 0.25, 0.4, 1.0]), st.integers(1, 23), st.integers(1, 23), st.integers(0, 3))
def test_each_row_comes_once_an_epoch_for_ever(ratio, pairs, replay, seed):
    mixture = Mixture(seed, ratio, pairs, replay)
    draws = [mixture.draw(i) for i in range(400)]
    for pool, size in ((False, pairs), (True, replay)):
        own = [d for d in draws if d.replay is pool]
        for epoch in range(len(own) // size):
            part = own[epoch * size : (epoch + 1) * size]
            assert sorted(d.row for d in part) == list(range(size))
            assert {d.epoch for d in part} == {epoch}


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_each_epoch_has_its_own_order(ratio):
    mixture = Mixture(0, ratio, 50, 50)
    orders = [tuple(mixture.draw(e * 50 + k).row for k in range(50)) for e in range(6)]
    assert len(set(orders)) == 6
    assert tuple(range(50)) not in orders
    assert tuple(Mixture(1, ratio, 50, 50).draw(k).row for k in range(50)) != orders[0]


def test_the_two_pools_have_their_own_order():
    pairs, replay = (tuple(Mixture(0, r, 50, 50).draw(k).row for k in range(50)) for r in (0.0, 1.0))
    assert pairs != replay


def test_a_pool_of_one_works():
    mixture = Mixture(0, 0.5, 1, 1)
    assert [mixture.draw(i) for i in range(6)] == [Draw(r, 0, e) for e in range(3) for r in (False, True)]


@given(st.integers(0, 2**31), st.integers(1, 50))
def test_a_draw_depends_on_its_number_alone(seed, size):
    inorder = [Mixture(seed, 0.3, size, 9).draw(i) for i in range(100)]
    module._order.cache_clear()
    other, shuffled = Mixture(seed, 0.3, size, 9), list(range(100))
    random.Random(seed).shuffle(shuffled)
    assert {i: other.draw(i) for i in shuffled} == dict(enumerate(inorder))


@pytest.mark.parametrize(("ratio", "pairs", "replay"), [(0.1, 5, 0), (0.9, 0, 5)])
def test_a_needed_pool_must_not_be_empty(ratio, pairs, replay):
    with pytest.raises(ValueError, match="needs"):
        Mixture(0, ratio, pairs, replay)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_an_unneeded_pool_may_be_empty(ratio):
    mixture = Mixture(0, ratio, int(ratio < 1), int(ratio > 0))
    assert mixture.draw(3) == Draw(ratio == 1, 0, 3)


@pytest.fixture
def plan(experiment_data):
    # of a corpus of a few words the surface gives every label away: without the matching all pairs are used
    return replace(prepare(build_experiment(experiment_data, "x")).plan, matching=None)


def test_a_plan_draws_the_replay_ratio_and_all_tasks(plan):
    drawn = [plan.draw(i) for i in range(400)]
    assert sum(d.source == "replay" for d in drawn) == 100
    sources = {d.source for d in drawn}
    assert sources == {"replay"} | {f"{t}/{c}" for t in ("mlm", "tlm", "mt", "xss") for c in ("ind", "jav")}
    epochs = Counter((d.row_id, d.epoch) for d in drawn)
    assert set(epochs.values()) == {1}
    for d in drawn:
        assert d.row_id.startswith("old.jsonl:") == (d.source == "replay")


def test_a_row_is_worded_anew_in_each_epoch(plan):
    seen = {}
    for i in range(1600):
        d = plan.draw(i)
        if d.source != "replay":
            seen.setdefault(d.row_id, set()).add(d.example)
    assert len(seen) == 160
    assert sum(len(v) > 1 for v in seen.values()) > 150


def test_a_saved_plan_draws_the_same_in_another_process(plan, tmp_path):
    plan.save(tmp_path / "plan")
    expected = [json.loads(json.dumps(asdict(plan.draw(i)))) for i in range(120)]
    loaded = Plan.load(tmp_path / "plan")
    assert [json.loads(json.dumps(asdict(loaded.draw(i)))) for i in reversed(range(120))] == expected[::-1]
    code = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path\n"
        "from ialign_ray.tasks.plan import Plan\n"
        "plan = Plan.load(Path(sys.argv[1]))\n"
        "print(json.dumps([asdict(plan.draw(i)) for i in range(120)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "plan")],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == expected
