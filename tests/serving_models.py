"""What the tests of the engine share: small engines, adapters whose B is not zero, answers collected."""

import asyncio
from contextlib import asynccontextmanager

import torch
from peft import LoraConfig, get_peft_model

from ialign_ray.serving.engine.engine import TransformersEngine
from ialign_ray.serving.engine.schedule import Limits
from ialign_ray.serving.protocol import Sampling


@asynccontextmanager
async def running(model, tokenizer, *, max_batch=8, max_batch_tokens=4096, busy_prefill=512, queue=64, adapters=8):
    engine = TransformersEngine(
        model, tokenizer, Limits(max_batch, max_batch_tokens, busy_prefill), queue=queue, max_adapters=adapters
    )
    try:
        yield engine
    finally:
        await engine.close(grace=0)


def greedy(count, **settings):
    return Sampling(max_new_tokens=count, **settings)


async def answer(engine, prompt, sampling, adapter=None):
    """(text, tokens, finish) of a whole answer."""
    pieces = [piece async for piece in engine.stream(prompt, sampling, adapter)]
    assert all(piece.finish is None for piece in pieces[:-1])
    tokens = [score for piece in pieces for score in piece.tokens]
    return "".join(piece.text for piece in pieces), tokens, pieces[-1].finish


def adapter_folder(folder, model, seed, rank=4, targets="all-linear", **settings):
    """A PEFT adapter that changes what the model says; the model itself stays as it was."""
    torch.manual_seed(seed)
    task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    config = LoraConfig(r=rank, lora_alpha=4 * rank, target_modules=targets, init_lora_weights=False, task_type=task)
    for name, value in settings.items():
        setattr(config, name, value)
    wrapped = get_peft_model(model, config)
    wrapped.save_pretrained(folder)
    wrapped.unload()
    return folder


async def until(condition, seconds=20.0):
    """Wait for something that another thread does."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
