import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.corpus.identity import rng
from ialign_ray.tasks.noise import BLANK, Noise, apply, choose, noisy, text_of, tokens_of

WORDS = st.lists(st.sampled_from(["a", "b", "kucing", BLANK, "é", "{source}", "дом"]), max_size=12)


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
    words = tokens_of("w " * 20_000)
    blanked = [token.text for token in apply(words, ("i",), rng(1), Noise())]
    assert blanked.count(BLANK) / 20_000 == pytest.approx(0.2, abs=0.02)
    assert len(apply(words, ("d",), rng(2), Noise())) / 20_000 == pytest.approx(0.8, abs=0.02)


def test_order_is_infill_delete_permute():
    assert (
        text_of(apply(tokens_of("a b c"), ("i", "d"), rng(1), Noise(infill=1, delete=0))) == f"{BLANK} {BLANK} {BLANK}"
    )
    words = [str(k) for k in range(50)]
    shuffled = text_of(apply(tokens_of(" ".join(words)), ("p",), rng(1), Noise())).split()
    assert sorted(shuffled, key=int) == words != shuffled


@pytest.mark.parametrize("words", [2, 3, 5, 20])
def test_short_texts_are_not_noised_more_than_the_probabilities_say(words):
    text, n, blanks, gone = " ".join(f"w{k}" for k in range(words)), 8_000, 0, 0
    for k in range(n):
        out = noisy(text, rng("rate", k)).split()
        blanks, gone = blanks + out.count(BLANK), gone + words - len(out)
    # 0.2 of the words in the kinds that infill (some are deleted afterwards), 0.2 in those that delete
    assert 0.05 < blanks / n / words < 0.2 * (0.24 + 0.08 + 0.8 * 0.12) + 0.007
    assert 0.05 < gone / n / words < 0.2 * 0.44 + 0.007


SPACELESS = {
    "jpn": "今日は東京へ行きました。",
    "zho": "今天我们去北京旅行。",
    "tha": "ภาษาไทยเป็นภาษาราชการของประเทศไทย",
    "lao": "ພາສາລາວແມ່ນພາສາທາງການ",
    "khm": "មនុស្សទាំងអស់កើតមកមានសេរីភាព",
    "mya": "မြန်မာဘာသာစကားသည် တရားဝင်ဘာသာစကားဖြစ်သည်",
    "bod": "བོད་ཡིག་ནི་བོད་མིའི་ཡི་གེ་ཡིན།",
    "jav": "ꦲꦤꦕꦫꦏꦢꦠꦱꦮꦭ",
    "mixed": "Python 3で書く",
}


@pytest.mark.parametrize("text", SPACELESS.values(), ids=SPACELESS)
def test_scripts_without_spaces_are_noised_by_characters_with_their_marks(text):
    assert text_of(tokens_of(text)) == text
    assert not any(unicodedata.category(token.text[0]).startswith("M") for token in tokens_of(text))
    found = [noisy(text, rng("spaceless", k)) for k in range(200)]
    assert None not in found
    assert text not in found
    # never a whole clause at once: what stays is most of the text
    kept = [sum(len(token.text) for token in tokens_of(out.replace(BLANK, ""))) for out in found]
    assert sum(kept) / len(kept) > 0.7 * len(text.replace(" ", ""))
