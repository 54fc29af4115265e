"""Searches of a pool: what is nearest, in which order, and what a question never finds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ialign_ray.errors import ConfigError, DataError
from ialign_ray.incontext.pool import Pool, Query, Search
from ialign_ray.incontext.retrievers import RETRIEVERS, fitted, nearest_first, ranks_of, terms

TEXTS = [
    "the cat sat on the mat",
    "a dog ran over the green field",
    "prices of rice rose in the market",
    "the old cat sleeps on a mat",
    "ราคาข้าวในตลาดสูงขึ้น",
    "ນ້ຳຖ້ວມໃນເມືອງ",
]


def pool(texts=TEXTS, labels=(), **more):
    return Pool([f"p{k}" for k in range(len(texts))], ["eng"] * len(texts), texts, labels, **more)


def found(retriever, text, k=1, row="q", texts=TEXTS, **more):
    return Search.of(pool(texts, more.pop("labels", ())), [retriever], k, "x", **more).find(Query(row, text)).places


@pytest.mark.parametrize("retriever", [name for name in RETRIEVERS.builtin if name != "random"])
@pytest.mark.parametrize(
    ("text", "nearest"),
    [("cats and a mat", {0, 3}), ("the rice market", {2}), ("ตลาดข้าววันนี้", {4}), ("green fields", {1})],
)
def test_the_nearest_text_shares_words_or_letters(retriever, text, nearest):
    if retriever != "characters" and text == "green fields":
        text = "green field"  # whole words are compared
    assert set(found(retriever, text)) <= nearest


def test_words_in_scripts_without_spaces_are_cut():
    assert len(terms(["ราคาข้าวในตลาดสูงขึ้น"])[0]) > 3
    assert len(terms(["价格上涨了"])[0]) > 1


@pytest.mark.parametrize("retriever", list(RETRIEVERS.builtin))
@pytest.mark.parametrize("text", ["", "?!", "zzz", "x" * 5000, "\U0001f600", "İstanbul ǅ ﬁ"])
def test_a_question_that_nothing_resembles_finds_the_same_texts_each_time(retriever, text):
    once, again = (found(retriever, text, k=3) for _ in range(2))
    assert once == again
    assert len(set(once)) == 3


def test_equal_similarities_are_in_the_order_of_ids():
    for first in (1, 2, 3, 64):
        order = nearest_first(np.array([1.0, 2.0, 2.0, 1.0]), ranks_of(["d", "c", "b", "a"]), first)
        assert list(order) == [2, 1, 3, 0]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 70))
def test_a_partial_order_begins_as_the_whole_one_does(values, first):
    ids = [f"{k * 7 % 61:02}" for k in range(len(values))]
    whole = sorted(range(len(values)), key=lambda k: (-values[k], ids[k]))
    assert list(nearest_first(np.array(values, float), ranks_of(ids), first)) == whole


@given(st.permutations(range(len(TEXTS))), st.sampled_from(list(RETRIEVERS.builtin)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_pool_changes_nothing(order, retriever):
    ids = [f"p{k}" for k in range(len(TEXTS))]
    shuffled = Pool([ids[k] for k in order], ["eng"] * len(ids), [TEXTS[k] for k in order])
    one = Search.of(pool(), [retriever], 4, "x").find(Query("q", "the cat and the market")).places
    two = Search.of(shuffled, [retriever], 4, "x").find(Query("q", "the cat and the market")).places
    assert [ids[k] for k in one] == [ids[order[k]] for k in two]


def test_random_texts_depend_on_the_question_and_the_seed_alone():
    many = [f"text {k}" for k in range(40)]
    assert found("random", "a", 5, "q1", many) == found("random", "b", 5, "q1", many)
    assert found("random", "a", 5, "q1", many) != found("random", "a", 5, "q2", many)
    assert found("random", "a", 5, "q1", many) != found("random", "a", 5, "q1", many, seed=1)


LEAKS = {
    "a translation has the same id": ("p1", "kucing itu duduk"),
    "the same text": ("q", "The  cat sat on the mat"),
    "the same text in other letters": ("q", "THE CAT SAT ON THE ＭＡＴ"),
    "a near duplicate": ("q", "the cat sat on the big mat"),
}


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("retriever", list(RETRIEVERS.builtin))
def test_a_question_never_finds_itself(leak, retriever, monkeypatch):
    row, text = LEAKS[leak]
    place = 1 if row == "p1" else 0
    search = Search.of(pool(), [retriever], 5, "x")
    result = search.find(Query(row, text))
    assert place not in result.places
    assert result.refused >= 1 or retriever == "random"  # which need not meet it
    monkeypatch.setattr(Pool, "is_question", lambda *_: False)  # without the guard it is among them
    assert place in Search.of(pool(), [retriever], 6, "x").find(Query(row, text)).places


def test_ids_of_another_file_say_nothing():
    own = Search.of(pool(shares_ids=False), ["bm25"], 6, "x")
    assert 1 in own.find(Query("p1", "kucing itu duduk")).places


def test_long_texts_that_share_words_are_not_duplicates():
    short, long = "the cat sat on the mat", "the cat sat on the mat " + "and then another thing happened somewhere " * 3
    assert 0 in found("overlap", short, 6, texts=[long, *TEXTS[1:]])


def test_balanced_exemplars_have_every_label():
    texts = [f"cat {k}" for k in range(6)] + ["dog", "bird", "fish"]
    labels = [0] * 6 + [1, 1, 2]
    places = found("overlap", "cat", 6, texts=texts, labels=labels, balanced=True)
    assert sorted(labels[k] for k in places) == [0, 0, 0, 1, 1, 2]  # fish is alone, and cats take its place


def test_diversity_avoids_what_is_like_the_texts_taken_already():
    texts = ["red cat here now", "red cat here now too", "red cup", "stone", "tree", "road"]
    assert found("overlap", "red cat", 2, texts=texts) == [0, 1]
    assert found("overlap", "red cat", 2, texts=texts, diversity=0.5) == [0, 2]


def test_several_retrievers_are_fused_by_their_ranks():
    ids = [f"p{k}" for k in range(len(TEXTS))]
    fused = fitted(["bm25", "characters"], TEXTS, ids, "x")(Query("q", "the cat"))
    ranks = [
        list(nearest_first(fitted([one], TEXTS, ids, "x")(Query("q", "the cat")), ranks_of(ids)))
        for one in ("bm25", "characters")
    ]
    expected = [sum(1 / (61 + order.index(k)) for order in ranks) for k in range(len(TEXTS))]
    assert fused.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: pool([]), DataError, "empty"),
        (lambda: Search.of(pool(), ["bm25"], 7, "contexts.a"), DataError, r"contexts\.a\.k is 7, but .* 6 texts"),
        (lambda: Search.of(pool(), ["nope"], 1, "contexts.a"), ConfigError, r"contexts\.a\.retriever is 'nope'"),
        (lambda: Search.of(pool(["same text here"] * 3), ["bm25"], 1, "x").find(Query("q", "same text here")),
         DataError, "finds 0 of 1 texts, as 3 others"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_said_in_one_sentence(make, error, says):
    with pytest.raises(error, match=says):
        make()
