import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.inspection.lengths import FEWEST, LONGEST, Histogram, Lengths, bar_width
from ialign_ray.inspection.rows import Lowest, visible
from ialign_ray.inspection.terminal import clipped, sparks

SCOPE = Scope(["eng", "jav"], ["eng"])


def histogram(*batches):
    h = Histogram()
    for batch in batches:
        h.add(np.array(batch, np.int64))
    return h


@given(st.lists(st.lists(st.integers(0, 3000), max_size=20), max_size=5), st.integers(0, 100))
def test_a_histogram_is_a_plain_count(batches, percent):
    h = histogram(*batches)
    every = sorted(n for batch in batches for n in batch)
    assert {n: c for n, c in enumerate(h.counts.tolist()) if c} == Counter(every)
    assert h.n == len(every)
    rank = max(1, math.ceil(percent * len(every) / 100))
    assert h.percentile(percent) == (every[rank - 1] if every else 0)
    width, count = bar_width([h])
    bars = h.bars(width, count)
    assert len(bars) == count
    for k, bar in enumerate(bars):
        assert bar == sum(n >= k * width and (k == count - 1 or n < (k + 1) * width) for n in every)


def test_bars_show_all_languages_on_one_scale():
    short, long = histogram([5, 6, 7]), histogram([400] * 100)
    width, count = bar_width([short, long])
    assert width * count > 400
    assert count <= 30
    assert len(sparks(short, width, count)) == len(sparks(long, width, count)) == count
    # one text among very many can still be seen
    assert sparks(histogram([1], [30] * 100_000), 10, 4) == "▁  █"


def test_the_last_bar_holds_all_longer_texts():
    few = histogram([10] * 1000, [5000, 90_000])
    bars = few.bars(*bar_width([few]))
    assert sum(bars) == 1002
    assert bars[-1] == 2


def test_endless_texts_cost_bounded_memory():
    h = histogram([10**9])
    assert len(h.counts) == LONGEST + 1
    assert h.percentile(100) == LONGEST


def test_lengths_count_characters_not_bytes_and_leave_nulls_out():
    lengths = Lengths(SCOPE)
    lengths.add(pa.table({"eng": ["añb", None, ""], "jav": ["ꦗꦮ", "x", None]}))
    assert lengths.texts["eng"].counts.tolist() == [1, 0, 0, 1]
    assert lengths.texts["jav"].counts.tolist() == [0, 1, 1]


def test_usual_ratios_agree_with_numpy():
    random = np.random.default_rng(0)
    sides = [["x" * int(n) for n in random.integers(20, 200, 501)] for _ in range(2)]
    table = pa.table({"eng": sides[0], "jav": sides[1]})
    lengths = Lengths(SCOPE)
    for start in range(0, 501, 100):
        lengths.add(table.slice(start, 100))
    usual = lengths.usual()["eng", "jav"]
    ratios = np.array([math.log((len(b) + 1) / (len(a) + 1)) for a, b in zip(*sides)])
    assert usual.n == 501
    assert usual.median == pytest.approx(np.median(ratios), abs=0.006)
    assert usual.deviation == pytest.approx(1.4826 * np.median(np.abs(ratios - np.median(ratios))), abs=0.015)


def test_from_few_pairs_nothing_is_usual():
    lengths = Lengths(SCOPE)
    lengths.add(pa.table({"eng": ["a b"] * (FEWEST - 1) + [None], "jav": ["a b c"] * FEWEST}))
    assert lengths.usual() == {}


@given(st.lists(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=8), max_size=6), st.integers(1, 6))
def test_the_lowest_rows_are_kept_whatever_the_batches(batches, k):
    lowest, every = Lowest(k), []
    for batch in batches:
        rows = [(key, f"{len(every) + place}") for place, key in enumerate(batch)]
        every += rows
        lowest.offer(np.array(batch, float), pa.table({"name": pa.array([name for _, name in rows], pa.string())}))
    best = sorted((key, int(name)) for key, name in every if not math.isnan(key))[:k]
    assert [int(row["name"]) for row in lowest.rows()] == [name for _, name in best]
    assert len(lowest) == len(best)


def test_what_cannot_be_seen_is_written_out():
    assert visible("plain é 文字\nline") == "plain é 文字\nline"
    assert visible("a\x1b[31mred\x07\u202eb\u200bc\ufeff") == "a‹U+001B›[31mred‹U+0007›‹U+202E›b‹U+200B›c‹U+FEFF›"
    assert visible("می\u200cخواهم") == "می\u200cخواهم"
    assert visible("ខ្មែរ\u200bល្អ") == "ខ្មែរ\u200bល្អ"
    assert clipped("x" * 700, 10) == "xxxxxxxxxx … (700 characters)"
