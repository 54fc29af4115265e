"""Blocks of encoded examples: what is in them, who shares them, and what happens when they are not there."""

import multiprocessing
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ialign_ray.config import build_experiment
from ialign_ray.errors import DataError
from ialign_ray.plugins import Extensible
from ialign_ray.storage import read_json, write_json
from ialign_ray.streaming import examples
from ialign_ray.streaming.examples import (
    ExampleSource,
    cached_stream,
    fill_block,
    local_stream,
    open_cache,
    open_plan,
)
from ialign_ray.tasks.alignment import TASKS, AlignmentTask
from ialign_ray.tasks.mixture import Mixture
from ialign_ray.tokens import cache as cached
from ialign_ray.tokens.cache import Block, EncodedCache, read_block
from ialign_ray.training.prepare import prepare, save_data

ratios = st.sampled_from([0.0, 0.1, 0.3333, 0.5, 1.0, 0.12345678901234567])
"""The last as a search draws them: times a few hundred, its digits fill 64 bits."""


@given(ratios, st.integers(1, 40), st.integers(1, 40), st.integers(0, 3000))
def test_every_number_is_found_where_its_row_lies(ratio, pairs, replay, first):
    mixture = Mixture(3, ratio, pairs, replay)
    cache = EncodedCache("", "p", "r", mixture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cached, "BLOCK", 7)
        numbers = np.arange(first, first + 60)
        for i, block, place, epoch in zip(numbers.tolist(), *cache.locate(numbers), strict=True):
            draw, kept = mixture.draw(i), cache.draws(block)[place]
            assert (kept.replay, kept.row) == (draw.replay, draw.row)
            assert epoch == draw.epoch
            assert kept.epoch == (0 if draw.replay else draw.epoch)
        assert cache.needed(first, first + 60) == list(dict.fromkeys(cache.locate(numbers)[0]))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(cached, "BLOCK", 8)
    monkeypatch.setattr(examples, "PATIENCE", 0.05)
    open_plan.cache_clear()
    yield
    open_plan.cache_clear()


@pytest.fixture
def make(experiment_data, tmp_path):
    """A data folder of the experiment with some changes, its cache beside it."""

    def made(name="data", **changes):
        experiment = build_experiment(experiment_data | changes, "x")
        prepared = prepare(experiment)
        save_data(tmp_path / name, prepared.plan, prepared.encoder, encoded=tmp_path / "encoded")
        source = ExampleSource(str(tmp_path / name), batch_size=6, steps=60)  # over two epochs of replay
        return source, open_cache(source.folder)

    return made


def no_tasks(*_):
    raise AssertionError("a task was started")


def fill_here(source, cache, blocks):
    for block in blocks:
        fill_block(source, cache, block)
        yield block


@pytest.fixture
def here(monkeypatch):
    """Blocks are filled in this process instead of by Ray Data; gives the list of them."""
    filled = []

    def fill(source, cache, blocks):
        filled.extend(blocks)
        return fill_here(source, cache, blocks)

    monkeypatch.setattr(examples, "fill", fill)
    return filled


@pytest.mark.parametrize(("start", "world"), [(0, 1), (7, 1), (0, 2), (33, 3)])
def test_the_stream_is_that_without_a_cache(make, here, start, world):
    source, cache = make()
    whole = list(local_stream(source, start))
    parts = [list(cached_stream(source, cache, start, rank, world)) for rank in range(world)]
    assert [sum(step, []) for step in zip(*parts, strict=True)] == whole
    assert max(e.epoch for step in whole for e in step if e.task == "replay") >= 2
    assert len(here) == len(set(here))


def test_whoever_finds_all_blocks_starts_no_task(make, here, monkeypatch):
    source, cache = make()
    whole = list(cached_stream(source, cache, 0))
    assert here
    monkeypatch.setattr(examples, "fill", no_tasks)
    monkeypatch.setattr(examples, "encode_example", no_tasks)
    assert list(cached_stream(source, cache, 0)) == whole
    assert list(cached_stream(source, cache, 9, 1, 2)) == [step[3:] for step in whole[9:]]


def test_trials_of_another_replay_ratio_or_rank_share_the_blocks(make, here, experiment_data):
    source, cache = make()
    list(cached_stream(source, cache, 0))
    before = len(here)
    model = experiment_data["model"] | {"lora": {"rank": 2}}
    train = experiment_data["train"] | {"learning_rate": 1.0, "batch_size": 3}
    other, its = make("other", replay=experiment_data["replay"] | {"ratio": 0.4}, model=model, train=train)
    assert (its.pairs, its.replay) == (cache.pairs, cache.replay)
    assert list(cached_stream(other, its, 0)) == list(local_stream(other, 0))
    assert not [b for b in here[before:] if b in here[:before]]


def test_what_decides_the_tokens_decides_the_key(make, experiment_data):
    _, cache = make()
    train, tasks = experiment_data["train"], experiment_data["tasks"]
    seeded = make("seed", train=train | {"seed": 1})[1]
    limited = make("limit", train=train | {"max_prompt_tokens": 200})[1]
    worded = make("words", tasks=tasks | {"templates": ["eng"]})[1]
    poured = make("pool", replay=experiment_data["replay"] | {"pool_size": 20})[1]
    assert len({cache.pairs, seeded.pairs, limited.pairs, worded.pairs}) == 4
    assert len({cache.replay, seeded.replay, limited.replay, poured.replay}) == 4
    assert worded.replay == cache.replay
    assert poured.pairs == cache.pairs


@pytest.mark.parametrize(("task", "shared"), [("mlm", True), ("tlm", False), ("mt", False)])
def test_the_versions_of_the_tasks_of_the_mix_decide_the_key(make, monkeypatch, experiment_data, task, shared):
    """`mt` takes the pairs that other tasks cannot use, so it belongs to every mix."""
    tasks = experiment_data["tasks"] | {"mix": "tlm"}
    _, before = make(tasks=tasks)
    raised = replace(TASKS[task], version=TASKS[task].version + 1)
    table = Extensible(TASKS.group, AlignmentTask, {**TASKS.builtin, task: raised})
    monkeypatch.setattr("ialign_ray.tokens.cache.TASKS", table)
    _, after = make("raised", tasks=tasks)
    assert (after.pairs == before.pairs, after.replay == before.replay) == (shared, True)


def test_another_tokenizers_library_makes_other_blocks(make, monkeypatch):
    """The same files may be read otherwise by another version."""
    _, cache = make()
    monkeypatch.setattr(cached, "version", lambda name: "0" if name == "tokenizers" else version(name))
    _, other = make("other")
    assert other.pairs != cache.pairs
    assert other.replay != cache.replay


@pytest.mark.parametrize("spoil", [lambda d: d[:-9], lambda d: d[:40] + b"x" + d[41:], lambda d: b""])
def test_a_spoiled_block_counts_as_absent_and_is_removed(make, here, spoil):
    source, cache = make()
    whole = list(cached_stream(source, cache, 0))
    path = cache.path(cache.needed(0, 1)[0])
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    assert read_block(path) is None
    assert list(cached_stream(source, cache, 0)) == whole
    assert not path.exists()
    assert list(cached_stream(source, cache, 0)) == whole
    assert path.read_bytes() == good


def test_a_disk_that_takes_no_block_ends_no_run(make, here, monkeypatch):
    source, cache = make()

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cached, "write_bytes", full)
    assert list(cached_stream(source, cache, 50)) == list(local_stream(source, 50))
    assert not (cache.path(Block(False, 0, 0)).parent).exists()


def test_another_workers_block_that_does_not_come_is_encoded_here(make, monkeypatch):
    source, cache = make()
    monkeypatch.setattr(examples, "fill", lambda source, cache, blocks: iter(blocks))  # which fills nothing
    assert list(cached_stream(source, cache, 55, 0, 2)) == list(local_stream(source, 55, 0, 2))


def test_an_instruction_that_cannot_fit_is_told_when_its_turn_comes(make, here, tmp_path):
    source, _ = make()
    path = tmp_path / "data" / "encoder.json"
    write_json(path, {**read_json(path), "max_prompt": 8})
    examples.save_cache(tmp_path / "data", tmp_path / "encoded", open_plan(source.folder)[0].mixture)
    open_plan.cache_clear()
    with pytest.raises(DataError, match="exceeds train.max_prompt_tokens 8"):
        list(cached_stream(source, open_cache(source.folder), 0))


def write_over_and_over(source, cache, blocks, times):
    for _ in range(times):
        for block in blocks:
            fill_block(source, cache, block)


def test_two_who_write_at_once_leave_whole_blocks(make):
    source, cache = make()
    blocks = cache.needed(0, 30)
    list(fill_here(source, cache, blocks))
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_over_and_over, args=(source, cache, blocks, 5)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(w.is_alive() for w in writers):
        assert all(read_block(cache.path(b)) is not None for b in blocks)
    assert [w.exitcode for w in writers] == [0, 0]
    assert sorted(p.suffix for p in cache.path(blocks[0]).parent.iterdir()) == [".arrow"] * len(
        list(cache.path(blocks[0]).parent.glob("*.arrow"))
    )


def test_without_a_cache_folder_there_is_no_cache(experiment_data, tmp_path):
    prepared = prepare(build_experiment(experiment_data, "x"))
    save_data(tmp_path / "plain", prepared.plan, prepared.encoder)
    assert open_cache(str(tmp_path / "plain")) is None
