"""Training luck: what several seeds add to the interval of a difference."""

import numpy as np
import pytest

from ialign_ray.evaluation.metrics.bootstrap import estimates, resample_weights
from ialign_ray.evaluation.results.cells import CellDraws
from ialign_ray.evaluation.results.training_luck import DECLARED, MEASURED, NONE, UNMEASURED, with_luck

SENTENCES = 48
WEIGHTS = resample_weights(SENTENCES, 200)


def drawn(scores):
    """A run of scores (seeds, sentences)."""
    draws = np.stack([row @ WEIGHTS / SENTENCES for row in np.atleast_2d(scores)])
    return CellDraws(draws.mean(axis=0), SENTENCES, SENTENCES, tuple(draws[:, 0].tolist()), draws.astype(np.float32))


def judged(first, second, recipes=(True, True), declared=None):
    pairs = [(drawn(first), drawn(second))]
    found = estimates(np.stack([a.draws - b.draws for a, b in pairs]), [SENTENCES], WEIGHTS)
    total, [luck] = with_luck(found, pairs, recipes, [declared])
    return found, total, luck


def recipe(rng, seeds, luck=0.06, noise=0.2, shift=0.0, difficulty=None):
    """Scores of one recipe: a sentence's difficulty, the luck of each seed, and noise of both together."""
    hard = rng.normal(0, 0.2, SENTENCES) if difficulty is None else difficulty
    return shift + hard + luck * rng.normal(size=(seeds, 1)) + noise * rng.normal(size=(seeds, SENTENCES))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("against", ["recipe", "base"])
def test_equal_recipes_are_told_apart_as_seldom_as_said(seeds, against):
    """Sentences alone tell equal recipes with two seeds apart in .3 of the cases."""
    rng = np.random.default_rng(seeds)
    alone, with_seeds = [], []
    for _ in range(400):
        hard = rng.normal(0, 0.2, SENTENCES)
        second = recipe(rng, seeds, difficulty=hard) if against == "recipe" else hard + 0.2 * rng.normal(size=SENTENCES)
        found, total, _ = judged(recipe(rng, seeds, difficulty=hard), second, (True, against == "recipe"))
        alone.append(found.p()[0] < 0.05)
        with_seeds.append(total.p()[0] < 0.05)
    assert np.mean(alone) > np.mean(with_seeds) + 0.03
    assert 0.015 <= np.mean(with_seeds) <= 0.08


def test_a_real_effect_is_seen_and_seeds_in_common_are_paired():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.2, SENTENCES)
    first = recipe(rng, 3, luck=0.3, noise=0.02, difficulty=hard)
    # the same luck for each seed: data order and initialisation are shared
    _, paired, luck = judged(first + 0.1, first)
    assert (luck.kind, luck.seeds) == (MEASURED, 3)
    assert luck.seed_sd == pytest.approx(0, abs=1e-6)
    assert paired.p()[0] < 0.001
    _, apart, _ = judged(first[:2] + 0.1, first)
    assert apart.p()[0] > 0.05


def test_one_seed_is_unmeasured_or_declared():
    rng = np.random.default_rng(1)
    first, second = recipe(rng, 1, shift=0.3), recipe(rng, 1)
    found, total, luck = judged(first, second)
    assert luck.kind == UNMEASURED
    assert np.concatenate(total.bounds()) == pytest.approx(np.concatenate(found.bounds()))
    _, total, luck = judged(first, second, declared=0.05)
    assert (luck.kind, luck.seed_sd) == (DECLARED, pytest.approx(0.05 * np.sqrt(2)))
    assert total.error[0] == pytest.approx(np.sqrt(found.error[0] ** 2 + 2 * 0.05**2))
    assert judged(first, second, (False, False))[2].kind == NONE


def test_a_single_run_on_one_side_is_as_lucky_as_the_other():
    rng = np.random.default_rng(2)
    several, one = recipe(rng, 4, noise=0), recipe(rng, 1)
    _, total, luck = judged(several, one)
    assert (luck.kind, luck.seeds) == (MEASURED, 1)
    spread = np.var([row.mean() for row in several], ddof=1)
    assert luck.seed_sd == pytest.approx(np.sqrt(2 * spread))
    assert total.error[0] ** 2 > spread * (1 / 4 + 1)


def test_seeds_without_spread_add_nothing():
    rng = np.random.default_rng(3)
    one = recipe(rng, 1)
    found, total, luck = judged(np.repeat(one, 3, axis=0) + 0.1, np.repeat(recipe(rng, 1), 3, axis=0))
    assert luck.kind == MEASURED
    assert total.error == pytest.approx(found.error)
    assert total.freedom == pytest.approx(found.freedom)
