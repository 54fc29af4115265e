"""Everything that a client can send wrong gets its status and one sentence in OpenAI's shape."""

import http.client
import json
import re

import httpx2 as httpx
import pytest
from serving_app import error_of, serving

CHAT, COMPLETIONS, TRANSLATE, CLASSIFY, SCORE = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/translate",
    "/v1/classify",
    "/v1/score",
)
GOOD = {
    CHAT: {"messages": [{"role": "user", "content": "secretive words"}], "max_tokens": 2},
    COMPLETIONS: {"prompt": "secretive words", "max_tokens": 2},
    TRANSLATE: {"source": "eng", "target": "jav", "texts": ["secretive words"], "max_tokens": 2},
    CLASSIFY: {"texts": ["secretive words"], "labels": ["yes", "no"], "prompt": "{text}?"},
    SCORE: {"prompt": "secretive words", "continuations": ["yes"]},
}
BAD = [
    # (route, what is changed, status, param, code)
    *[(route, {"model": "nobody"}, 404, "model", "model_not_found") for route in GOOD],
    *[
        (CHAT, {"model": name}, 404, "model", "model_not_found")
        for name in (
            "../plain",
            "plain/../plain",
            "/etc/passwd",
            "..",
            "plain\x00",
            "pl\nain",
            "plain ",
            "C:\\models",
            "%2e%2e/plain",
            "file:///etc/passwd",
            "a" * 256,
        )
    ],
    (CHAT, {"model": "\ud83d"}, 400, "model", "invalid_value"),
    (CHAT, {"model": ""}, 400, "model", "invalid_value"),
    (CHAT, {"model": "a" * 257}, 400, "model", "invalid_value"),
    (CHAT, {"model": 5}, 400, "model", "invalid_value"),
    (CHAT, {"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    (CHAT, {"max_tokens": -1}, 400, "max_tokens", "invalid_value"),
    (CHAT, {"max_tokens": 1025}, 400, "max_tokens", "invalid_value"),
    (CHAT, {"max_tokens": 10**30}, 400, "max_tokens", "invalid_value"),
    (CHAT, {"max_tokens": 510}, 400, "max_tokens", "context_length_exceeded"),
    (CHAT, {"max_tokens": "2"}, 400, "max_tokens", "invalid_value"),
    (CHAT, {"max_tokens": 2, "max_completion_tokens": 3}, 400, "max_tokens", "invalid_value"),
    (COMPLETIONS, {"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    (TRANSLATE, {"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    *[
        (CHAT, {name: value}, 400, name, "unsupported_parameter")
        for name, value in {
            "tools": [{"type": "function"}],
            "functions": [{"name": "f"}],
            "response_format": {"type": "json_object"},
            "logit_bias": {"5": 100},
            "frequency_penalty": 0.5,
            "presence_penalty": -1,
            "modalities": ["audio"],
            "reasoning_effort": "high",
        }.items()
    ],
    (COMPLETIONS, {"suffix": "end"}, 400, "suffix", "unsupported_parameter"),
    (COMPLETIONS, {"best_of": 3}, 400, "best_of", "unsupported_parameter"),
    (CHAT, {"temprature": 1}, 400, "temprature", "unknown_parameter"),
    (CHAT, {"bad\x1bname\n": 1}, 400, "bad\\x1bname\\n", "unknown_parameter"),
    (CHAT, {"temperature": 2.5}, 400, "temperature", "invalid_value"),
    (CHAT, {"temperature": float("nan")}, 400, "temperature", "invalid_value"),
    (CHAT, {"top_p": 0}, 400, "top_p", "invalid_value"),
    (CHAT, {"top_k": -1}, 400, "top_k", "invalid_value"),
    (CHAT, {"n": 0}, 400, "n", "invalid_value"),
    (CHAT, {"n": 65}, 400, "n", "invalid_value"),
    (CHAT, {"seed": 2**63}, 400, "seed", "invalid_value"),
    (CHAT, {"stop": ""}, 400, "stop", "invalid_value"),
    (CHAT, {"stop": ["a"] * 17}, 400, "stop", "invalid_value"),
    (CHAT, {"stream_options": {"include_usage": True}}, 400, "stream_options", "invalid_value"),
    (CHAT, {"top_logprobs": 2}, 400, "top_logprobs", "invalid_value"),
    (CHAT, {"messages": []}, 400, "messages", "invalid_value"),
    (CHAT, {"messages": None}, 400, "messages", "invalid_value"),
    (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0.role", "invalid_value"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages.0.content", "missing_parameter"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "messages.0.content",
        "invalid_value",
    ),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages.0.content", "invalid_value"),
    (CHAT, {"messages": [{"role": "user", "content": "word " * 9000}]}, 400, "prompt", "context_length_exceeded"),
    (COMPLETIONS, {"prompt": None}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": []}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": [[]]}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": [1, "a"]}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": [-1]}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": [512]}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": ["a"] * 65}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"prompt": ["a"] * 33, "n": 2}, 400, "prompt", "invalid_value"),
    (COMPLETIONS, {"logprobs": True}, 400, "logprobs", "invalid_value"),
    (COMPLETIONS, {"logprobs": 21}, 400, "logprobs", "invalid_value"),
    *[
        (TRANSLATE, {side: name}, 400, side, "unknown_language")
        for side in ("source", "target")
        for name in (
            "gobbledegook",
            "xx",
            "..",
            "../../etc",
            "jav\x00",
            "e",
            "x" * 200,
            "und",
            "eng_Abcd",
            "-",
            "x-klingon",
        )
    ],
    (TRANSLATE, {"texts": []}, 400, "texts", "invalid_value"),
    (TRANSLATE, {"texts": "one"}, 400, "texts", "invalid_value"),
    (TRANSLATE, {"texts": [""]}, 400, "texts.0", "invalid_value"),
    (TRANSLATE, {"texts": ["a"] * 65}, 400, "texts", "invalid_value"),
    (TRANSLATE, {"prompt_language": "jav"}, 400, "prompt_language", "invalid_value"),
    (CLASSIFY, {"labels": ["one"]}, 400, "labels", "invalid_value"),
    (CLASSIFY, {"labels": ["same", "same"]}, 400, "labels", "invalid_value"),
    (CLASSIFY, {"labels": {"a": "same", "b": "same"}}, 400, "labels", "invalid_value"),
    (CLASSIFY, {"labels": [f"label {k}" for k in range(65)]}, 400, "labels", "invalid_value"),
    (CLASSIFY, {"prompt": "no slot"}, 400, "prompt", "invalid_value"),
    (CLASSIFY, {"prompt": "{premise} {hypothesis}"}, 400, "prompt", "invalid_value"),
    (CLASSIFY, {"prompt": None}, 400, "labels", "invalid_value"),
    (CLASSIFY, {"suite": "mood"}, 400, "suite", "invalid_value"),
    (CLASSIFY, {"suite": "mood", "labels": None, "prompt": None}, 400, "suite", "invalid_value"),
    (CLASSIFY, {"scorer": "guess"}, 400, "scorer", "invalid_value"),
    (CLASSIFY, {"scorer": "batch"}, 400, "scorer", "invalid_value"),
    (CLASSIFY, {"texts": [{"text": ""}, 5]}, 400, "texts", "invalid_value"),
    (SCORE, {"continuations": []}, 400, "continuations", "invalid_value"),
    (SCORE, {"continuations": [""]}, 400, "continuations.0", "invalid_value"),
    (SCORE, {"continuations": ["word " * 600]}, 400, "max_tokens", "context_length_exceeded"),
]


@pytest.mark.parametrize(("route", "change", "status", "param", "code"), BAD)
def test_a_bad_parameter_is_named(api, route, change, status, param, code):
    body = json.dumps(GOOD[route] | change)
    response = api.post(route, content=body, headers={"content-type": "application/json"})
    error = error_of(response, status)
    assert (error["param"], error["code"]) == (param, code)
    assert "secretive" not in response.text
    assert len(error["message"]) < 400
    assert error["message"].isprintable()


@pytest.mark.parametrize(
    ("route", "change"),
    [
        (COMPLETIONS, {"prompt": "\udc00"}),
        (COMPLETIONS, {"prompt": ["a", "\udc00"]}),
        (COMPLETIONS, {"stop": "\udc00"}),
        (TRANSLATE, {"texts": ["\udc00"]}),
        (TRANSLATE, {"source": "\udc00"}),
        (CLASSIFY, {"texts": ["\udc00"]}),
        (CLASSIFY, {"texts": [{"text": "\udc00"}]}),
        (CLASSIFY, {"labels": ["yes", "\udc00"]}),
        (CLASSIFY, {"labels": {"yes": "yes", "\udc00": "no"}}),
        (CLASSIFY, {"prompt": "\udc00{text}"}),
        (SCORE, {"prompt": "\udc00"}),
        (SCORE, {"continuations": ["\udc00"]}),
        (SCORE, {"\udc00": 1}),
    ],
)
def test_half_a_surrogate_pair_is_no_text(api, route, change):
    body = json.dumps(GOOD[route] | change)
    error_of(api.post(route, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("route", GOOD)
def test_the_good_requests_are_good(api, route):
    response = api.post(route, GOOD[route])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"[]", b"null", b"5", b'{"a": 1', b"\xff\xfe", b'"text"', b"[" * 100_000, b"1" * 9999],
)
@pytest.mark.parametrize("route", GOOD)
def test_a_body_that_is_no_json_object_is_refused(api, route, body):
    error_of(api.post(route, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_of_another_type_is_refused(api, kind):
    headers = {"content-type": kind} if kind else {}
    error_of(api.post(CHAT, content=json.dumps(GOOD[CHAT]).encode(), headers=headers), 400)


def parts(size):
    for _ in range(size // 100_000):
        yield b" " * 100_000


@pytest.mark.parametrize("parser", ["h11", "httptools"])
@pytest.mark.parametrize("content", [b" " * 10_000_000, pytest.param(lambda: parts(10_000_000), id="chunked")])
def test_ten_megabytes_are_refused_while_they_come(api, content, parser):
    with serving(api.app, parser) as url:
        content = content() if callable(content) else content
        response = httpx.post(url + CHAT, content=content, headers={"content-type": "application/json"})
        assert error_of(response, 413)["code"] == "request_too_large"
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_body_just_below_the_limit_is_read(api):
    padding = json.dumps(GOOD[CHAT] | {"user": "x" * 990_000})
    assert len(padding) < 1_000_000
    response = api.post(CHAT, content=padding, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text


def test_a_false_length_is_no_way_around_the_limit(api):
    host = httpx.URL(api.url)
    connection = http.client.HTTPConnection(host.host, host.port, timeout=30)
    connection.request(
        "POST", CHAT, body=b"{}", headers={"content-length": "9" * 300, "content-type": "application/json"}
    )
    assert connection.getresponse().status in (400, 413)


def test_control_characters_in_a_text_are_text(api):
    text = "".join(map(chr, range(32))) + "\x7f\x85\u200b\u202e"
    response = api.post(CHAT, {"messages": [{"role": "user", "content": text}], "max_tokens": 2})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1/", "/v1/models/../models", "/v1/models/%2e%2e%2fplain", "/v1/models/%00"]
)
def test_an_unknown_address_is_told_in_the_same_shape(api, path):
    host = httpx.URL(api.url)
    connection = http.client.HTTPConnection(host.host, host.port, timeout=30)
    connection.request("GET", path)  # as it is: other clients would tidy it
    answer = connection.getresponse()
    assert answer.status == 404
    assert set(json.loads(answer.read())["error"]) == {"message", "type", "param", "code"}


def test_another_method_is_told_which_ones_there_are(api):
    response = api.get(CHAT)
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("given", ["mine-1.2_3", "x" * 65, "a b", ""])
def test_a_request_id_is_taken_over_if_it_is_harmless(api, given):
    kept = api.get("/healthz", headers={"x-request-id": given.encode()}).headers["x-request-id"]
    assert kept == given if given == "mine-1.2_3" else re.fullmatch("[0-9a-f]{32}", kept)
