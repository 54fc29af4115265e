"""Time limits, clients that go away, leases, the access log and the metrics."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import openai
import pytest
from serving_app import error_of, running, until

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.serving.api import middleware

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "a private matter"}], "max_tokens": 3, "temperature": 0}
LONG = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": 480, "temperature": 1.0, "seed": 3}


def test_the_log_has_every_request_and_nothing_that_was_said(api):
    before = len(api.log.text)
    stream = {"stream": True, "model": "chat"}
    answer = api.post(CHAT, ASK, headers={"x-request-id": "known-1"})
    with httpx.stream("POST", api.url + CHAT, json=ASK | stream) as streamed:
        list(streamed.iter_lines())
    api.post(CHAT, ASK | {"model": "private matter/../x"})
    api.get("/private matter")
    until(lambda: len(api.log.text) == before + 4)
    whole, parts, unknown, nowhere = api.log.lines[before:]
    assert (whole["request"], whole["model"], whole["version"]) == ("known-1", "plain", "plain")
    assert (whole["route"], whole["status"], whole["error"]) == (f"POST {CHAT}", 200, None)
    usage = answer.json()["usage"]
    assert (whole["tokens_in"], whole["tokens_out"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert 0 < whole["first_token_ms"] <= whole["ms"]
    assert (parts["version"], parts["status"], parts["tokens_out"]) == ("chat/3", 200, 3)
    assert streamed.headers["x-model-version"] == "chat/3"
    assert (unknown["status"], unknown["error"], unknown["model"]) == (404, "model_not_found", None)
    assert (nowhere["status"], nowhere["route"]) == (404, "GET unmatched")
    assert "private" not in "".join(api.log.text[before:])


def test_the_metrics_count_requests_tokens_and_the_engine(api):
    def value(name):
        lines = [line for line in api.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    labels = 'model="plain",route="/v1/chat/completions"'
    names = [f'ialign_requests_total{{{labels},status="200"}}', f"ialign_generated_tokens_total{{{labels}}}"]
    before = [value(name) for name in names]
    api.post(CHAT, ASK)
    assert [value(name) - b for name, b in zip(names, before)] == [1, 3]
    assert value(f"ialign_first_token_seconds_count{{{labels}}}") >= 1
    assert value('ialign_engine{engine="0",stat="queue"}') == 0
    assert value("ialign_requests_running") == 1  # this one
    error_of(api.post(CHAT, ASK | {"model": "made-up-by-a-client"}), 404)
    assert "made-up" not in api.get("/metrics").text


def gone(api, body, wait):
    """Send a request and close the connection in the middle of its answer."""
    url = httpx.URL(api.url)
    with socket.create_connection((url.host, url.port)) as connection:
        text = json.dumps(body).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
        )
        connection.sendall(head.encode() + text)
        wait(connection)


@pytest.mark.parametrize("more", [{}, {"n": 3}, {"stream": True}, {"stream": True, "n": 3}])
def test_a_client_that_goes_away_frees_its_place(api, more):
    begin, before = time.monotonic(), len(api.log.text)

    def wait(connection):
        if "stream" in more:
            assert connection.recv(100)
        until(lambda: api.engine.stats()["queue"] == more.get("n", 1) and api.library.held == 1)

    gone(api, LONG | more, wait)
    api.quiet()
    until(lambda: len(api.log.text) > before)
    line = api.log.lines[before]
    assert line["error"] == "client_gone" or line["status"] == 499
    assert line["tokens_out"] < 480 * more.get("n", 1)
    assert time.monotonic() - begin < 5


def test_a_model_is_held_until_the_last_event(api):
    with httpx.stream("POST", api.url + CHAT, json=LONG | {"stream": True, "n": 2, "max_tokens": 60}) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert api.library.held == 1
        assert [line for line in lines if line][-1] == "data: [DONE]"
    api.quiet()


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
def test_a_client_that_does_not_read_is_given_up_and_is_no_bug_of_ours(api, spec, monkeypatch, caplog):
    monkeypatch.setattr(middleware, "_SLACK_S", 0.0)
    monkeypatch.setattr(api.service, "settings", ServeConfig(limits=LimitsConfig(timeout_s=2)))
    before, body, sent = len(api.log.text), json.dumps(ASK | {"stream": True}).encode(), []

    parts = iter([{"type": "http.request", "body": body}])

    async def receive():
        return next(parts, None) or await asyncio.Event().wait()

    async def send(message):
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    scope = {"type": "http", "asgi": {"spec_version": spec}, "method": "POST", "path": CHAT, "query_string": b""}
    scope["headers"] = [(b"content-type", b"application/json")]
    asyncio.run(asyncio.wait_for(api.app(scope, receive, send), 20))
    assert sent == ["http.response.start", "http.response.body"]
    [line] = api.log.lines[before:]
    assert (line["status"], line["error"]) == (200, "client_gone")
    assert not [r for r in caplog.records if r.name == "ialign_ray.serving"]


@pytest.fixture(scope="module")
def hurried(tiny_model, tiny_tokenizer):
    limits = LimitsConfig(timeout_s=0.3, default_new_tokens=400, prompt_tokens=40)
    with running(tiny_model, tiny_tokenizer, ServeConfig(limits=limits), queue=2) as api:
        yield api


def test_an_answer_that_takes_too_long_is_504(hurried):
    assert error_of(hurried.post(CHAT, LONG), 504)["code"] == "timeout"
    hurried.quiet()


def test_a_stream_that_takes_too_long_ends_with_an_error(hurried):
    with pytest.raises(openai.APIError, match="not ready in"):
        list(hurried.openai().chat.completions.create(**LONG, model="plain", stream=True))
    hurried.quiet()
    until(lambda: hurried.log.lines[-1]["error"] == "timeout")


def test_a_body_that_does_not_come_is_408(hurried):
    url = httpx.URL(hurried.url)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=10)
    connection.putrequest("POST", CHAT)
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "500")
    connection.endheaders(b'{"messages":')
    answer = connection.getresponse()
    assert answer.status == 408
    assert json.loads(answer.read())["error"]["code"] == "timeout"


def test_a_prompt_longer_than_the_server_takes_is_refused(hurried):
    error = error_of(hurried.post(CHAT, ASK | {"messages": [{"role": "user", "content": "word " * 30}]}), 400)
    assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "go on " * 4000}]}),
        ("/v1/completions", {"prompt": "go on " * 4000}),
        ("/v1/translate", {"source": "eng", "target": "jav", "texts": ["go on " * 4000]}),
        ("/v1/classify", {"labels": ["a", "b"], "prompt": "{text}", "texts": ["go on " * 4000]}),
        ("/v1/score", {"prompt": "go on " * 4000, "continuations": ["a"]}),
    ],
)
def test_a_long_prompt_holds_up_no_other_answer(api, monkeypatch, route, body):
    """While it is tokenised; the health check stands for the others."""
    begun, go_on = threading.Event(), threading.Event()
    call = type(api.library.served["chat"].encoder.tokenizer).__call__

    def slow(self, text, *args, **kwargs):
        if "go on go on" in str(text):
            begun.set()
            assert go_on.wait(20)
        return call(self, text, *args, **kwargs)

    monkeypatch.setattr(type(api.library.served["chat"].encoder.tokenizer), "__call__", slow)
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(api.post, route, json={**body, "model": "trained" if "trans" in route else "chat"})
        try:
            assert begun.wait(10)
            assert httpx.get(f"{api.url}/healthz", timeout=10).status_code == 200
        finally:
            go_on.set()
        assert error_of(answer.result(20), 400)["code"] == "context_length_exceeded"


def test_a_full_queue_is_429_and_says_when_to_come_again(hurried):
    body, answers, full = LONG | {"n": 1}, [], []
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):  # on a busy machine eight clients may come one after another
            answers += pool.map(lambda stream: hurried.post(CHAT, body | {"stream": stream}), [True, False] * 4)
            full = [a for a in answers if a.status_code == 429]
            if full:
                break
    assert full
    for answer in full:
        assert error_of(answer, 429)["code"] == "server_busy"
        assert int(answer.headers["retry-after"]) >= 1
    assert {a.status_code for a in answers} <= {200, 429, 504}
    hurried.quiet()


def test_of_choices_that_do_not_all_fit_none_goes_on(hurried):
    assert error_of(hurried.post(CHAT, LONG | {"n": 3}), 429)["code"] == "server_busy"
    hurried.quiet()


def test_without_models_nothing_is_ready(hurried):
    assert hurried.get("/readyz").json() == {"status": "ready"}
    models, hurried.library.served = hurried.library.served, {}
    try:
        response = hurried.get("/readyz")
        assert error_of(response, 503)["code"] == "not_ready"
        assert response.headers["retry-after"]
        assert hurried.get("/healthz").status_code == 200
        error_of(hurried.post(CHAT, ASK), 503)
        assert hurried.get("/v1/models").json()["data"] == []
    finally:
        hurried.library.served = models


@contextlib.contextmanager
def broken(api, name, error):
    """The library's lease or the engine's stream fails."""
    owner = api.library if name == "lease" else api.engine

    def fail(*_, **__):
        raise error

    kept = getattr(owner, name)
    setattr(owner, name, fail)
    try:
        yield
    finally:
        setattr(owner, name, kept)


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_is_500_without_its_message(api, stream, caplog):
    with broken(api, "stream", ValueError("a private matter at /srv/secret")):
        error = error_of(api.post(CHAT, ASK | {"stream": stream}), 500)
    assert error["code"] == "internal_error"
    assert "private" not in json.dumps(error)
    said = [r.getMessage() for r in caplog.records if r.name == "ialign_ray.serving"]
    assert any("ValueError at" in line for line in said)
    assert "private" not in caplog.text
    api.quiet()


def test_an_engine_that_failed_is_worth_another_try(api):
    from ialign_ray.serving.protocol import EngineError

    with broken(api, "stream", EngineError("the engine has failed.")):
        response = api.post(CHAT, ASK)
    error_of(response, 503)
    assert response.headers["retry-after"]


def test_a_model_that_does_not_load_is_503_without_its_path(api):
    from ialign_ray.errors import ModelError

    with broken(api, "lease", ModelError("/srv/secret/model.safetensors is torn")):
        response = api.post(CHAT, ASK)
    assert "secret" not in response.text
    error_of(response, 503)
