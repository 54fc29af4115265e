from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.serving.engine.schedule import Limits, WaitingRow, admit

WISHES = st.lists(
    st.tuples(st.integers(1, 60), st.integers(1, 40)).map(lambda w: WaitingRow(w[0], sum(w))), max_size=12
)
LIMITS = st.builds(Limits, st.integers(1, 8), st.integers(100, 600), st.integers(1, 200), st.integers(1, 800))


@given(WISHES, st.lists(st.integers(2, 100), max_size=8), LIMITS, st.booleans())
def test_what_begins_fits(waiting, running, limits, same):
    chosen = admit(waiting, running, limits, same_length=same)
    assert len(set(chosen)) == len(chosen)
    if not chosen:
        return
    assert chosen[0] == 0
    rows = len(running) + len(chosen)
    assert rows <= limits.max_batch
    needs = [*running, *(waiting[i].needs for i in chosen)]
    assert rows == 1 or rows * max(needs) <= limits.max_batch_tokens
    prompts = [waiting[i].prompt for i in chosen]
    budget = min(limits.max_batch_tokens, limits.busy_prefill if running else limits.idle_prefill)
    assert len(chosen) == 1 or len(chosen) * max(prompts) <= budget
    assert not same or len(set(prompts)) == 1


@given(WISHES, LIMITS)
def test_nobody_starves(waiting, limits):
    """The oldest always begins on an idle engine, so with rows that end everybody's turn comes."""
    left = list(waiting)
    while left:
        chosen = admit(left, [], limits)
        assert chosen[0] == 0
        left = [wish for i, wish in enumerate(left) if i not in chosen]


def test_nobody_passes_the_oldest_while_it_does_not_fit():
    limits = Limits(max_batch=4, max_batch_tokens=200)
    assert admit([WaitingRow(50, 150), WaitingRow(5, 10)], [60], limits) == []
    assert admit([WaitingRow(5, 10), WaitingRow(50, 150)], [60], limits) == [0]


def test_the_nearest_in_length_begin_together():
    waiting = [WaitingRow(10, 20), WaitingRow(90, 100), WaitingRow(11, 21), WaitingRow(10, 20)]
    assert admit(waiting, [], Limits(3, 10_000)) == [0, 3, 2]
    assert admit(waiting, [], Limits(4, 10_000), same_length=True) == [0, 3]


def test_prompts_of_other_lengths_wait_rather_than_be_padded():
    waiting = [WaitingRow(400, 420), WaitingRow(60, 80), WaitingRow(390, 410), WaitingRow(500, 520)]
    assert admit(waiting, [], Limits(8, 10_000)) == [0, 2, 3]
    assert admit(waiting, [], Limits(8, 10_000, padding=9.0)) == [0, 2, 3, 1]
    short = [WaitingRow(2, 10), WaitingRow(30, 40), WaitingRow(15, 30)]
    assert admit(short, [], Limits(8, 10_000)) == [0, 2, 1]  # so few columns take no longer
    assert admit(short, [], Limits(8, 10_000, free=60)) == [0, 2]


def test_rows_under_way_wait_for_few_prompt_tokens_only():
    waiting = [WaitingRow(100, 120)] * 6
    assert len(admit(waiting, [120], Limits(8, 10_000, busy_prefill=250))) == 2
    assert len(admit(waiting, [], Limits(8, 10_000, busy_prefill=250))) == 6
    assert len(admit(waiting, [], Limits(8, 10_000, idle_prefill=300))) == 3
    assert len(admit([WaitingRow(900, 920)], [120], Limits(8, 10_000, busy_prefill=250))) == 1
