"""NaN stays with the request and the adapter that cause it."""

import asyncio
import dataclasses
import random
import shutil

import numpy as np
import pytest
import serving_app
import torch
from serving_models import adapter_folder, answer, greedy, running, until
from test_engine_adapters import changed, rewritten
from test_generation import Letters
from test_scoring import build, some_prompts

from ialign_ray.config import ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.inference.generation import generate
from ialign_ray.modeling.load import load_base
from ialign_ray.serving.engine import adapter_files, open_engine
from ialign_ray.serving.engine.adapter_files import LowRank
from ialign_ray.serving.engine.sampling import choose, row_generator
from ialign_ray.serving.protocol import EngineError, NotANumberError, Sampling

pytestmark = pytest.mark.anyio
LENGTHS = (5, 9, 3, 9, 1, 14, 2, 7)


@pytest.fixture
def anyio_backend():
    return "asyncio"


def poison(engine, layer=-1, key="bad"):
    """Put an adapter into memory that no check of a file or of a first pass has seen: rows with it overflow."""
    bank = engine._worker._bank
    name, (wide, out) = [item for item in bank.shapes().items() if "lm_head" not in item[0]][layer]
    bank.add(key, {name: LowRank(torch.full((2, wide), 3e38), torch.full((2, out), 3e38))})
    engine._known[key] = True


def scaled(factor, *parts):
    def change(tensors):
        for name, tensor in tensors.items():
            if any(part in name for part in parts):
                tensors[name] = tensor.float().sign() * factor

    return change


OVERFLOWING = {
    "after scaling": lambda f: rewritten(f, scaled(1e38, "lora_B")),
    "in the product": lambda f: rewritten(f, scaled(1e25, "lora_A", "lora_B")),
    "in double precision": lambda f: rewritten(f, lambda t: t.update({k: v.double() * 1e300 for k, v in t.items()})),
    "by its alpha": lambda f: changed(f, lora_alpha=1e30),
    "by a pattern's alpha": lambda f: changed(f, alpha_pattern={".*q_proj": 1e300}),
    "in the model alone": lambda f: rewritten(f, scaled(1e25, "lora_A", "lora_B")),
}


@pytest.mark.parametrize("how", OVERFLOWING)
async def test_an_adapter_that_overflows_is_not_loaded(how, tmp_path, monkeypatch):
    model = build("llama")
    folder = adapter_folder(tmp_path, model, 0)
    OVERFLOWING[how](folder)
    async with running(model, Letters()) as engine:
        if how == "in the model alone":  # where each layer's update is within its bound, a first pass finds it
            monkeypatch.setattr(adapter_files, "LARGEST", float("inf"))
        with pytest.raises(ModelError):
            await engine.load("a", folder)
        assert engine.loaded() == ()
        assert engine.stats()["adapter_bytes"] == 0


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "t5"])
async def test_only_the_rows_of_a_broken_adapter_fail(name):
    model, prompts = build(name), some_prompts(LENGTHS)
    expected = [r.text for r in generate(model, Letters(), prompts, max_new_tokens=12, max_batch_tokens=1)]
    draw = random.Random(1)

    async def one(prompt, key):
        await asyncio.sleep(draw.random() * 0.05)
        return (await answer(engine, prompt, greedy(12), key))[0]

    async with running(model, Letters()) as engine:
        poison(engine)
        keys = [None, "bad"] * len(prompts)
        found = await asyncio.gather(
            *(one(prompt, key) for prompt, key in zip([p for p in prompts for _ in "ab"], keys)), return_exceptions=True
        )
        assert found[::2] == expected
        assert {type(error) for error in found[1::2]} == {NotANumberError}
        state = engine.stats()
        assert (state["not_a_number"], state["failed"], state["dead"]) == (len(prompts), len(prompts), 0)
        await until(lambda: engine.stats()["queue"] == 0)


async def test_the_place_of_a_row_that_failed_is_clean():
    """The next row in its place has more padding, which masks what the failed one left there."""
    model, prompts = build("llama"), some_prompts((20, 3))
    long, short = (generate(model, Letters(), [p], max_new_tokens=16)[0].text for p in prompts)
    async with running(model, Letters()) as engine:
        poison(engine, 6)  # the end of the first block: keys and values of the next one are NaN
        assert list(engine._worker._bank._blocks) == ["model.layers.0.mlp.down_proj"]
        first = asyncio.create_task(answer(engine, prompts[0], greedy(16)))
        with pytest.raises(NotANumberError):
            await answer(engine, prompts[0][:19], greedy(16), "bad")
        assert (await answer(engine, prompts[1], greedy(16)))[0] == short
        assert (await first)[0] == long


@pytest.mark.parametrize("name", ["llama", "mamba", "t5"])
async def test_scores_that_are_no_numbers_are_an_error_of_their_request(name):
    model, prompts, labels = build(name), some_prompts((5, 9)), [[3], [4, 5]]
    async with running(model, Letters()) as engine:
        poison(engine)
        expected = await engine.score_labels(prompts, labels)
        asked = [engine.score_labels(prompts, labels, key) for key in (None, "bad", None)]
        if name != "t5":
            asked += [engine.read(prompts[0], 2, key) for key in (None, "bad")]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(each, NotANumberError) for each in found] == [False, True, False, False, True][: len(asked)]
        assert np.allclose(found[0].log_prob, expected.log_prob, atol=1e-5)
        await until(lambda: engine.stats()["queue"] == 0)
        assert engine.stats()["dead"] == 0


async def test_an_engine_whose_base_computes_no_numbers_is_replaced():
    model = build("llama")
    async with running(model, Letters()) as engine:
        await answer(engine, [5, 6], greedy(2))
        model.get_output_embeddings().weight[7] = torch.nan  # a bit that flipped in memory
        with pytest.raises(NotANumberError):
            await answer(engine, [5, 6], greedy(2))
        await until(lambda: engine.stats()["dead"] == 1)
        with pytest.raises(EngineError):
            await answer(engine, [5, 6], greedy(2))


def test_a_model_with_a_weight_that_is_no_number_is_not_opened(tiny_model_folder, tmp_path):
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    model = load_base(ModelSettings(id=str(folder)))
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 1] = torch.inf
    model.save_pretrained(folder)
    sizes = {"max_batch": 1, "max_batch_tokens": 64, "queue": 1, "max_adapters": 1}
    with pytest.raises(ModelError, match="embed_tokens"):
        open_engine(ModelSettings(id=str(folder)), None, **sizes)


class Row:
    generator = None
    sampling = Sampling()

    def seen(self):
        return [0]

    def must(self):
        return None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 1}, {"repetition_penalty": 2.0}])
def test_a_logit_that_is_no_number_is_never_a_token(value, settings):
    rows = [Row(), Row(), Row()]
    for row in rows:
        row.sampling = Sampling(**settings)
        row.generator = row_generator(row.sampling)
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    logits[0, 5] = -torch.inf  # a masked token is no fault
    alone = choose(logits[2:], rows[2:])[0]
    rows[2].generator = row_generator(rows[2].sampling)
    logits[1, 9] = value
    first, broken, last = choose(logits, rows)
    assert isinstance(broken, NotANumberError)
    assert not isinstance(first, NotANumberError)
    assert last == alone
    assert isinstance(choose(torch.full((1, 40), -torch.inf), rows[:1])[0], NotANumberError)


def test_generation_beside_the_server_refuses_them_too():
    model = build("llama")
    with torch.no_grad():
        model.get_output_embeddings().weight[7] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        generate(model, Letters(), [[5, 6]], max_new_tokens=3)


ASKED = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3},
    "/v1/completions": {"prompt": "a", "max_tokens": 3},
    "/v1/completions, echoed": {"prompt": "a b", "max_tokens": 0, "echo": True, "logprobs": 1},
    "/v1/translate": {"source": "eng", "target": "ind", "texts": ["a", "b"], "max_tokens": 3},
    "/v1/classify": {"texts": ["a"], "labels": ["yes", "no"], "prompt": "{text}?"},
    "/v1/score": {"prompt": "a", "continuations": ["b"]},
}


@pytest.fixture(scope="module")
def poisoned(tiny_model, tiny_tokenizer):
    with serving_app.running(tiny_model, tiny_tokenizer) as api:
        poison(api.engine)
        api.library.served["bad"] = dataclasses.replace(api.library.served["plain"], id="bad/1", adapter="bad")
        yield api


@pytest.mark.parametrize("route", ASKED)
def test_every_route_answers_with_an_error_object(poisoned, route):
    body = ASKED[route]
    path = route.partition(",")[0]
    error = serving_app.error_of(poisoned.post(path, body | {"model": "bad"}), 500)
    assert (error["type"], error["code"]) == ("server_error", "not_a_number")
    assert poisoned.post(path, body | {"model": "plain"}).status_code == 200
    if path in ("/v1/chat/completions", "/v1/completions") and "echo" not in body:
        serving_app.error_of(poisoned.post(path, body | {"model": "bad", "stream": True, "n": 2}), 500)
    poisoned.quiet()
