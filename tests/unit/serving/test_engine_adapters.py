import asyncio
import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from serving_models import adapter_folder, answer, greedy, running, until
from test_generation import Letters
from test_scoring import build, some_prompts

from ialign_ray.config import LoraSettings, ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.inference.generation import generate
from ialign_ray.modeling.load import add_adapter, load_adapted, load_base, save_model
from ialign_ray.modeling.vocabulary import resize_rows
from ialign_ray.serving.engine import open_engine
from ialign_ray.serving.engine.adapter_files import read_adapter
from ialign_ray.serving.engine.lora import LoraBank
from ialign_ray.serving.protocol import UnknownModelError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def model():
    return build("llama")


@pytest.fixture
def folder(model, tmp_path):
    return adapter_folder(tmp_path / "a", model, 0)


def changed(folder, **settings):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def rewritten(folder, change):
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def widened(tensors):
    for name in list(tensors)[:2]:
        shape = (64, tensors[name].shape[1]) if "lora_A" in name else (tensors[name].shape[0], 64)
        tensors[name] = torch.zeros(shape)


def first(tensors):
    return next(iter(tensors))


TORN = {
    "no folder": (shutil.rmtree, "no adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "missing or torn"),
    "half of the weights": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:2000]),
        "missing or torn",
    ),
    "no JSON": (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
    "a JSON list": (lambda f: (f / "adapter_config.json").write_text("[]"), "cannot be read"),
    "another method": (lambda f: changed(f, peft_type="VERA"), "VERA"),
    "DoRA": (lambda f: changed(f, use_dora=True), "use_dora.* --merge"),
    "PiSSA": (lambda f: changed(f, init_lora_weights="pissa_niter_4"), "pissa_niter_4.* --merge"),
    "OLoRA": (lambda f: changed(f, init_lora_weights="olora"), "olora.* --merge"),
    "half of a layer": (lambda f: rewritten(f, lambda t: t.pop(first(t))), "half of layer"),
    "no tensors": (lambda f: rewritten(f, lambda t: t.clear()), "no weights"),
    "another layer": (
        lambda f: rewritten(f, lambda t: t.update({"base_model.model.other.lora_A.weight": torch.ones(2, 2)})),
        "layer other",
    ),
    "a whole matrix": (
        lambda f: rewritten(f, lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(2, 2)})),
        "more than plain LoRA; .* --merge",
    ),
    "another width": (lambda f: rewritten(f, lambda t: t.update({first(t): torch.ones(4, 7)})), "does not fit"),
    "no numbers": (lambda f: rewritten(f, lambda t: t[first(t)].fill_(torch.nan)), "finite 16"),
    "whole numbers": (lambda f: rewritten(f, lambda t: t.update({first(t): t[first(t)].int()})), "finite 16"),
    "no rank": (lambda f: rewritten(f, lambda t: t.update({first(t): t[first(t)][:0]})), "does not fit"),
    "a lone number": (lambda f: rewritten(f, lambda t: t.update({first(t): torch.tensor(1.0)})), "does not fit"),
    "no alpha": (lambda f: changed(f, lora_alpha=None), "alpha of .* cannot be read"),
    "an endless alpha": (lambda f: changed(f, lora_alpha=float("inf")), "must be finite"),
    "a torn pattern": (lambda f: changed(f, alpha_pattern={"(": 1}), "not a regular expression"),
    "a pickle": (lambda f: (f / "adapter_model.safetensors").rename(f / "adapter_model.bin"), "pickle"),
    "more rank than the layer": (lambda f: rewritten(f, widened), "rank 64 for layer"),
    "a list for patterns": (lambda f: changed(f, alpha_pattern=[1]), "alpha of .* cannot be read"),
}


def base_text(model):
    return generate(model, Letters(), some_prompts((5,)), max_new_tokens=6)[0].text


@pytest.mark.parametrize("how", TORN)
async def test_what_does_not_load_leaves_nothing_behind(how, model, folder):
    expected = base_text(model)
    break_it, words = TORN[how]
    async with running(model, Letters()) as engine:
        await engine.load("whole", folder)
        before = engine.stats()["adapter_bytes"]
        copy = shutil.copytree(folder, folder.parent / "torn")
        break_it(copy)
        with pytest.raises(ModelError, match=words):
            await engine.load("torn", copy)
        assert engine.loaded() == ("whole",)
        assert engine.stats()["adapter_bytes"] == before
        with pytest.raises(UnknownModelError):
            engine.stream([5], greedy(2), "torn")
        assert (await answer(engine, some_prompts((5,))[0], greedy(6)))[0] == expected
        await engine.load("torn", folder)  # the key is free again


@pytest.mark.parametrize("what", ["pieces", "modules_to_save", "bias"])
def test_more_than_lora_is_refused(what, model, tmp_path):
    extra = {
        "pieces": {"trainable_token_indices": [3, 4]},
        "modules_to_save": {"modules_to_save": ["lm_head"]},
        "bias": {"lora_bias": True},
    }[what]
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **extra)
    get_peft_model(build("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="more than plain LoRA; .* --merge"):
        read_adapter(tmp_path, LoraBank(model).shapes())


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"lora_alpha": 1}, {"alpha_pattern": {"q_proj": 3}}])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_logits_are_pefts(name, settings, tmp_path):
    model, prompt = build(name), torch.tensor([some_prompts((9,))[0]])
    torch.manual_seed(1)
    task = "CAUSAL_LM" if name != "t5" else "SEQ_2_SEQ_LM"
    pattern = {"rank_pattern": {"q": 2, "c_attn": 3, "q_proj": 2}}
    config = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, task_type=task, **(pattern | settings)
    )
    get_peft_model(build(name), config).save_pretrained(tmp_path)
    inputs = {"input_ids": prompt} | ({"decoder_input_ids": prompt} if name == "t5" else {})
    bank = LoraBank(model)
    bank.add("a", read_adapter(tmp_path, bank.shapes()))
    with torch.no_grad():
        expected = PeftModel.from_pretrained(build(name), tmp_path)(**inputs).logits
        base = model(**inputs).logits
        with bank.using(["a"], 9):
            found = model(**inputs).logits
        again = model(**inputs).logits
    # T5 does not scale its attention, so roundings grow
    assert (found - expected).abs().max() <= (1e-4 if name == "t5" else 1e-5) * expected.abs().max()
    assert (found - base).abs().max() > 0.1
    assert torch.equal(again, base)


def test_half_precision_adapters_are_computed_in_single(tmp_path, model):
    folder = adapter_folder(tmp_path, model, 0)
    rewritten(folder, lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    weights = read_adapter(folder, LoraBank(model).shapes())
    assert {t.dtype for w in weights.values() for t in (w.down, w.up)} == {torch.float32}
    half = build("llama").bfloat16()
    bank = LoraBank(half)
    bank.add("a", weights)
    ids = torch.tensor([some_prompts((9,))[0]])
    with torch.no_grad(), bank.using(["a"], 9):
        found = half(ids).logits
        expected = PeftModel.from_pretrained(build("llama").bfloat16(), folder)(ids).logits
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0.05)  # roundings of bfloat16
    with torch.no_grad():
        with bank.using(["a", None]):
            mixed = half(ids[:, :1].repeat(2, 1)).logits
        torch.testing.assert_close(mixed[1], half(ids[:, :1]).logits[0], atol=0.3, rtol=0.05)


def test_memory_of_an_adapter_is_its_own(model, tmp_path):
    """Whatever its rank beside the others', and all of it goes when it goes."""
    bank = LoraBank(model)

    def held():
        tensors = [t for blocks in bank._blocks.values() for t in (blocks.down, blocks.up)]
        assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in tensors)
        return sum(t.numel() * t.element_size() for t in tensors)

    sizes = {}
    for rank in (1, 16, 3):
        folder = adapter_folder(tmp_path / str(rank), model, rank, rank=rank)
        before = held()
        bank.add(str(rank), read_adapter(folder, bank.shapes()))
        sizes[rank] = held() - before
        weights = load_file(folder / "adapter_model.safetensors").values()
        assert sizes[rank] == sum(t.numel() * t.element_size() for t in weights)
    assert bank.bytes() == held()
    bank.remove("16")
    assert bank.bytes() == held() == sizes[1] + sizes[3]
    bank.remove("1")
    bank.remove("3")
    assert held() == bank.bytes() == 0
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["base", "dora", "new pieces"])
async def test_an_engine_over_a_folder(kind, tiny_model_folder, tmp_path):
    """What shares no base is merged and served as a model of its own."""
    settings = ModelSettings(id=str(tiny_model_folder))
    folder = None
    if kind != "base":
        lora, model = LoraSettings(rank=4, dora=kind == "dora"), load_base(settings)
        rows = [] if kind == "dora" else [model.config.vocab_size]
        resize_rows(model, sum(rows) + len(rows))
        adapted = add_adapter(model, lora, 0, rows)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
        folder = tmp_path / "adapter"
        save_model(adapted, folder)
    model, tokenizer = load_adapted(settings, folder)
    prompt = tokenizer("Translate this")["input_ids"]
    expected = generate(model, tokenizer, [prompt], max_new_tokens=12)[0]
    engine = open_engine(settings, folder, max_batch=4, max_batch_tokens=512, queue=8, max_adapters=1)
    text, tokens, finish = await answer(engine, prompt, greedy(12))
    await engine.close()
    assert (text, len(tokens), finish == "stop") == (expected.text, expected.tokens, expected.ended)


async def test_adapters_come_and_go_under_traffic(model, tmp_path):
    prompts = some_prompts((5, 9, 3))
    folders = {key: adapter_folder(tmp_path / key, model, seed) for seed, key in enumerate("abcd")}

    def texts(adapted):
        return [reply.text for reply in generate(adapted, Letters(), prompts, max_new_tokens=15)]

    expected = {None: texts(build("llama"))}
    expected |= {k: texts(PeftModel.from_pretrained(build("llama"), f)) for k, f in folders.items()}
    async with running(model, Letters(), adapters=2) as engine:
        stop = asyncio.Event()

        async def ask_the_base():
            while not stop.is_set():
                for i, prompt in enumerate(prompts):
                    assert (await answer(engine, prompt, greedy(15)))[0] == expected[None][i]

        base = asyncio.create_task(ask_the_base())
        for key in "abcdab":
            await engine.load(key, folders[key])
            found = await asyncio.gather(*(answer(engine, prompt, greedy(15), key) for prompt in prompts))
            assert [text for text, _, _ in found] == expected[key]
            if len(engine.loaded()) == 2:
                with pytest.raises(ModelError, match="limit of 2 loaded adapters"):
                    await engine.load("e", folders[key])
                await engine.unload(engine.loaded()[0])
        stop.set()
        await base


async def test_unloading_waits_for_those_who_use_it(model, folder):
    async with running(model, Letters()) as engine:
        await engine.load("a", folder)
        with pytest.raises(ModelError, match="already loaded"):
            await engine.load("a", folder)
        expected = (await answer(engine, [5, 6], greedy(30), "a"))[0]
        stream = engine.stream([5, 6], greedy(30), "a")
        leaving = asyncio.create_task(engine.unload("a"))
        await asyncio.sleep(0)
        assert engine.loaded() == ()
        with pytest.raises(UnknownModelError):
            engine.stream([5, 6], greedy(3), "a")
        with pytest.raises(UnknownModelError):
            await engine.unload("a")
        assert "".join([piece.text async for piece in stream]) == expected
        await leaving
        assert engine.stats()["adapter_bytes"] == 0
        await engine.load("a", folder)
        assert (await answer(engine, [5, 6], greedy(30), "a"))[0] == expected


async def test_a_load_that_nobody_waits_for_any_more_is_whole_all_the_same(model, folder):
    async with running(model, Letters()) as engine:
        loading = asyncio.create_task(engine.load("a", folder))
        await asyncio.sleep(0)
        loading.cancel()
        await until(lambda: engine.loaded() == ("a",))
        await engine.unload("a")
