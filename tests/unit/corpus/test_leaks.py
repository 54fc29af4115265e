import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.leaks import EvaluationIndex, LeakSettings, LeakStep
from ialign_ray.corpus.schema import schema

SENTENCE = "The old farmer buys two red fish at the market every single morning."
THAI = "ชาวนาแก่ซื้อปลาสีแดงสองตัวที่ตลาดทุกเช้า"


def column(*texts):
    return pa.array(texts, pa.string())


def naive_overlap(text, sentences, n):
    def grams(t):
        words = "".join(c if c.isalnum() else " " for c in t.lower()).split()
        return {tuple(words[k : k + n]) for k in range(len(words) - n + 1)}

    shares = [len(grams(s) & grams(text)) / len(grams(s)) for s in sentences if grams(s)]
    return max(shares, default=0.0)


@pytest.mark.parametrize(
    "text",
    [SENTENCE, SENTENCE.upper(), "  " + SENTENCE.replace(" ", "\u00a0 "), SENTENCE.rstrip("."), f"“{SENTENCE}”"],
)
def test_the_same_sentence_in_other_dress_is_exact(text):
    index = EvaluationIndex.build([SENTENCE, "Another one."])
    exact, overlap = index.leaks(column(text, "Something else entirely.", None, ""))
    assert exact.tolist() == [True, False, False, False]
    assert not overlap.any()


def test_a_sentence_within_a_longer_text_is_an_overlap():
    index = EvaluationIndex.build([SENTENCE], n=5, threshold=0.5)
    long = f"Read this. {SENTENCE} What does the farmer buy? He buys fish, and then he goes home to his family again."
    half = "The old farmer buys two red ducks at the big new shop."
    shares = index.overlap(column(long, half, "The old farmer sleeps.", SENTENCE))
    assert shares[0] == shares[3] == 1.0
    assert shares[1] == pytest.approx(naive_overlap(half, [SENTENCE], 5))
    assert shares[2] == 0.0
    assert index.leaks(column(long, half, SENTENCE))[1].tolist() == [True, False, False]


def test_scripts_without_spaces_are_searched_too():
    index = EvaluationIndex.build([THAI])
    exact, overlap = index.leaks(column(THAI, "เมื่อวานนี้ " + THAI + " และกลับบ้าน", "วันนี้อากาศดีมาก"))
    assert exact.tolist() == [True, False, False]
    assert overlap.tolist() == [False, True, False]


def test_switches():
    text = column(SENTENCE, "He said: " + SENTENCE + " And left.")
    off = EvaluationIndex.build([SENTENCE], exact=False, threshold=None)
    assert not np.concatenate(off.leaks(text)).any()
    only_exact = EvaluationIndex.build([SENTENCE], threshold=None)
    assert [m.tolist() for m in only_exact.leaks(text)] == [[True, False], [False, False]]
    only_overlap = EvaluationIndex.build([SENTENCE], exact=False)
    assert [m.tolist() for m in only_overlap.leaks(text)] == [[False, False], [True, True]]
    requests = EvaluationIndex.build([], only_exact={"": [SENTENCE]})
    assert [m.tolist() for m in requests.leaks(text)] == [[True, False], [False, False]]


def test_sentences_shorter_than_n_are_found_by_equality_alone():
    index = EvaluationIndex.build(["Good morning."])
    exact, overlap = index.leaks(column("good  morning", "He says: good morning to you all, my friends."))
    assert exact.tolist() == [True, False]
    assert not overlap.any()


WORDS = st.sampled_from(["ayam", "bebek", "sapi", "kuda", "ikan"])
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), max_size=6)


@given(TEXTS, TEXTS, st.integers(2, 4))
def test_the_share_is_that_of_a_plain_count(sentences, texts, n):
    shares = EvaluationIndex.build(sentences, n=n).overlap(column(*texts))
    assert shares.tolist() == pytest.approx([naive_overlap(t, sentences, n) for t in texts])


def test_an_index_survives_saving(tmp_path):
    index = EvaluationIndex.build([SENTENCE, "Good morning."], threshold=0.7)
    loaded = EvaluationIndex.load(tmp_path / index.save(tmp_path))
    assert loaded.digest == index.digest
    assert (loaded.n, loaded.threshold) == (5, 0.7)
    other = EvaluationIndex.build([SENTENCE], threshold=0.7)
    assert other.digest != index.digest
    texts = column(SENTENCE, "good morning", "x")
    assert [m.tolist() for m in loaded.leaks(texts)] == [m.tolist() for m in index.leaks(texts)]


def test_a_leak_in_one_language_drops_the_row_in_all(tmp_path):
    index = EvaluationIndex.build(["Sega iki enak banget, Bu."])
    table = pa.Table.from_pylist(
        [
            {"id": "a:1", "file": 1, "line": 1, "eng": "This rice is tasty.", "jav": "sega iki enak banget bu"},
            {"id": "a:2", "file": 1, "line": 2, "eng": "Hello.", "jav": None},
        ],
        schema=schema(["eng", "jav"]),
    )
    for step, jav in (("leaks", "sega iki enak banget bu"), ("overlaps", "dheweke kandha sega iki enak banget bu")):
        leaky = table.set_column(4, "jav", pa.array([jav, None], pa.string()))
        search = LeakStep(LeakSettings(step=step, index=index.save(tmp_path), folder=str(tmp_path)))
        dropped = search(leaky, Scope(["eng", "jav"], ["eng"])).dropped
        assert {c: m.tolist() for c, m in dropped.items()} == {"eng": [True, False], "jav": [True, False]}


def test_a_leak_names_the_suite_that_it_is_from(tmp_path):
    suites = {"mood": [SENTENCE, "Good morning."], "news": ["Good morning.", "The harbour was closed after the storm."]}
    index = EvaluationIndex.build(suites, only_exact={"old": ["Sort these names."]})
    texts = column(
        "good morning!",
        SENTENCE.upper(),
        "They say the harbour was closed after the storm of May.",
        "Sort these names",
        "Something else entirely, in ten words or a few more.",
        None,
    )
    expected = ["mood", "mood", "news", "old", None, None]
    assert index.origins_of(texts) == expected
    assert EvaluationIndex.load(tmp_path / index.save(tmp_path)).origins_of(texts) == expected
    assert EvaluationIndex.build([]).origins_of(texts) == [None] * 6
