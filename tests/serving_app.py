"""A server of tiny models for the tests of the API: a real engine, uvicorn in a thread, and what goes with them."""

import asyncio
import contextlib
import json
import logging
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import torch
import uvicorn

from ialign_ray.inference.scoring import score_labels
from ialign_ray.serving.contract import Card, LabelSums, Piece, Served, TokenScore, UnknownModelError


class PlainEngine:
    """`Engine` without batching or cache: one whole forward pass a token."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model.eval(), tokenizer
        self.open, self.most_open, self.closed_early = 0, 0, 0

    async def stream(self, prompt, sampling, adapter=None):
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        ended = False
        try:
            async for piece in self._stream(list(prompt), sampling):
                ended = piece.finish is not None
                yield piece
        finally:
            self.open -= 1
            self.closed_early += not ended

    async def _stream(self, prompt, sampling):
        rng = torch.Generator().manual_seed(sampling.seed if sampling.seed is not None else time.time_ns() % 2**31)
        ids, sent, made = list(prompt), "", []
        for step in range(sampling.max_new_tokens):
            await asyncio.sleep(0)
            logits = self._logits(ids)[-1]
            logs = torch.log_softmax(logits, -1)
            if sampling.temperature > 0:
                chosen = int(torch.multinomial(torch.softmax(logits / sampling.temperature, -1), 1, generator=rng))
            else:
                chosen = int(logits.argmax())
            ids.append(chosen)
            made.append(chosen)
            score = _score(chosen, logs, sampling.top_log_probs)
            if chosen == self.tokenizer.eos_token_id:
                yield Piece(self.tokenizer.decode(made[:-1])[len(sent) :], (score,), "stop")
                return
            text = self.tokenizer.decode(made)
            last = step == sampling.max_new_tokens - 1
            if cuts := [text.index(stop) for stop in sampling.stop if stop in text]:
                yield Piece(text[len(sent) : min(cuts)], (score,), "stop")
                return
            held = 0 if last else max((_held(text, stop) for stop in sampling.stop), default=0)
            ready = text if last else text[: len(text) - held].rstrip("\ufffd")
            ready = ready if len(ready) > len(sent) else sent
            yield Piece(ready[len(sent) :], (score,), "length" if last else None)
            sent = ready

    def _logits(self, ids):
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0]

    async def score_labels(self, prompts, labels, adapter=None):
        found = score_labels(self.model, prompts, labels)
        return LabelSums(found.log_prob.tolist(), found.tokens.tolist())

    async def read(self, ids, top, adapter=None):
        logs = torch.log_softmax(self._logits(list(ids)), -1)
        return [
            TokenScore(ids[0], None),
            *(_score(token, logs[at], top) for at, token in enumerate(ids[1:])),
        ]

    def stats(self):
        return {"running": float(self.open)}


def _score(token, logs, top):
    if top is None:
        return TokenScore(token, None)
    best = torch.topk(logs, top) if top else None
    pairs = tuple(zip(best.indices.tolist(), best.values.tolist())) if best else ()
    return TokenScore(token, float(logs[token]), pairs)


def _held(text, stop):
    return max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


class PlainLibrary:
    """`Library` of models that are there; counts the leases that are held."""

    def __init__(self, served):
        self.served, self.held, self.asked = served, 0, []

    def cards(self):
        return [Card(name, one.id, "base", 1_700_000_000, {"note": float("nan")}) for name, one in self.served.items()]

    @asynccontextmanager
    async def lease(self, name):
        self.asked.append(name)
        if name not in self.served:
            raise UnknownModelError(f"no model {name!r}")
        self.held += 1
        try:
            yield self.served[name]
        finally:
            self.held -= 1


@contextmanager
def serving(app):
    """The address of a running server."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def until(true, seconds=10.0):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


class Lines(logging.Handler):
    """The access log, read back."""

    def __init__(self):
        super().__init__()
        self.text = []

    def emit(self, record):
        self.text.append(record.getMessage())

    @property
    def lines(self):
        return [json.loads(line) for line in self.text]


@contextlib.contextmanager
def access_log():
    lines = Lines()
    logger = logging.getLogger("ialign_ray.access")
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)


def served(engine, tokenizer, *, name, chat, experiment=None, positions=512):
    from ialign_ray.tokens.encode import Encoder

    encoder = Encoder.of(tokenizer, "auto" if chat else "off", "\n")
    return Served(name, engine, None, encoder, positions, experiment)


def close(a, b, tolerance=1e-3):
    return np.allclose(np.array(a, float), np.array(b, float), atol=tolerance)
