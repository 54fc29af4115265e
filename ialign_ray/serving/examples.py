"""Example requests, one of each kind, sent from here or printed as `curl` lines."""

from __future__ import annotations

import json
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

from ialign_ray.errors import ClusterError
from ialign_ray.serving.protocol import ModelInfo

TIMEOUT, SHOWN = 120.0, 300

Example = tuple[str, str, dict[str, Any] | None]


def requests_of(infos: Sequence[ModelInfo]) -> list[Example]:
    """Return (title, path, body; None is a GET) for the first model, in languages that it was trained for."""
    first = infos[0]
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
            {"model": model, "source": old, "target": new, "texts": ["The child eats rice."], "max_tokens": 64},
        ),
        ("classification", "/v1/classify", {"model": model, "texts": ["What a good day."], **mood}),
        ("score", "/v1/score", {"model": model, "prompt": "The sky is", "continuations": [" blue", " loud"]}),
    ]


def curl_lines(url: str, infos: Sequence[ModelInfo], keyed: bool) -> list[str]:
    """Return one `curl` line for each kind of request, with `$IALIGN_KEY` as key if the server has keys."""
    key = ' -H "Authorization: Bearer $IALIGN_KEY"' if keyed else ""
    return [_curl(url + path, body, key) for _, path, body in requests_of(infos)]


def try_requests(url: str, infos: Sequence[ModelInfo]) -> Iterator[str]:
    """Send one request of each kind, with `$IALIGN_KEY` if it is set, and yield one line for each answer.

    Raises ClusterError with the server's message if one fails.
    """
    for what, path, body in requests_of(infos):
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("IALIGN_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(url + path, sent, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                said = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise ClusterError(f"{path} answered {error.code}: {error.read().decode()[:SHOWN]}") from error
        except OSError as error:
            raise ClusterError(f"{path} does not answer ({error}); see the logs of Ray Serve") from error
        yield f"{what}: {_short(said)}"


def _short(said: str) -> str:
    """Shorten an answer to its texts, labels and sums; a stream to its joined deltas."""
    if said.startswith("data:"):
        events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        return repr("".join(c["delta"].get("content") or "" for e in events for c in e["choices"]))
    found = json.loads(said)
    data = found.get("data")
    if data and "id" in data[0]:
        return ", ".join(info["id"] for info in data)
    if "choices" in found:
        return ", ".join(repr(c["message"]["content"] if "message" in c else c["text"]) for c in found["choices"])
    kept = {k: v for k, v in found.items() if k not in ("id", "object", "created", "model", "usage")}
    text = json.dumps(kept, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"


def _chat(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 32, "temperature": 0}


def _curl(address: str, body: dict[str, Any] | None, key: str) -> str:
    if body is None:
        return f"curl -s {address}{key}"
    flags = "-sN" if body.get("stream") else "-s"
    sent = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {flags} {address}{key} -H 'Content-Type: application/json' -d {sent}"
