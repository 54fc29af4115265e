"""Output tokens a second of the serving engine: python serving_engine.py pocket|100M [--rounds N].

1, 8 and 32 clients ask one request after another, each with a random prompt and a random number of new tokens. The
same requests go to three ways: `generate`, one request at a time; `transformers`, its own continuous batching; and
`engine`, ours. Then, for the engine alone, the same requests to the base, to one adapter, and to eight adapters in
turn. Every way ends each answer at its number of tokens: there is no end-of-sequence token. The ways take turns, and
the median of the ratios within each round counts, so that load on the machine falls on all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, any_tokenizer, keep, ratio_to, rounds, timed
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, LlamaConfig

from ialign_ray.inference.generation import generate
from ialign_ray.serving.engine.engine import TransformersEngine
from ialign_ray.serving.engine.schedule import Limits
from ialign_ray.serving.protocol import Sampling

ADAPTERS = 8
SIZES = {
    # vocabulary, width, inner width, layers, heads, heads of keys and values: 1.2 M and 103 M parameters
    "pocket": (768, 128, 384, 4, 4, 4),
    "100M": (32_000, 768, 2_048, 12, 12, 4),
}
REQUESTS = {"pocket": {1: 8, 8: 48, 32: 96}, "100M": {1: 2, 8: 8, 32: 32}}
"""How many, by the number of clients."""
KEPT = RESULTS / "serving_engine.json"
LONGEST = {"pocket": 48, "100M": 16}
"""Tokens of an answer; the shortest has 8."""


@dataclass(frozen=True)
class Ask:
    """One request."""

    prompt: list[int]
    new: int


def random_model(size: str) -> Any:
    """A Llama without an end-of-sequence token, the same at every call."""
    vocabulary, width, inner, layers, heads, shared = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def asks(size: str, count: int) -> list[Ask]:
    """Prompts of 16 to 96 tokens and answers of 8 to `LONGEST`, drawn once."""
    draw = np.random.default_rng(count)
    vocabulary = SIZES[size][0]
    return [
        Ask(draw.integers(2, vocabulary, draw.integers(16, 97)).tolist(), int(draw.integers(8, LONGEST[size] + 1)))
        for _ in range(count)
    ]


async def clients(count: int, work: list[Ask], one: Callable[[int, Ask], Awaitable[int]]) -> None:
    """`count` clients share the requests; each asks for the next one when it has its answer."""
    left: Iterator[tuple[int, Ask]] = iter(enumerate(work))

    async def client() -> None:
        for number, ask in left:
            tokens = await one(number, ask)
            if tokens != ask.new:
                raise SystemExit(f"request {number} was answered with {tokens} tokens, not {ask.new}")

    await asyncio.gather(*(client() for _ in range(count)))


def alone(model: Any, tokenizer: Any, work: list[Ask]) -> None:
    for ask in work:
        generate(model, tokenizer, [ask.prompt], max_new_tokens=ask.new)


class Engine:
    """Ours, with adapters `a0` to `a7`."""

    def __init__(self, size: str, tokenizer: Any, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._open = partial(TransformersEngine, random_model(size), tokenizer, Limits(32, 16_384))
        self._loop.run_until_complete(self._start(size, folder))

    async def _start(self, size: str, folder: Path) -> None:
        self.engine = self._open(queue=256, max_adapters=ADAPTERS)
        for k in range(ADAPTERS):
            config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
            get_peft_model(random_model(size), config).save_pretrained(folder / f"{size}-{k}")
            await self.engine.load(f"a{k}", folder / f"{size}-{k}")

    def answer(self, count: int, work: list[Ask], adapters: int = 0) -> None:
        async def one(number: int, ask: Ask) -> int:
            adapter = f"a{number % adapters}" if adapters else None
            stream = self.engine.stream(ask.prompt, Sampling(max_new_tokens=ask.new), adapter, whole=True)
            return sum([len(piece.tokens) async for piece in stream])

        self._loop.run_until_complete(clients(count, work, one))

    def close(self) -> None:
        self._loop.run_until_complete(self.engine.close())


class Paged:
    """Transformers' continuous batching with paged attention."""

    def __init__(self, size: str) -> None:
        config = GenerationConfig(do_sample=False, max_new_tokens=48, eos_token_id=-1, pad_token_id=0)
        # pages for 16,384 tokens, as the engine has
        batching = ContinuousBatchingConfig(page_size=32, num_blocks=512, max_batch_tokens=512)
        self._manager = random_model(size).init_continuous_batching(config, batching)
        self._manager.start()

    def answer(self, count: int, work: list[Ask]) -> None:
        async def one(number: int, ask: Ask) -> int:
            done = asyncio.get_running_loop().create_future()
            name = f"{id(work)}-{number}-{os.urandom(4).hex()}"

            def told(output: Any) -> None:
                if output.is_finished():
                    done.set_result(len(output.generated_tokens))

            self._manager.register_result_handler(name, told)
            self._manager.add_request(ask.prompt, name, max_new_tokens=ask.new, streaming=True)
            tokens: int = await done
            return tokens

        asyncio.run(clients(count, work, one))

    def close(self) -> None:
        self._manager.stop(block=True)


def measured(size: str, count: int, engine: Engine, paged: Paged, tokenizer: Any, turns: int) -> dict[str, Any]:
    work, model = asks(size, REQUESTS[size][count]), random_model(size)
    tokens = sum(ask.new for ask in work)
    ways = {
        "generate": partial(alone, model, tokenizer, work),
        "transformers": partial(paged.answer, count, work),
        "engine": partial(engine.answer, count, work),
        "engine, one adapter": partial(engine.answer, count, work, 1),
        "engine, eight adapters": partial(engine.answer, count, work, ADAPTERS),
    }
    if count == 1:
        del ways["engine, eight adapters"]
    seconds = rounds({name: partial(timed, way) for name, way in ways.items()}, turns)
    result: dict[str, Any] = {
        "requests": len(work),
        "tokens": tokens,
        "tokens_per_second": {name: round(tokens / float(np.median(times)), 1) for name, times in seconds.items()},
        "times_generate": ratio_to(seconds, "generate"),
        "times_transformers": ratio_to(seconds, "transformers")["engine"],
    }
    if count > 1:
        result["eight_adapters_to_one"] = ratio_to(seconds, "engine, one adapter")["engine, eight adapters"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the tokenizer has no end-of-sequence token, and is told so often
    size, load = options.size, round(os.getloadavg()[0], 1)
    tokenizer = any_tokenizer(SIZES[size][0])
    tokenizer.eos_token = None
    with tempfile.TemporaryDirectory() as folder:
        engine, paged = Engine(size, tokenizer, Path(folder)), Paged(size)
        found = {
            f"{count} clients": measured(size, count, engine, paged, tokenizer, options.rounds)
            for count in REQUESTS[size]
        }
        engine.close()
        paged.close()
    others = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    others.pop("on", None)
    keep(KEPT.stem, {**others, size: {"load": load, "rounds": options.rounds, **found}})


if __name__ == "__main__":
    main()
