import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.config import build_experiment
from ialign_ray.errors import DataError
from ialign_ray.storage import read_json, write_json
from ialign_ray.streaming.examples import ExampleSource, encode_example, local_stream, numbers, open_plan, share
from ialign_ray.training.prepare import prepare, save_data


@given(st.integers(1, 3), st.integers(3, 40), st.integers(0, 50), st.integers(1, 5))
def test_the_shares_of_all_workers_are_the_step(world, batch, start, steps):
    seen = [[] for _ in range(steps)]
    for rank in range(world):
        places = share(rank, world, batch)
        own = numbers(np.arange(steps * len(places)), start, places, batch).reshape(steps, len(places))
        for step in range(steps):
            seen[step] += own[step].tolist()
    for step in range(steps):
        # in the order of the ranks, each number once
        assert seen[step] == list(range((start + step) * batch, (start + step + 1) * batch))


@given(st.integers(1, 16), st.integers(0, 100))
def test_shares_are_at_most_one_apart(world, more):
    sizes = [len(share(r, world, world + more)) for r in range(world)]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == world + more


@pytest.fixture
def source(experiment_data, tmp_path):
    prepared = prepare(build_experiment(experiment_data, "x"))
    save_data(tmp_path / "data", prepared.plan, prepared.encoder)
    return ExampleSource(str(tmp_path / "data"), batch_size=5, steps=7)


@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_stream_from_a_later_step_is_the_tail(source, start):
    whole = list(local_stream(source, 0))
    assert [len(s) for s in whole] == [5] * 7
    assert list(local_stream(source, start)) == whole[start:]


@pytest.mark.parametrize("world", [2, 3])
def test_workers_together_read_what_one_reads(source, world):
    whole = list(local_stream(source, 2))
    parts = [list(local_stream(source, 2, rank, world)) for rank in range(world)]
    assert [sum(step, []) for step in zip(*parts, strict=True)] == whole


def test_examples_are_those_of_the_plan(source, tiny_tokenizer):
    plan, encoder = open_plan(source.folder)
    [step, *_] = local_stream(source, 3)
    for k, example in enumerate(step):
        drawn = plan.draw(3 * 5 + k)
        assert (example.row_id, example.epoch, example.source) == (drawn.row_id, drawn.epoch, drawn.source)
        assert tiny_tokenizer.decode(example.prompt) == drawn.example.prompt + "\n"
        assert tiny_tokenizer.decode(example.target) == drawn.example.target + "<eos>"
    assert encoder.max_prompt == 256


def test_an_instruction_that_cannot_fit_is_told(source, tmp_path):
    path = tmp_path / "data" / "encoder.json"
    write_json(path, {**read_json(path), "max_prompt": 8})
    open_plan.cache_clear()
    plan, encoder = open_plan(source.folder)
    with pytest.raises(DataError, match="exceeds train.max_prompt_tokens 8"):
        encode_example(plan, encoder, 0)
    open_plan.cache_clear()
