"""Bodies that ask for far more than they hold: hand-made, one of each kind or as many as wanted at random."""

import json
import random
from collections.abc import Iterator

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CLASSIFY, SCORE, TRANSLATE = "/v1/classify", "/v1/score", "/v1/translate"
BODY = 990_000
"""Bytes of the largest ones, just below the limit of a body."""
LETTERS = ("a", " ", "word ", "ก", "𝔄", "\n", "0", "()", "e\u0301")
UNKNOWN = ("{0}", "{text.x}", "{text!r}", "{text:>99999999}", "{text[0]}", "{text.__class__.__mro__}", "{ text }")


def _long(random, most=BODY):
    """A text of up to `most` bytes of JSON."""
    letter = random.choice(LETTERS)
    return letter * (random.randint(most // 4, most) // len(json.dumps(letter)[1:-1]))


def _question(prompt, texts, labels=("yes", "no"), **more):
    return CLASSIFY, {"texts": texts, "labels": list(labels), "prompt": prompt} | more


def _words(random, count, size):
    return [f"{i} " + random.choice(LETTERS[:3]) * size for i in range(count)]


KINDS = {
    "a slot named thousands of times": lambda r: _question(
        "{text} " * r.randint(65, 100_000), ["x" * r.randint(1, 9999)]
    ),
    "a slot named 64 times, long texts": lambda r: _question(
        "{text} " * 64, _words(r, r.randint(1, 60), r.randint(100, 9999))
    ),
    "many slots": lambda r: _question(
        "".join(f"{{{c}}}" for c in "abcdefgh") * 8, [dict.fromkeys("abcdefgh", "x" * r.randint(1, 99_000))]
    ),
    "an unknown slot": lambda r: _question("{text} " + r.choice(UNKNOWN), ["a"]),
    "an unknown slot that a text names": lambda r: _question(s := r.choice(UNKNOWN), [{s[1:-1]: "a"}]),
    "a prompt of braces": lambda r: _question(
        "{text}" + r.choice(("{", "{}", "{ ", '{"a": 1}', "}")) * r.randint(1, 200_000), ["a"]
    ),
    "a long prompt": lambda r: _question("{text}" + _long(r), ["a"] * r.randint(1, 64)),
    "a long text of a suite": lambda r: (CLASSIFY, {"model": "trained", "suite": "mood", "texts": [_long(r)]}),
    "long labels, many texts": lambda r: _question("{text}", ["a"] * 64, _words(r, 64, r.randint(100, 7000))),
    "an object of many labels": lambda r: (
        CLASSIFY,
        {"texts": ["a"], "labels": {str(i): r.choice((5, "x")) for i in range(60_000)}, "prompt": "{text}"},
    ),
    "a text of many slots": lambda r: _question("{text}", [{str(i): r.choice((5, "x")) for i in range(60_000)}]),
    "one question after another": lambda r: _question("{text}" + "x " * 2000 + str(r.random()), ["a"]),
    "a long message": lambda r: (
        CHAT,
        {"model": r.choice(("plain", "chat", "roomy")), "messages": [{"role": "user", "content": _long(r)}]},
    ),
    "many messages": lambda r: (
        CHAT,
        {"model": r.choice(("plain", "chat")), "messages": [{"role": "user", "content": ""}] * r.randint(1000, 25_000)},
    ),
    "many parts": lambda r: (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * r.randint(1000, 25_000)}]},
    ),
    "many wrong messages": lambda r: (CHAT, {"messages": [r.choice((1, {}, [], {"role": "x"}))] * 200_000}),
    "many unknown parameters": lambda r: (
        CHAT,
        {"messages": [{"role": "user", "content": "a"}]} | {f"p{i}": 1 for i in range(60_000)},
    ),
    "unknown parameters of messages": lambda r: (CHAT, {"messages": [{f"p{i}": 1 for i in range(60)}] * 1000}),
    "deep": lambda r: (CHAT, '{"messages": ' + r.choice("[{") * r.randint(1000, 400_000)),
    "a long number": lambda r: (CHAT, '{"seed": ' + "9" * r.randint(4000, 900_000) + "}"),
    "a long prompt as it is": lambda r: (COMPLETIONS, {"model": r.choice(("plain", "roomy")), "prompt": _long(r)}),
    "many prompts": lambda r: (COMPLETIONS, {"prompt": ["a"] * r.randint(65, 150_000)}),
    "many tokens": lambda r: (
        COMPLETIONS,
        {"model": r.choice(("plain", "roomy")), "prompt": [r.choice((1, 511, 512))] * r.randint(1000, 300_000)},
    ),
    "many tokens but one": lambda r: (COMPLETIONS, {"prompt": [1] * 200_000 + ["a"]}),
    "many lists of tokens": lambda r: (COMPLETIONS, {"prompt": [[1]] * r.randint(65, 200_000)}),
    "many scores": lambda r: (COMPLETIONS, {"prompt": "a", "n": 64, "max_tokens": 500, "logprobs": 20}),
    "many scores of prompts": lambda r: (
        COMPLETIONS,
        {"prompt": [[7] * 505] * 64, "max_tokens": 0, "echo": True, "logprobs": r.choice((16, 20))},
    ),
    "many scores of a chat": lambda r: (
        CHAT,
        {
            "messages": [{"role": "user", "content": "a"}],
            "n": 64,
            "max_tokens": 480,
            "logprobs": True,
            "top_logprobs": 20,
        },
    ),
    "a long translation": lambda r: (
        TRANSLATE,
        {"model": r.choice(("plain", "roomy")), "source": "eng", "target": "ind", "texts": [_long(r)]},
    ),
    "long continuations": lambda r: (SCORE, {"prompt": "a", "continuations": _words(r, 64, r.randint(100, 7000))}),
    "a long continuation": lambda r: (
        SCORE,
        {"model": r.choice(("plain", "roomy")), "prompt": "a", "continuations": [_long(r)]},
    ),
    "a long prompt to score": lambda r: (SCORE, {"prompt": _long(r), "continuations": ["a"], "raw": r.random() < 0.5}),
}


def bombs(count: int, seed: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """Yield (kind, route, body): every kind in turn until there are `count`."""
    draw, kinds = random.Random(seed), list(KINDS)
    for i in range(count):
        kind = kinds[i % len(kinds)]
        route, body = KINDS[kind](draw)
        yield kind, route, (body if isinstance(body, str) else json.dumps(body)).encode()
