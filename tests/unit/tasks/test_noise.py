from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.corpus.identity import rng
from ialign_ray.tasks.noise import BLANK, Noise, apply, choose, noisy

WORDS = st.lists(st.sampled_from(["a", "b", "kucing", BLANK, "é", "{source}", "東京"]), max_size=12)


@given(WORDS, st.integers(0, 10_000))
def test_noise_shows_and_leaves_something(words, seed):
    result = noisy(" ".join(words), rng(seed))
    if result is None:
        assert len(set(words)) < 2
        return
    assert result.split() != words
    assert set(result.split()) - {BLANK}
    assert set(result.split()) <= {*words, BLANK}
    assert len(result.split()) <= len(words)


@given(st.text(max_size=30), st.integers(0, 100))
def test_any_text_is_noised_or_refused(text, seed):
    result = noisy(text, rng(seed))
    assert result is None or result.split() != text.split()


@pytest.mark.parametrize("text", ["", "   ", "kucing", "ya ya ya", BLANK])
def test_one_word_cannot_be_noised(text):
    assert all(noisy(text, rng(k)) is None for k in range(50))


@pytest.mark.parametrize("noise", [Noise(0, 0), Noise(1, 1), Noise(1, 0), Noise(0, 1)])
def test_extreme_probabilities_still_show(noise):
    for k in range(100):
        result = noisy("satu dua tiga", rng(k), noise)
        assert result is not None
        assert result != "satu dua tiga"
        assert set(result.split()) - {BLANK}


def test_kinds_come_at_the_published_frequencies():
    n = 40_000
    random = rng("kinds")
    counts = Counter("".join(choose(random)) for _ in range(n))
    expected = {"i": 0.24, "d": 0.24, "p": 0.24, "id": 0.08, "ip": 0.08, "dp": 0.08, "idp": 0.04}
    assert set(counts) == set(expected)
    for kind, share in expected.items():
        # four standard errors of the widest share: 4 * sqrt(.24 * .76 / 40,000) = .0085
        assert counts[kind] / n == pytest.approx(share, abs=0.009)


def test_what_comes_out_has_those_frequencies_too():
    words = [f"w{k}" for k in range(40)]  # so long that a retry is rare and each kind leaves its trace
    n, counts = 5_000, Counter()
    for k in range(n):
        out = noisy(" ".join(words), rng("seen", k)).split()
        kept = [w for w in out if w != BLANK]
        counts["i"] += BLANK in out
        counts["d"] += len(out) < len(words)
        counts["p"] += kept != sorted(kept, key=words.index)
    for kind in "idp":
        assert counts[kind] / n == pytest.approx(0.24 + 2 * 0.08 + 0.04, abs=0.03)


def test_a_fifth_of_the_words_is_hit():
    words = ["w"] * 20_000
    assert apply(words, ("i",), rng(1), Noise()).count(BLANK) / 20_000 == pytest.approx(0.2, abs=0.02)
    assert len(apply(words, ("d",), rng(2), Noise())) / 20_000 == pytest.approx(0.8, abs=0.02)


def test_order_is_infill_delete_permute():
    assert apply(["a", "b", "c"], ("i", "d"), rng(1), Noise(infill=1, delete=0)) == [BLANK] * 3
    shuffled = apply([str(k) for k in range(50)], ("p",), rng(1), Noise())
    assert sorted(shuffled, key=int) == [str(k) for k in range(50)] != shuffled
