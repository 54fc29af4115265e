import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.tokens.batch import WINDOW, Encoded, micro_batches, packed_rows

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


def test_a_pass_is_split_where_padding_costs_more_than_another_pass():
    examples = make([(9, 1), (90, 10), (9, 1), (90, 10), (9, 1)])
    assert [len(b) for b in micro_batches(examples, 500, pass_tokens=269)] == [2, 3]
    assert [len(b) for b in micro_batches(examples, 500, pass_tokens=271)] == [5]
    assert [len(b) for b in micro_batches(examples, 500, pass_tokens=0)] == [2, 3]


def cost(batches, tokens, pass_tokens):
    padded = [len(b) * max(map(len, b)) for b in batches]
    if any(p > tokens and len(b) > 1 for p, b in zip(padded, batches, strict=True)):
        return float("inf")
    return sum(padded) + pass_tokens * len(batches)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), max_size=9), st.integers(16, 200), st.integers(0, 90)
)
def test_no_other_division_of_the_sorted_examples_costs_less(sizes, tokens, pass_tokens):
    examples = sorted(make(sizes), key=lambda e: -len(e))
    own = cost(list(micro_batches(examples, tokens, pass_tokens=pass_tokens)), tokens, pass_tokens)
    for cuts in itertools.product([False, True], repeat=max(0, len(examples) - 1)):
        ends = [k + 1 for k, cut in enumerate(cuts) if cut]
        parts = [examples[a:b] for a, b in itertools.pairwise([0, *ends, len(examples)])]
        assert own <= cost([p for p in parts if p], tokens, pass_tokens)


def test_more_examples_than_a_window_are_divided_in_time():
    examples = make([(k % 97 + 1, 3) for k in range(3 * WINDOW)])
    batches = list(micro_batches(examples, 4096))
    assert sorted(e.row_id for b in batches for e in b) == sorted(e.row_id for e in examples)
    padded = sum(len(b) * max(map(len, b)) for b in batches)
    assert sum(map(len, examples)) / padded > 0.97


@given(lengths, st.integers(16, 400), st.integers(1, 300), st.randoms(use_true_random=False))
def test_packed_rows_hold_every_example_once_within_width_and_budget(sizes, tokens, width, rng: random.Random):
    examples = make(sizes)
    passes = list(packed_rows(examples, width, tokens))
    assert sorted(e.row_id for p in passes for row in p for e in row) == sorted(e.row_id for e in examples)
    widest = max(min(width, tokens), *map(len, examples)) if examples else 0
    for rows in passes:
        assert all(rows)
        assert all(sum(map(len, row)) <= widest for row in rows)
        assert len(rows) == 1 or len(rows) * widest <= tokens
    rng.shuffle(examples)
    assert list(packed_rows(examples, width, tokens)) == passes


def test_rows_are_filled():
    [rows] = packed_rows(make([(50, 10), (30, 10), (9, 1), (40, 10), (28, 2)]), 100, 1000)
    assert [[len(e) for e in row] for row in rows] == [[60, 40], [50, 30, 10]]


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
    assert len(list(micro_batches(examples, 359, apart=True, pass_tokens=161))) == 2
    assert len(list(micro_batches(examples, 360, apart=True, pass_tokens=161))) == 1
    assert len(list(micro_batches(examples, 360, apart=True, pass_tokens=159))) == 2


def test_an_overlong_example_stands_alone():
    assert [[len(e) for e in b] for b in micro_batches(make([(50, 1), (4, 1)]), 20)] == [[51], [5]]


def test_no_examples_no_batches():
    assert list(micro_batches([], 10)) == []
    assert list(packed_rows([], 10, 10)) == []
