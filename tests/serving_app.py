"""A server of tiny models for the tests of the API: a real engine, uvicorn in a thread, and what goes with them."""

import asyncio
import copy
import json
import logging
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import openai
import uvicorn

from ialign_ray.config import build_experiment
from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.api import build_app
from ialign_ray.serving.engine.engine import TransformersEngine
from ialign_ray.serving.engine.schedule import Limits
from ialign_ray.serving.protocol import ModelInfo, Served, UnknownModelError
from ialign_ray.tokens.encode import Encoder


class PlainLibrary:
    """A `ModelLibrary` of models that are there; counts the leases that are held."""

    def __init__(self, served):
        self.served, self.held, self.asked = served, 0, []

    def infos(self):
        return [
            ModelInfo(name, one.id, "base", 1_700_000_000, {"note": float("nan")}) for name, one in self.served.items()
        ]

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
def serving(app, parser="auto"):
    """The address of a running server."""
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=5, http=parser)
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


@contextmanager
def access_log():
    lines = Lines()
    logger = logging.getLogger("ialign_ray.access")
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)


CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.first %}{{ raise_exception('no') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def with_chat(tokenizer):
    """A copy that has a chat template."""
    found = copy.deepcopy(tokenizer)
    found.chat_template = CHAT_TEMPLATE
    return found


def experiment(model):
    """What a model was trained by: two template sets, own names, a suite of one text and one of two."""
    columns = {"eng": "eng"}
    words = {"bad": {"eng": " bad", "ind": " buruk"}, "good": {"eng": " good", "ind": " baik"}}
    mood = {"kind": "classification", "name": "mood", "path": "mood.parquet", "columns": columns, "labels": words}
    mood["prompts"] = [
        {"name": "e", "language": "eng", "text": "{text}\nGood or bad?"},
        {"name": "i", "language": "ind", "text": "{text}\nBaik atau buruk?"},
    ]
    pair = {"kind": "classification", "name": "pair", "path": "pair.parquet", "prompts": []}
    pair |= {
        "columns": {"eng": {"premise": "p", "hypothesis": "h"}},
        "labels": {"0": {"eng": "no"}, "1": {"eng": "yes"}},
    }
    pair["prompts"] = [{"name": "e", "text": "{premise} So {hypothesis}?"}]
    data = {
        "name": "served",
        "languages": {"l1": ["eng"], "l2": ["ind", "jav", "qci"], "names": {"qci": {"eng": "Cipher", "ind": "Sandi"}}},
        "model": {"id": str(model)},
        "corpora": [{"name": "c", "path": "c.csv", "columns": {"eng": "eng", "jav": "jav"}}],
        "tasks": {"templates": ["ind", "eng"]},
        "evaluate": {"suites": [mood, pair], "scorer": "mean"},
    }
    return build_experiment(data, "the test")


def served(engine, tokenizer, name, trained_by=None, positions=512):
    """A model for the library; it chats where its tokenizer has a template."""
    return Served(name, engine, None, Encoder.of(tokenizer, "auto", "\n"), positions, trained_by)


@dataclass
class Api:
    """A running server and what stands behind it."""

    url: str
    library: PlainLibrary
    engine: TransformersEngine
    log: Lines
    app: Any

    @property
    def service(self):
        return self.app.state.service

    def get(self, path, **more):
        return httpx.get(self.url + path, timeout=60, **more)

    def post(self, path, body=None, **more):
        more = more if body is None else {"json": body} | more
        return httpx.post(self.url + path, timeout=60, **more)

    def openai(self, key="none"):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def quiet(self):
        """Wait until nothing is held any more."""
        until(lambda: self.library.held == 0 and self.engine.stats()["queue"] == 0)


@contextmanager
def running(model, tokenizer, settings=None, keys=None, queue=64, **library):
    """A server of `plain` (no chat template, no experiment), `chat` (a template) and `trained` (an experiment)."""
    engine = TransformersEngine(model, tokenizer, Limits(8, 8192), queue=queue)
    models = {
        "plain": served(engine, tokenizer, "plain"),
        "chat": served(engine, with_chat(tokenizer), "chat/3"),
        "trained": served(engine, tokenizer, "trained", experiment(model.name_or_path)),
    }
    one = PlainLibrary(models | library)
    app = build_app(one, settings or ServeConfig(models=["plain"]), keys)
    with access_log() as lines, serving(app) as url:
        yield Api(url, one, engine, lines, app)
    asyncio.run(engine.close(0))


def error_of(response, status):
    """The error of a response, after a look at its shape."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]
    return body["error"]
