import math

import numpy as np
import pytest

from ialign_ray.config import Domain, SearchConfig
from ialign_ray.search.objective import Losses, References, best, difference, flat, pareto, worth

SETTINGS = SearchConfig(space={"replay.ratio": Domain(choice=[0])}, tolerance=0.1)


def losses(new, old):
    return Losses(np.array([[2.0 * n, 2] for n in new]), np.array([[3.0 * o, 3] for o in old]))


BASE = losses([5, 6, 7], [1, 1, 2])


def test_only_text_in_new_languages_and_old_instructions_count():
    rows = [
        ("pairs/eng-jav", "c:1:eng-jav", 4, 8.0),
        ("pairs/jav-eng", "c:1:jav-eng", 9, 1.0),
        ("pairs/eng-sun", "c:1:eng-sun", 2, 6.0),
        ("pairs/eng-jav", "c:0:eng-jav", 1, 1.0),
        ("instructions", "q:1", 3, 9.0),
    ]
    found = Losses.of(rows, ["eng"])
    assert found.new.tolist() == [[1, 1], [14, 6]]  # by sentence: a sentence is one unit with all its directions
    assert found.old.tolist() == [[9, 3]]


def test_the_gain_is_over_the_control_and_forgetting_over_the_base():
    control = losses([5, 5, 6], [1, 1, 1])
    trial = losses([3, 3, 4], [1, 1, 2.3])
    found = worth(trial, References(BASE, [(10, control)]), 10, SETTINGS)
    assert found.gain.value == pytest.approx(2)
    assert found.forgetting.value == pytest.approx(0.1)
    assert found.gain.low == pytest.approx(found.gain.high)  # the same on every sentence: paired, it has no spread
    against = worth(trial, References(BASE, [(10, control)]), 10, SETTINGS.model_copy(update={"against": "control"}))
    assert against.forgetting.value == pytest.approx(1.3 / 3)


def test_the_control_has_had_the_same_compute():
    halfway = References(BASE, [(10, losses([3, 4, 5], [1, 1, 2])), (20, losses([1, 2, 3], [1, 1, 2]))])
    assert halfway.control_at(5).new[0, 0] / 2 == pytest.approx(4)
    assert halfway.control_at(15).new[0, 0] / 2 == pytest.approx(2)
    assert halfway.control_at(20).new[0, 0] / 2 == pytest.approx(1)
    assert halfway.control_at(99).new[0, 0] / 2 == pytest.approx(1)


def test_the_interval_is_paired():
    rng = np.random.default_rng(0)
    hard = rng.uniform(1, 9, 200)
    a = np.stack([10 * hard, np.full(200, 10.0)], 1)
    b = np.stack([10 * (hard - 0.5 + rng.normal(0, 0.1, 200)), np.full(200, 10.0)], 1)
    found = difference(a, b)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.06  # unpaired it would be 0.9


def test_a_scheduler_ranks_what_forgets_too_much_lower():
    references = References(BASE, [(10, BASE)])
    kept = worth(losses([4, 5, 6], [1, 1, 2]), references, 10, SETTINGS)
    lost = worth(losses([3.5, 4.5, 5.5], [2, 2, 3]), references, 10, SETTINGS)
    assert kept.feasible
    assert not lost.feasible
    assert lost.gain.value > kept.gain.value
    assert lost.score < kept.score
    assert flat(lost)["score"] == pytest.approx(1.5 - 0.9)
    assert flat(lost)["violation"] == pytest.approx(0.9)


def test_feasible_is_what_the_whole_interval_shows():
    spread = losses([4, 5, 6], [1.0, 1.0, 2.2])  # forgets .067 on average, and up to .35
    shown = worth(spread, References(BASE, [(10, BASE)]), 10, SETTINGS)
    middle = worth(spread, References(BASE, [(10, BASE)]), 10, SETTINGS.model_copy(update={"feasible": "estimate"}))
    assert shown.forgetting == middle.forgetting
    assert shown.violation == pytest.approx(shown.forgetting.high - 0.1)
    assert middle.violation == pytest.approx(middle.forgetting.value - 0.1)
    assert (shown.feasible, middle.feasible) == (False, True)
    single = worth(losses([4], [1]), References(losses([5], [1]), [(10, losses([5], [1]))]), 10, SETTINGS)
    assert not single.feasible  # one instruction has no interval
    assert math.isfinite(single.score)
    assert best([flat(single)]) == 0


def row(gain, forgetting):
    return {"gain": gain, "forgetting": forgetting, "violation": forgetting - 0.1}


def test_the_front_and_the_winner():
    rows = [row(1.0, 0.05), row(2.0, 0.5), row(0.9, 0.07), row(1.0, 0.04), row(math.nan, math.nan), row(0.5, -0.1)]
    assert pareto(rows) == [1, 3, 5]
    assert best(rows) == 0  # the first of the two with the largest gain among those that kept enough
    assert best([row(2, 0.5), row(1, 0.3)]) == 1  # none keeps: the nearest
    assert best([row(math.nan, math.nan)]) is None
    assert pareto([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_no_row_of_the_front_is_beaten_and_every_other_is(seed):
    rng = np.random.default_rng(seed)
    rows = [row(float(g), float(f)) for g, f in rng.integers(0, 8, (40, 2))]
    front = set(pareto(rows))

    def beaten(k):
        a = rows[k]
        return any(
            b["gain"] >= a["gain"]
            and b["forgetting"] <= a["forgetting"]
            and (b["gain"], b["forgetting"]) != (a["gain"], a["forgetting"])
            for b in rows
        )

    assert not any(beaten(k) for k in front)
    values = {(rows[k]["gain"], rows[k]["forgetting"]) for k in front}
    assert all(beaten(k) or (rows[k]["gain"], rows[k]["forgetting"]) in values for k in range(len(rows)))
