import asyncio
import random

import numpy as np
import pytest
import torch
from peft import PeftModel
from serving_models import adapter_folder, answer, greedy, running, until
from test_generation import Letters
from test_scoring import LABELS, build, some_prompts

from ialign_ray.errors import ConfigError, DataError, ModelError
from ialign_ray.inference.generation import generate
from ialign_ray.inference.scoring import score_labels
from ialign_ray.serving.engine.decoding import DecodingBatch
from ialign_ray.serving.protocol import BusyError, EngineError, Sampling, UnknownModelError

pytestmark = pytest.mark.anyio

ARCHITECTURES = ["llama", "neox", "qwen2", "gemma2", "bloom", "gpt2", "mpt", "opt", "mamba", "t5", "bart"]
LENGTHS = (5, 9, 3, 9, 1, 14, 2, 7)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def whole(model, prompts, count, **settings):
    return [
        reply.text
        for reply in generate(model, Letters(), prompts, max_new_tokens=count, max_batch_tokens=1, **settings)
    ]


async def arriving(engine, prompts, counts, adapters, seed=0):
    """All answers, the requests coming at random moments while others run."""
    draw = random.Random(seed)

    async def one(prompt, count, adapter):
        await asyncio.sleep(draw.random() * 0.05)
        return (await answer(engine, prompt, greedy(count), adapter))[0]

    return await asyncio.gather(*(one(*each) for each in zip(prompts, counts, adapters)))


@pytest.mark.parametrize("name", ARCHITECTURES)
async def test_greedy_answers_are_those_of_generate(name):
    model, prompts = build(name), some_prompts(LENGTHS)
    counts = [random.Random(i).randint(1, 12) for i in range(len(prompts))]
    expected = [whole(model, [prompt], count)[0] for prompt, count in zip(prompts, counts)]
    async with running(model, Letters(), max_batch=4) as engine:
        for seed in range(2):
            assert await arriving(engine, prompts, counts, [None] * len(prompts), seed) == expected


@pytest.mark.parametrize("name", ["llama", "mamba", "t5"])
async def test_a_whole_answer_comes_as_one_piece_after_its_first_token(name):
    model, [prompt] = build(name), some_prompts([6])
    for sampling in (greedy(9), greedy(9, top_log_probs=2), greedy(1), Sampling(9, 1.0, seed=3)):
        async with running(model, Letters()) as engine:
            expected = await answer(engine, prompt, sampling)
            pieces = [piece async for piece in engine.stream(prompt, sampling, whole=True)]
        assert (pieces[-1].text, list(pieces[-1].tokens), pieces[-1].finish) == expected
        assert [piece.text for piece in pieces[:-1]] == [""] * (len(expected[1]) > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bloom", "mamba", "t5", "bart"])
async def test_rows_of_different_adapters_share_a_batch(name, tmp_path):
    model, prompts = build(name), some_prompts(LENGTHS)
    keys = [None, "a", "b", "c"] * 2
    settings = {"a": {}, "b": {"rank": 2, "use_rslora": True}, "c": {"rank": 6, "alpha_pattern": {"0.*": 3}}}
    expected = {None: whole(build(name), prompts, 8)}
    targets = "all-linear" if name != "mamba" else ["in_proj", "x_proj"]  # PEFT knows no more of Mamba's
    for seed, key in enumerate(settings):
        folder = adapter_folder(tmp_path / key, model, seed, targets=targets, **settings[key])
        expected[key] = whole(PeftModel.from_pretrained(build(name), folder), prompts, 8)
    assert len({tuple(texts) for texts in expected.values()}) == 4
    async with running(model, Letters()) as engine:
        for key in settings:
            await engine.load(key, tmp_path / key)
        found = await arriving(engine, prompts, [8] * len(prompts), keys)
    assert found == [expected[key][i] for i, key in enumerate(keys)]


async def test_a_seed_gives_the_same_text_alone_and_in_a_crowd():
    model, prompts = build("llama"), some_prompts(LENGTHS)
    how = Sampling(max_new_tokens=10, temperature=1.3, top_p=0.9, seed=7)
    async with running(model, Letters()) as engine:
        alone = [await answer(engine, prompt, how) for prompt in prompts]
        crowd = await asyncio.gather(*(answer(engine, prompt, how) for prompt in prompts))
        other = [await answer(engine, prompt, Sampling(10, 1.3, 0.9, seed=8)) for prompt in prompts]
    assert alone == crowd != other


async def test_stop_texts_and_ends():
    model, prompt = build("llama"), some_prompts((5,))[0]
    words = whole(model, [prompt], 8)[0].split()
    async with running(model, Letters()) as engine:
        cut = await answer(engine, prompt, greedy(8, stop=(f"{words[3]} {words[4]}",)))
        assert cut[0] == " ".join(words[:3]) + " "
        assert cut[2] == "stop"
        # the fourth token begins in the space, which is told
        assert [score.token for score in cut[1]] == [int(word) for word in words[:4]]
        assert (await answer(engine, prompt, greedy(8)))[2] == "length"
    ends = Letters()
    ends.eos_token_id = int(words[3])
    async with running(model, ends) as engine:
        text, tokens, finish = await answer(engine, prompt, greedy(8))
    assert (text, finish) == (" ".join(words[:3]), "stop")
    assert len(tokens) == 3
    assert all(score.log_prob is None for score in tokens)


@pytest.mark.parametrize("name", ["llama", "mamba", "t5"])
async def test_log_probabilities_are_those_of_a_forward_pass(name):
    model, prompt = build(name), some_prompts((6,))[0]
    async with running(model, Letters()) as engine:
        _, tokens, _ = await answer(engine, prompt, greedy(5, top_log_probs=3))
    ids = [score.token for score in tokens]
    with torch.no_grad():
        if name == "t5":
            logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *ids[:-1]]])).logits[0]
        else:
            logits = model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, len(prompt) - 1 :]
    expected = logits.log_softmax(-1)
    for own, score in zip(expected, tokens, strict=True):
        assert score.log_prob == pytest.approx(float(own[score.token]), abs=1e-4)
        assert [value for _, value in score.top] == pytest.approx(own.topk(3).values.tolist(), abs=1e-4)
        assert score.top[0][0] == score.token  # greedy


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "mpt", "opt", "mamba"])
async def test_texts_are_read_a_few_columns_at_a_time(name, monkeypatch):
    monkeypatch.setattr("ialign_ray.serving.engine.prompt_scoring.LOGITS", 12)
    model, texts = build(name), some_prompts((13, 1, 30, 7))
    async with running(model, Letters()) as engine:
        found = await asyncio.gather(*(engine.read(text, 2) for text in texts))
    for text, scores in zip(texts, found):
        with torch.no_grad():
            own = model(torch.tensor([text])).logits[0].log_softmax(-1)
        expected = [float(p[t]) for p, t in zip(own, text[1:])]
        assert [score.token for score in scores] == text
        assert [score.log_prob for score in scores[1:]] == pytest.approx(expected, abs=2e-4)


async def test_labels_and_texts_are_scored_beside_rows_of_other_adapters(tmp_path):
    model, prompts = build("llama"), some_prompts(LENGTHS)
    folders = {key: adapter_folder(tmp_path / key, model, seed) for seed, key in enumerate("ab")}
    adapted = {None: build("llama")} | {k: PeftModel.from_pretrained(build("llama"), f) for k, f in folders.items()}
    written = {key: whole(model, prompts[:1], 20)[0] for key, model in adapted.items()}
    async with running(model, Letters(), busy_prefill=40) as engine:
        for key, folder in folders.items():
            await engine.load(key, folder)
        keys = [None, "a", "b"] * 2
        rows = [asyncio.create_task(answer(engine, prompts[0], greedy(20), key)) for key in keys]
        sums = await asyncio.gather(*(engine.score_labels(prompts, LABELS, key) for key in keys))
        texts = await asyncio.gather(*(engine.read([*prompts[1], k], 3, key) for k, key in enumerate(keys, 5)))
        assert [(await row)[0] for row in rows] == [written[key] for key in keys]
    for key, found in zip(keys, sums):
        expected = score_labels(adapted[key], prompts, LABELS)
        np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-4, rtol=5e-6)
        assert found.tokens == expected.tokens.tolist()
    for k, (key, found) in enumerate(zip(keys, texts), 5):
        ids = [*prompts[1], k]
        with torch.no_grad():
            own = adapted[key](torch.tensor([ids])).logits[0].log_softmax(-1)
        assert [score.token for score in found] == ids
        assert (found[0].log_prob, found[0].top) == (None, ())
        assert [s.log_prob for s in found[1:]] == pytest.approx([float(p[t]) for p, t in zip(own, ids[1:])], abs=1e-4)
        assert [t for t, _ in found[-1].top] == own[-2].topk(3).indices.tolist()


async def test_scores_of_an_encoder_decoder(tmp_path):
    model, prompts = build("t5"), some_prompts()
    folder = adapter_folder(tmp_path, model, 0)
    expected = score_labels(PeftModel.from_pretrained(build("t5"), folder), prompts, LABELS)
    async with running(model, Letters()) as engine:
        await engine.load("a", folder)
        found = await engine.score_labels(prompts, LABELS, "a")
        with pytest.raises(ModelError, match="encoder-decoder"):
            await engine.read([5, 6], 1)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-4, rtol=5e-6)


async def test_a_closed_cancelled_or_forgotten_answer_frees_its_row():
    async with running(build("llama"), Letters(), max_batch=3) as engine:
        closed, forgotten = (engine.stream([5, 6], greedy(38)) for _ in range(2))
        await anext(closed)
        await anext(forgotten)
        cancelled = asyncio.create_task(answer(engine, [5, 6], greedy(38)))
        scored = asyncio.create_task(engine.score_labels([[5]] * 4000, [[6]]))
        await asyncio.sleep(0)
        await closed.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(closed)
        cancelled.cancel()
        scored.cancel()
        del forgotten
        await until(lambda: engine.stats()["queue"] == 0)
        assert engine.stats()["cancelled"] >= 3
        assert engine.stats()["running"] == 0
        assert (await answer(engine, [5, 6], greedy(3)))[2] == "length"


async def test_a_full_queue_says_when_to_come_again():
    async with running(build("llama"), Letters(), max_batch=1, queue=2) as engine:
        first, second = (engine.stream([5, 6], greedy(30)) for _ in range(2))
        with pytest.raises(BusyError, match="2 requests") as busy:
            engine.stream([5, 6], greedy(3))
        assert 1 <= busy.value.retry_after <= 60
        with pytest.raises(BusyError):
            await engine.read([5, 6], 0)
        for stream in (first, second):
            async for _ in stream:
                pass
        assert (await answer(engine, [5, 6], greedy(3)))[2] == "length"


async def test_what_does_not_fit_is_refused_before_it_waits():
    async with running(build("llama"), Letters(), max_batch_tokens=30) as engine:
        for wrong, kind, words in [
            (([5] * 38, greedy(3)), ModelError, "41 positions"),
            (([5] * 28, greedy(3)), ModelError, "serve.max_batch_tokens"),
            (([], greedy(3)), DataError, "no tokens"),
            (([5, 61], greedy(3)), DataError, "0 to 60"),
            (([-1], greedy(3)), DataError, "0 to 60"),
            (([5], greedy(0)), ConfigError, "max_new_tokens"),
            (([5], greedy(3), "a"), UnknownModelError, "'a'"),
        ]:
            with pytest.raises(kind, match=words):
                engine.stream(*wrong)
        with pytest.raises(DataError, match="at least one label"):
            await engine.score_labels([[5]], [])
        with pytest.raises(DataError, match="0 to 60"):
            await engine.score_labels([[5]], [[99]])
        with pytest.raises(ModelError, match="31"):
            await engine.score_labels([[5] * 29], [[6, 7]])
        assert (await engine.score_labels([], [[5]])).log_prob == []
        assert engine.stats()["queue"] == 0
        assert (await answer(engine, [5] * 28, greedy(2)))[2] == "length"


async def test_a_fault_ends_the_requests_of_its_step_and_no_others():
    model = build("llama")
    expected = whole(model, [[7, 8]], 6)[0]
    async with running(model, Letters(), max_batch=2) as engine:
        hit, waits = ([asyncio.create_task(answer(engine, [7, 8], greedy(6))) for _ in range(2)] for _ in range(2))
        fails = iter([False, True, False])

        def fail(*_):
            if next(fails, False):
                raise RuntimeError("CUDA error: of the test")

        model.register_forward_pre_hook(fail)
        lost = await asyncio.gather(*hit, *waits, return_exceptions=True)
        failed = [answer for answer in lost if isinstance(answer, EngineError)]
        assert 1 <= len(failed) <= 2
        assert "CUDA error: of the test" in str(failed[0])
        assert {answer[0] for answer in lost if not isinstance(answer, EngineError)} == {expected}
        assert engine.stats()["dead"] == 0
        assert engine.stats()["failed"] == len(failed)
        assert (await answer(engine, [7, 8], greedy(6)))[0] == expected


async def test_a_fault_after_the_last_token_frees_the_place_in_the_queue(monkeypatch):
    """The last piece is on its way by then, and the row must be let go of all the same."""
    async with running(build("llama"), Letters(), queue=2) as engine:
        real, fails = DecodingBatch.drop, iter([True])

        def drop(self, gone):
            if gone and next(fails, False):
                raise RuntimeError("of the test")
            real(self, gone)

        monkeypatch.setattr(DecodingBatch, "drop", drop)
        both = [asyncio.create_task(answer(engine, [5, 6], greedy(count))) for count in (3, 30)]
        short, long = await asyncio.gather(*both, return_exceptions=True)
        assert short[2] == "length"
        assert isinstance(long, EngineError)
        await until(lambda: engine.stats()["queue"] == 0)
        assert (await answer(engine, [5, 6], greedy(3)))[0] == short[0]


async def test_an_engine_that_only_fails_says_that_it_is_dead():
    model = build("llama")
    async with running(model, Letters()) as engine:

        def fail(*_):
            raise RuntimeError("broken for good")

        model.register_forward_pre_hook(fail)
        for _ in range(3):
            with pytest.raises(EngineError):
                await answer(engine, [7, 8], greedy(6))
        await until(lambda: engine.stats()["dead"] == 1)
        with pytest.raises(EngineError):
            await answer(engine, [7, 8], greedy(6))
        await until(lambda: not engine._worker.is_alive())
        with pytest.raises(EngineError):
            await engine.read([7, 8], 1)
        assert engine.stats()["queue"] == 0


async def test_long_prompts_are_read_in_slices_between_steps():
    """As many tokens are written meanwhile as there are slices; what is written stays the same."""
    model, prompts = build("llama"), some_prompts((2, 36, 30, 33))
    expected = [whole(model, [prompt], count)[0] for prompt, count in zip(prompts, (38, 4, 4, 4))]
    widths = []
    async with running(model, Letters(), busy_prefill=9) as engine:
        model.register_forward_pre_hook(
            lambda _, __, inputs: widths.append(inputs["input_ids"].shape), with_kwargs=True
        )
        first = engine.stream(prompts[0], greedy(38))
        text = (await anext(first)).text
        late = [asyncio.create_task(answer(engine, prompt, greedy(4))) for prompt in prompts[1:]]
        text += "".join([piece.text async for piece in first])
        assert [text, *[(await one)[0] for one in late]] == expected
    long = [shape[1] for shape in widths if shape[1] > 2]
    assert max(long) <= 9
    assert all(1 in {widths[i + 1][1], widths[i - 1][1]} for i, shape in enumerate(widths[:-1]) if shape[1] > 2)


async def test_a_cancelled_prompt_is_not_read_to_its_end():
    model = build("llama")
    async with running(model, Letters(), busy_prefill=2) as engine:
        first = engine.stream([5], greedy(39))
        await anext(first)
        late = engine.stream([5] * 38, greedy(2))
        await until(lambda: engine.stats()["waiting"] == 0)
        await late.aclose()
        async for _ in first:
            pass
        await until(lambda: engine.stats()["queue"] == 0)
        assert engine.stats()["prompt_tokens"] == 1
        assert engine.stats()["cancelled"] == 1


async def test_requests_too_large_for_the_memory_do_not_kill_the_engine():
    model = build("llama")
    async with running(model, Letters()) as engine:
        fails = iter([True] * 5)

        def fail(*_):
            if next(fails, False):
                raise torch.OutOfMemoryError("of the test")

        model.register_forward_pre_hook(fail)
        for _ in range(5):
            with pytest.raises(EngineError, match="OutOfMemoryError"):
                await answer(engine, [7, 8], greedy(6))
        assert (await answer(engine, [7, 8], greedy(6)))[2] == "length"
        assert engine.stats()["dead"] == 0


async def test_closing_lets_answers_end_within_their_grace(tmp_path):
    async with running(build("llama"), Letters()) as engine:
        under_way = asyncio.create_task(answer(engine, [5, 6], greedy(20)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close(grace=20))
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="closing"):
            engine.stream([5], greedy(2))
        await closing
        assert (await under_way)[2] == "length"
        with pytest.raises(EngineError, match="stopped"):
            await engine.load("a", adapter_folder(tmp_path, build("llama"), 0))


async def test_closing_without_grace_tells_those_who_wait():
    model = build("llama")
    async with running(model, Letters(), max_batch=1) as engine:
        both = [asyncio.create_task(answer(engine, [5, 6], greedy(38))) for _ in range(2)]
        await until(lambda: engine.stats()["tokens"] > 0)
        await engine.close(grace=0)
        ends = await asyncio.gather(*both, return_exceptions=True)
        assert isinstance(ends[1], EngineError)
        assert engine.stats()["queue"] == 0
