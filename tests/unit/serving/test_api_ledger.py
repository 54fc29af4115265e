"""Limits of keys hold at the same time, over replicas, and without the ledger that they share."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving_app import error_of, running, until

from ialign_ray.serving import ledger as ledgers
from ialign_ray.serving.api import KeyRing, new_key
from ialign_ray.serving.keys import digest_of
from ialign_ray.serving.ledger import KeyLedger, LostCounterError, SharedCounter

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "a"}], "temperature": 0}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def test_tokens_a_minute_hold_for_requests_at_the_same_time(tiny_model, tiny_tokenizer):
    secret, entry = new_key("k", tokens_per_minute=400)
    with running(tiny_model, tiny_tokenizer, keys=KeyRing([entry])) as api, ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(api.post, CHAT, ASK | {"max_tokens": 60}, headers=bearer(secret)) for _ in range(40)]
        answers = [one.result() for one in asked]
        assert {a.status_code for a in answers} == {200, 429}
        spent = sum(a.json()["usage"]["total_tokens"] for a in answers if a.status_code == 200)
        assert 0 < spent <= 400 * 1.2  # some are refilled while it runs
        assert error_of(next(a for a in answers if a.status_code == 429), 429)["code"] == "rate_limit_exceeded"


def test_what_was_reserved_and_not_used_is_given_back(tiny_model, tiny_tokenizer):
    secret, entry = new_key("k", tokens_per_minute=1000)
    routes = {
        CHAT: ASK | {"max_tokens": 400, "stop": ["e", "a", "o", " "]},
        "/v1/completions": {"prompt": "a", "max_tokens": 400, "stop": ["e", "a", "o", " "]},
        "/v1/translate": {"source": "eng", "target": "ind", "texts": ["a"], "max_tokens": 400, "stop": [" "]},
        "/v1/classify": {"texts": ["a"], "labels": ["yes", "no"], "prompt": "{text}?"},
        "/v1/score": {"prompt": "a", "continuations": ["b"]},
    }
    with running(tiny_model, tiny_tokenizer, keys=KeyRing([entry])) as api:
        ledger = api.service.counter._ledger
        for path, body in routes.items():
            before = ledger.reserve(entry, 0) and ledger._buckets["k", "tokens"].level
            answer = api.post(path, body, headers=bearer(secret))
            assert answer.status_code == 200, answer.text
            used = answer.json()["usage"]["total_tokens"]
            until(lambda at=before, used=used: ledger._buckets["k", "tokens"].level >= min(1000, at) - used - 1)
        error_of(api.post(CHAT, ASK | {"max_tokens": 0}, headers=bearer(secret)), 400)  # costs nothing
        assert api.post(CHAT, ASK | {"max_tokens": 400}, headers=bearer(secret)).status_code == 200


class Handle:
    """What a handle of Ray Serve is to its caller, over a ledger that may be lost."""

    def __init__(self, ledger):
        self.ledger, self.down, self.asked = ledger, False, 0

    def __getattr__(self, name):
        handle = self

        class Method:
            async def remote(self, *arguments):
                handle.asked += 1
                if handle.down == "silent":
                    await asyncio.sleep(60)
                if handle.down:
                    raise RuntimeError("the actor died")
                return getattr(handle.ledger, name)(*arguments)

        return Method()


def replicas(count, ring, handle, *, alone=True):
    return [SharedCounter(handle, KeyLedger(ring, part=1 / count) if alone else None) for _ in range(count)]


async def admitted(counters, digest, times):
    found = [await counters[i % len(counters)].enter(digest) for i in range(times)]
    return sum(not one.wait for one in found if one.key)


async def test_replicas_count_together():
    secret, entry = new_key("k", requests_per_minute=6, tokens_per_minute=100)
    ring = KeyRing([entry])
    handle = Handle(KeyLedger(ring))
    three = replicas(3, ring, handle)
    assert await admitted(three, digest_of(secret), 30) == 6
    first = await three[0].reserve(entry, 80)
    assert (await three[1].reserve(entry, 80)).wait > 0
    await three[2].settle(entry, first.ledger, 80, 10)
    assert not (await three[1].reserve(entry, 80)).wait


async def test_a_key_that_is_removed_stops_for_all_replicas_at_once():
    secret, entry = new_key("k")
    ring = KeyRing([entry])
    handle = Handle(KeyLedger(ring))
    two = replicas(2, ring, handle)
    assert await admitted(two, digest_of(secret), 4) == 4
    handle.ledger.keys = KeyRing([])
    assert await admitted(two, digest_of(secret), 4) == 0


@pytest.mark.parametrize("down", [True, "silent"])
async def test_without_the_ledger_each_replica_keeps_to_its_part(down, monkeypatch, caplog):
    monkeypatch.setattr(ledgers, "_PATIENCE_S", 0.02)
    secret, entry = new_key("k", requests_per_minute=30)
    ring = KeyRing([entry])
    handle = Handle(KeyLedger(ring))
    handle.down = down
    three = replicas(3, ring, handle)
    assert await admitted(three, digest_of(secret), 90) == 30
    assert handle.asked == 3  # once by each; then not for some seconds
    assert len(caplog.records) == 3
    refused = await three[0].enter(digest_of(secret))
    assert refused.limit == "30 requests a minute"
    with pytest.raises(LostCounterError):
        await replicas(1, ring, handle, alone=False)[0].enter(digest_of(secret))


async def test_a_ledger_in_the_place_of_a_lost_one_begins_empty(monkeypatch):
    monkeypatch.setattr(ledgers, "_AWAY_S", 0.0)
    secret, entry = new_key("k", requests_per_minute=60)
    ring = KeyRing([entry])
    handle = Handle(KeyLedger(ring))
    two = replicas(2, ring, handle)
    assert await admitted(two, digest_of(secret), 80) == 60
    handle.ledger = KeyLedger(ring)  # restarted at once: nobody saw it away
    assert await admitted(two, digest_of(secret), 80) <= 2
    assert (await two[0].enter(digest_of(secret))).wait == pytest.approx(1, abs=0.2)


async def test_a_changed_limit_gives_nothing_back():
    secret, entry = new_key("k", requests_per_minute=5)
    ledger = KeyLedger(KeyRing([entry]))
    for _ in range(5):
        ledger.enter(digest_of(secret))
    ledger.keys = KeyRing([entry.model_copy(update={"requests_per_minute": 50})])
    assert ledger.enter(digest_of(secret)).wait > 0


def test_a_lost_ledger_that_refuses_is_503(tiny_model, tiny_tokenizer):
    secret, entry = new_key("k")
    ring = KeyRing([entry])
    handle = Handle(KeyLedger(ring))
    handle.down = True
    with running(tiny_model, tiny_tokenizer, keys=ring) as api:
        api.service.counter = SharedCounter(handle, None)
        assert error_of(api.post(CHAT, ASK, headers=bearer(secret)), 503)["code"] == "not_ready"
