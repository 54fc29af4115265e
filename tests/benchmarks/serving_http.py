"""Requests and tokens a second over HTTP: python serving_http.py [--rounds N] [--size pocket|100M].

1, 8 and 32 clients ask one request after another on loopback, each a completion of a random prompt with a random number
of new tokens, of the same random model: of our deployment through Ray Serve, of `transformers serve` as it starts and
with its continuous batching, each in a process of its own with one thread to compute with. Beside them, without HTTP:
`generate`, one request at a time, and our engine alone. A bare Serve application that sends back what it gets tells
what Ray Serve itself takes. The ways take turns; the median of the ratios within each round counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import keep, ratio_to, rounds, timed
from ray import serve
from serving_engine import REQUESTS, SIZES, Ask, alone, asks, clients, random_model
from starlette.requests import Request
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ialign_ray.config import ModelSettings, ScalingConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.deployment import free_port, running
from ialign_ray.serving.engine import open_engine
from ialign_ray.serving.protocol import Sampling

EOS = 1
LOOPBACK = "127.0.0.1"


def model_folder(size: str, folder: Path) -> Path:
    """A random model that never ends an answer by itself, and a tokenizer of one word a token."""
    vocabulary = SIZES[size][0]
    words = {"<pad>": 0, "</s>": EOS} | {f"w{k}": k for k in range(2, vocabulary)}
    plain = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = random_model(size)
    with torch.no_grad():  # its logit is 0, which is never the largest of hundreds
        model.get_input_embeddings().weight[EOS] = 0
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", pad_token="<pad>").save_pretrained(folder)
    return folder


def body_of(ask: Ask, model: str) -> bytes:
    prompt = " ".join(f"w{k}" for k in ask.prompt)
    return json.dumps({"model": model, "prompt": prompt, "max_tokens": ask.new, "temperature": 0}).encode()


def over_http(port: int, model: str, count: int, work: list[Ask], path: str = "/v1/completions") -> None:
    """`count` threads share the requests, each on a connection of its own."""
    left, lock, wrong = iter(work), threading.Lock(), []

    def client() -> None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=600)
        while True:
            with lock:
                ask = next(left, None)
            if ask is None:
                return
            connection.request("POST", path, body_of(ask, model), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            made = (
                json.loads(text)["usage"]["completion_tokens"] if answer.status == 200 and path != "/echo" else ask.new
            )
            if answer.status != 200 or made != ask.new:
                wrong.append(f"{answer.status}, {made} of {ask.new} tokens: {text[:200]!r}")

    with ThreadPoolExecutor(count) as pool:
        for one in [pool.submit(client) for _ in range(count)]:
            one.result()  # a lost connection is a lost request: it ends the run
    if wrong:
        raise SystemExit(f"port {port}: {len(wrong)} of {len(work)} answers are wrong, as {wrong[0]}")


@contextlib.contextmanager
def transformers_serve(folder: Path, *flags: str) -> Iterator[int]:
    """The port of a server of its own process."""
    port = free_port(LOOPBACK, 0)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder)]
    command += ["--host", LOOPBACK, "--port", str(port), "--device", "cpu", "--dtype", "float32", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as server:
        try:
            _until_it_answers(port, server)
            yield port
        finally:
            server.terminate()


def _until_it_answers(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status < 500:
                return
        if server.poll() is not None:
            raise SystemExit(f"transformers serve ended with {server.returncode} before it answered")
        time.sleep(0.5)
    raise SystemExit("transformers serve did not answer in time")


@serve.deployment(
    ray_actor_options={"num_cpus": 0},
    max_ongoing_requests=64,
    logging_config={"log_level": "WARNING", "enable_access_log": False},
)
class Echo:
    """What Ray Serve takes without a model."""

    async def __call__(self, request: Request) -> Any:
        return await request.json()


class Alone:
    """Our engine without HTTP."""

    def __init__(self, folder: Path, settings: ServeConfig) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = open_engine(
            ModelSettings(id=str(folder)),
            None,
            max_batch=settings.max_batch,
            max_batch_tokens=settings.max_batch_tokens,
            queue=settings.limits.queue,
            max_adapters=1,
        )

    def answer(self, count: int, work: list[Ask]) -> None:
        async def one(number: int, ask: Ask) -> int:
            stream = self._engine.stream(ask.prompt, Sampling(max_new_tokens=ask.new), whole=True)
            return sum([len(piece.tokens) async for piece in stream])

        self._loop.run_until_complete(clients(count, work, one))

    def close(self) -> None:
        self._loop.run_until_complete(self._engine.close(0))


def measured(size: str, turns: int) -> dict[str, Any]:
    """All numbers of clients, of one model."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        folder = model_folder(size, Path(scratch) / size)
        settings = ServeConfig(models=[str(folder)], port=0)
        # Ray gives a replica as many threads as it reserves CPUs: one
        url = servers.enter_context(running(settings, scratch, ScalingConfig(), show_log=False))
        ours = int(url.rpartition(":")[2])
        serve.run(Echo.bind(), name="echo", route_prefix="/echo")
        ports = {
            "transformers serve": servers.enter_context(transformers_serve(folder)),
            "transformers serve, continuous batching": servers.enter_context(
                transformers_serve(folder, "--continuous-batching")
            ),
        }
        engine, model = Alone(folder, settings), random_model(size)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        found = {}
        for count, requests in REQUESTS[size].items():
            work = asks(size, requests)
            ways = {
                "generate": partial(alone, model, tokenizer, work),
                "engine": partial(engine.answer, count, work),
                "ialign serve": partial(over_http, ours, size, count, work),
                **{name: partial(over_http, port, str(folder), count, work) for name, port in ports.items()},
                "echo": partial(over_http, ours, size, count, work, "/echo"),
            }
            seconds = rounds({name: partial(timed, way) for name, way in ways.items()}, turns)
            found[f"{count} clients"] = summary(work, seconds)
        engine.close()
        serve.delete("echo")
        return found


def summary(work: list[Ask], seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Rates by way, ratios within the rounds, and what HTTP adds to a request."""
    tokens, models_only = sum(ask.new for ask in work), {n: t for n, t in seconds.items() if n != "echo"}
    each = {name: [1000 * t / len(work) for t in times] for name, times in seconds.items()}
    http_adds = median(a - b for a, b in zip(each["ialign serve"], each["engine"], strict=True))
    return {
        "requests": len(work),
        "tokens": tokens,
        "requests_per_second": {name: round(len(work) / median(times), 2) for name, times in seconds.items()},
        "tokens_per_second": {name: round(tokens / median(times), 1) for name, times in models_only.items()},
        "times_transformers_serve": ratio_to(models_only, "transformers serve"),
        "times_transformers_serve_continuous": ratio_to(models_only, "transformers serve, continuous batching"),
        "times_generate": ratio_to(models_only, "generate"),
        "ms_a_request": {
            "added by HTTP to the engine": round(http_adds, 2),
            "echo through Ray Serve": round(median(each["echo"]), 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=list(SIZES), nargs="*", default=list(SIZES))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    found: dict[str, Any] = {"load": round(os.getloadavg()[0], 1), "processors": os.cpu_count()}
    for size in options.size:
        found[size] = measured(size, options.rounds)
    keep("serving_http", found)


if __name__ == "__main__":
    main()
