"""Requests to try, one of each kind, as `curl` takes them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from ialign_ray.serving.contract import Card

Example = tuple[str, str, dict[str, Any] | None]


def requests_of(cards: Sequence[Card]) -> list[Example]:
    """(what it shows, path, body; None is a GET) for the first model, in languages that it was trained for."""
    first = cards[0]
    groups = first.details.get("languages", {})
    old, new = (next(iter(groups.get(g, [])), default) for g, default in (("L1", "eng"), ("L2", "ind")))
    ask, model = "Say hello in one sentence.", first.name
    mood = {"labels": ["good", "bad"], "prompt": "{text}\nGood or bad?"}
    return [
        ("models", "/v1/models", None),
        ("chat", "/v1/chat/completions", _chat(model, ask)),
        ("chat, streamed", "/v1/chat/completions", _chat(model, ask) | {"stream": True}),
        ("completion", "/v1/completions", {"model": model, "prompt": "Once upon", "max_tokens": 16, "logprobs": 1}),
        (
            "translation",
            "/v1/translate",
            {"model": model, "source": old, "target": new, "texts": ["The child eats rice."]},
        ),
        ("classification", "/v1/classify", {"model": model, "texts": ["What a good day."], **mood}),
        ("score", "/v1/score", {"model": model, "prompt": "The sky is", "continuations": [" blue", " loud"]}),
    ]


def curl_lines(url: str, cards: Sequence[Card], keyed: bool) -> list[str]:
    """One line for each kind of request; `$IALIGN_KEY` stands for a key where the server asks for one."""
    key = ' -H "Authorization: Bearer $IALIGN_KEY"' if keyed else ""
    return [_curl(url + path, body, key) for _, path, body in requests_of(cards)]


def _chat(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 32}


def _curl(address: str, body: dict[str, Any] | None, key: str) -> str:
    if body is None:
        return f"curl -s {address}{key}"
    flags = "-sN" if body.get("stream") else "-s"
    sent = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {flags} {address}{key} -H 'Content-Type: application/json' -d {sent}"
