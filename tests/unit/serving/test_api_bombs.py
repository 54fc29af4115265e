"""Small bodies that ask for gigabytes: what they cost is known before it is spent."""

import dataclasses
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import pytest
from bombs import KINDS, bombs
from serving_app import error_of, running, served

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.serving import chat_template
from ialign_ray.serving.api.tokeniser import LONG
from ialign_ray.serving.chat_template import ChatTemplate

CHAT, CLASSIFY = "/v1/chat/completions", "/v1/classify"


@pytest.fixture(scope="module")
def roomy(tiny_model, tiny_tokenizer):
    """A server whose model `roomy` seems to read so much that only tokens are a limit."""
    with running(tiny_model, tiny_tokenizer) as api:
        encoder = api.library.served["plain"].encoder
        api.library.served["roomy"] = dataclasses.replace(
            served(api.engine, encoder.tokenizer, "roomy"), max_positions=None
        )
        yield api


def resident(field):
    """Kilobytes of this process: VmRSS now, VmHWM at most since `Path("/proc/self/clear_refs")` was written."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


def spent(api, count, seed):
    """Send bombs; return how much memory their worst moment took, as a multiple of the memory before."""
    post = httpx.Client(timeout=60).post
    post(api.url + CHAT, json={"messages": [{"role": "user", "content": "a"}], "max_tokens": 1})
    Path("/proc/self/clear_refs").write_text("5")
    idle, found = resident("VmRSS"), []
    for kind, route, body in bombs(count, seed):
        begin = time.monotonic()
        response = post(api.url + route, content=body, headers={"content-type": "application/json"})
        found.append((kind, response.status_code, round(time.monotonic() - begin, 2), resident("VmHWM") / idle))
        assert response.status_code < 500, found[-1]
        if response.status_code != 200:
            error_of(response, response.status_code)
    return max(found, key=lambda each: each[3])


def test_bodies_that_ask_for_more_than_they_hold_cost_little(roomy):
    worst = spent(roomy, len(KINDS), 0)
    print(worst)
    assert worst[3] <= 1.2, worst


@pytest.mark.nightly
def test_a_thousand_of_them(roomy):
    worst = spent(roomy, 1000, 1)
    assert worst[3] <= 1.2, worst


@pytest.mark.parametrize("slot", ["0", "text.x", "text!r", "text:>99999999", "text[0]", " text ", "Text", "9"])
@pytest.mark.parametrize("named", [False, True])
def test_an_unknown_slot_is_named(roomy, slot, named):
    body = {"labels": ["yes", "no"], "prompt": f"{{text}} {{{slot}}}"}
    body["texts"] = [{"text": "a", slot: "b"}] if named else ["a"]
    error = error_of(roomy.post(CLASSIFY, body), 400)
    assert (error["param"], error["code"]) == ("prompt", "invalid_value")
    assert slot in error["message"]


def test_braces_that_are_no_slot_are_text(roomy):
    body = {"labels": ["yes", "no"], "texts": ["{text} {x}"], "prompt": '{text}\nAnswer as {"mood": "yes"} {}'}
    assert roomy.post(CLASSIFY, body).status_code == 200


def test_slots_times_texts_are_counted_before_they_are_filled(roomy, monkeypatch):
    monkeypatch.setattr("ialign_ray.serving.api.classify.fill", None)
    body = {"labels": ["yes", "no"], "texts": ["x" * 9000] * 4, "prompt": "{text}" * 60}
    assert error_of(roomy.post(CLASSIFY, body), 400)["param"] == "prompt"


def test_what_is_kept_of_a_question_is_small(roomy):
    body = {"labels": ["yes", "no"], "texts": ["a"], "prompt": "{text}" + "x" * 400}
    assert roomy.post(CLASSIFY, body).status_code == 200
    assert all("xxxx" not in repr(key) for key in roomy.service.priors._kept)


class Slow:
    """A tokenizer that takes its time for each text, as a thread that runs Python does."""

    def __init__(self, tokenizer, seconds=0.05):
        self._tokenizer, self._seconds, self.threads, self.texts = tokenizer, seconds, set(), 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def __len__(self):
        return len(self._tokenizer)

    def __call__(self, *given, **more):
        self.threads.add(threading.current_thread().name)
        self.texts += 1
        time.sleep(self._seconds)
        return self._tokenizer(*given, **more)


@pytest.fixture(scope="module")
def hurried(tiny_model, tiny_tokenizer):
    limits = LimitsConfig(timeout_s=0.4)
    with running(tiny_model, tiny_tokenizer, ServeConfig(limits=limits)) as api:
        yield api


def slow(api, **encoder):
    plain = api.library.served["plain"]
    tokenizer = Slow(plain.encoder.tokenizer)
    found = dataclasses.replace(plain.encoder, tokenizer=tokenizer, **encoder)
    api.library.served["slow"] = dataclasses.replace(plain, encoder=found)
    return tokenizer


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_long_texts_are_read_beside_the_event_loop(hurried, kind):
    tokenizer = slow(hurried, seq2seq=kind == "encoder-decoder")
    size = 2 * LONG if kind == "decoder" else 10
    body = {"model": "slow", "messages": [{"role": "user", "content": " " * size}], "max_tokens": 1}
    hurried.post(CHAT, body)
    assert tokenizer.threads
    assert all(name.startswith("ialign-prompts") for name in tokenizer.threads)


def test_after_a_504_nothing_goes_on(hurried):
    """Tokenising ends with the text that it is at, and what is in the engine leaves it."""
    tokenizer = slow(hurried)
    body = {"model": "slow", "source": "eng", "target": "ind", "texts": ["a " * 200] * 60, "max_tokens": 4}
    assert error_of(hurried.post("/v1/translate", body), 504)["code"] == "timeout"
    time.sleep(0.1)
    texts, tokens = tokenizer.texts, hurried.engine.stats()["tokens"]
    assert texts < 20
    time.sleep(0.2)
    assert (tokenizer.texts, hurried.engine.stats()["tokens"]) == (texts, tokens)
    hurried.quiet()


def test_the_loop_answers_while_texts_are_read(hurried):
    slow(hurried, seq2seq=True)
    body = {"model": "slow", "source": "eng", "target": "ind", "texts": ["a"] * 60, "max_tokens": 4}
    thread = threading.Thread(target=lambda: hurried.post("/v1/translate", body))
    thread.start()
    assert hurried.get("/healthz").status_code == 200
    assert thread.is_alive()  # while they are still read
    thread.join()


SLOW_FOR_SOME = (
    "{% for m in messages %}{% if m.content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% endfor %}{% endfor %}{% elif m.content == 'long' %}{{ 'a' * 9999999 }}{% endif %}{{ m.content }}{% endfor %}"
)


def test_a_template_that_loops_for_one_conversation_ends_and_holds_nobody(roomy, monkeypatch):
    monkeypatch.setattr(chat_template, "RENDER_S", 2.0)
    template = ChatTemplate(SLOW_FOR_SOME, {})
    template.check("looping")
    plain = roomy.library.served["plain"]
    encoder = dataclasses.replace(plain.encoder, chat=True, render=template.render)
    roomy.library.served["looping"] = dataclasses.replace(plain, encoder=encoder, threads=template.threads)

    def ask(content, model="looping"):
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 2}
        return roomy.post(CHAT, body)

    with ThreadPoolExecutor(2) as pool:
        for content in ("loop", "long"):
            asked = pool.submit(ask, content)
            assert ask("a", "chat").status_code == 200
            assert content == "long" or not asked.done()  # a loop renders for RENDER_S, and holds nobody
            assert "chat template" in error_of(asked.result(), 400)["message"]
    assert ask("a").status_code == 200
