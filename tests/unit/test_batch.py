import random

from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.tokens.batch import Encoded, micro_batches

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), max_size=40)


def make(sizes):
    return [Encoded(f"r{k}", 0, "mt/jav", "mt", "eng/mt-1", [1] * p, [2] * t) for k, (p, t) in enumerate(sizes)]


@given(lengths, st.integers(16, 400))
def test_every_example_comes_once_within_the_budget(sizes, tokens):
    examples = make(sizes)
    batches = list(micro_batches(examples, tokens))
    assert sorted(e.row_id for b in batches for e in b) == sorted(e.row_id for e in examples)
    for batch in batches:
        assert batch
        assert len(batch) == 1 or len(batch) * max(map(len, batch)) <= tokens


@given(lengths, st.integers(16, 400), st.randoms(use_true_random=False))
def test_batches_do_not_depend_on_the_order(sizes, tokens, rng: random.Random):
    examples = make(sizes)
    mixed = examples[:]
    rng.shuffle(mixed)
    assert list(micro_batches(mixed, tokens)) == list(micro_batches(examples, tokens))


def test_similar_lengths_stand_together_and_budgets_are_filled():
    examples = make([(9, 1), (90, 10), (9, 1), (90, 10), (9, 1)])
    assert [[len(e) for e in b] for b in micro_batches(examples, 200)] == [[100, 100], [10, 10, 10]]
    assert [len(b) for b in micro_batches(examples, 500)] == [5]


@given(lengths, st.integers(16, 400))
def test_with_sides_apart_each_is_padded_to_its_own_longest(sizes, tokens):
    examples = make(sizes)
    batches = list(micro_batches(examples, tokens, apart=True))
    assert sorted(e.row_id for b in batches for e in b) == sorted(e.row_id for e in examples)
    assert batches == list(micro_batches(examples[::-1], tokens, apart=True))
    for batch in batches:
        width = max(len(e.prompt) for e in batch) + max(len(e.target) for e in batch)
        assert len(batch) == 1 or len(batch) * width <= tokens


def test_sides_apart_cost_more_than_one_row():
    examples = make([(90, 10), (10, 90)])
    assert len(list(micro_batches(examples, 200))) == 1
    assert len(list(micro_batches(examples, 359, apart=True))) == 2
    assert len(list(micro_batches(examples, 360, apart=True))) == 1


def test_an_overlong_example_stands_alone():
    assert [[len(e) for e in b] for b in micro_batches(make([(50, 1), (4, 1)]), 20)] == [[51], [5]]


def test_no_examples_no_batches():
    assert list(micro_batches([], 10)) == []
