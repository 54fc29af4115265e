import asyncio
import random

import pytest
from peft import PeftModel
from serving_models import adapter_folder, answer, greedy, running
from test_generation import Letters
from test_scoring import build, some_prompts

from ialign_ray.inference.generation import generate

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
