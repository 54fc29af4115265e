"""One key that floods the server does not stop the others."""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx2 as httpx
import pytest
from serving_app import error_of, running, until

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.serving.api import KeyRing, new_key
from ialign_ray.serving.api.shares import FairGate, Shares

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
BODY_SECONDS = 3.0
ASK = {"messages": [{"role": "user", "content": "a"}], "temperature": 0, "max_tokens": 8}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_a_key_leaves_places_to_those_that_share():
    now = [0.0]
    shares = Shares(12, several=True, clock=lambda: now[0])
    assert [shares.take("flood") for _ in range(12)].count(True) == 9
    assert [shares.take("quiet") for _ in range(12)].count(True) == 3  # all are taken now
    for _ in range(9):
        shares.give("flood")
    assert [shares.take("flood") for _ in range(12)].count(True) == 6  # a half, beside the other
    for _ in range(3):
        shares.give("quiet")
    assert not shares.take("flood")
    now[0] = 31.0  # the other one has not asked for half a minute
    assert [shares.take("flood") for _ in range(12)].count(True) == 3
    assert Shares(3, several=False).allowed("") == 3
    alone = Shares(3, several=False)
    assert [alone.take("") for _ in range(5)].count(True) == 3


def test_what_is_kept_of_keys_is_bounded_by_time():
    now = [0.0]
    shares = Shares(12, several=True, clock=lambda: now[0])
    for i in range(1000):
        now[0] = float(i)
        shares.take(f"key {i}")
        shares.give(f"key {i}")
    assert len(shares._seen) < 40
    assert not shares.held


async def hold(gate, name, log, ends):
    async with gate.place(name):
        log.append(name)
        await ends.wait()


async def test_keys_take_turns_at_the_gate():
    gate, log, ends = FairGate(8), [], asyncio.Event()
    flood = [asyncio.create_task(hold(gate, "a", log, ends)) for _ in range(30)]
    await asyncio.sleep(0)
    assert log == ["a"] * 6
    other = [asyncio.create_task(hold(gate, "b", log, ends)) for _ in range(30)]
    await asyncio.sleep(0)
    assert log.count("b") == 2  # what the first one had left
    ends.set()
    await asyncio.gather(*flood, *other)
    assert log.index("b", 8) < 16  # not behind all of the first one's
    assert len(log) == 60
    assert not gate._waiting
    assert not gate._shares.held


async def test_a_quiet_key_finds_a_place_at_once():
    gate, log, ends = FairGate(8), [], asyncio.Event()
    async with gate.place("quiet"):
        pass
    flood = [asyncio.create_task(hold(gate, "a", log, ends)) for _ in range(30)]
    await asyncio.sleep(0)
    assert log == ["a"] * 2
    async with asyncio.timeout(1), gate.place("quiet"):
        pass
    ends.set()
    await asyncio.gather(*flood)


async def test_who_leaves_the_queue_leaves_nothing():
    gate, log, ends = FairGate(4), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(gate, "a", log, ends)) for _ in range(9)]
    await asyncio.sleep(0)
    for task in tasks[5:]:
        task.cancel()
    for task in tasks[:2]:
        task.cancel()
    await asyncio.sleep(0)
    ends.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(each, asyncio.CancelledError) for each in found) == 6
    assert not gate._waiting
    assert not gate._shares.held


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def shared(tiny_model, tiny_tokenizer):
    keys = [new_key("flood"), new_key("quiet")]
    limits = LimitsConfig(body_s=BODY_SECONDS, bodies=80, queue=40)
    settings = ServeConfig(limits=limits, max_batch=8)
    with running(tiny_model, tiny_tokenizer, settings, KeyRing([entry for _, entry in keys])) as api:
        yield api, keys[0][0], keys[1][0]


@contextmanager
def half_sent(api, secret, count):
    """Connections that begin a body and leave it there."""
    url = httpx.URL(api.url)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n"
    head += f"Authorization: Bearer {secret}\r\n\r\n"
    with ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection((url.host, url.port))) for _ in range(count)]
        for connection in connections:
            connection.sendall(head.encode() + b'{"messages": ')
        time.sleep(0.3)
        yield connections


def status(connection):
    connection.settimeout(20)
    return int(connection.recv(4096).split()[1])


def test_half_sent_bodies_of_one_key_hold_nobody(shared, monkeypatch):
    api, flood, quiet = shared
    bodies, held = api.service.bodies, []

    def take(name, own=bodies.take):
        taken = own(name)
        held.append(bodies.held["flood"])
        return taken

    monkeypatch.setattr(bodies, "take", take)
    with half_sent(api, flood, 150) as connections:
        until(lambda: bodies.held["flood"] > 20)
        assert api.post(CHAT, ASK, headers=bearer(quiet)).status_code == 200
        assert bodies.held["flood"]  # it did not wait for them to end
        assert not api.service.queue.held["flood"]  # they wait for no model
        found = [status(connection) for connection in connections]
    assert set(found) == {408, 429}
    assert found.count(408) >= 40
    assert 40 <= max(held) <= 60  # of 80 places, at any moment
    until(lambda: not bodies.held)


def test_a_body_that_drips_is_over_in_time(shared):
    api, _, quiet = shared
    url = httpx.URL(api.url)
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n"
        connection.sendall(f"{head}Authorization: Bearer {quiet}\r\n\r\n".encode())
        for _ in range(24):
            connection.sendall(b" ")
            time.sleep(BODY_SECONDS / 20)
        assert status(connection) == 408
    until(lambda: not api.service.bodies.held)


FLOOD = """
import http.client, sys, threading
host, port, path, secret, body = sys.argv[1:]
headers = {"content-type": "application/json", "authorization": f"Bearer {secret}"}

def ask():
    while True:
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            while True:
                connection.request("POST", path, body, headers)
                connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            connection.close()

for _ in range(30):
    threading.Thread(target=ask).start()
"""


@contextmanager
def flooding(api, secret, body):
    """30 clients of another process that ask again at once, whatever the answer."""
    url = httpx.URL(api.url)
    command = ["nice", "-n", "10", sys.executable, "-c", FLOOD, url.host, str(url.port), CHAT, secret, json.dumps(body)]
    process = subprocess.Popen(command)
    try:
        time.sleep(1)
        yield
    finally:
        process.kill()
        process.wait()


def seconds(api, secret, count):
    taken = []
    with httpx.Client(timeout=60) as client:
        for _ in range(count):
            begin = time.monotonic()
            assert client.post(api.url + CHAT, json=ASK, headers=bearer(secret)).status_code == 200
            taken.append(time.monotonic() - begin)
    return taken


def test_a_key_that_floods_the_queue_leaves_places(shared):
    api, flood, quiet = shared
    long = ASK | {"max_tokens": 20, "temperature": 1.0}
    with ThreadPoolExecutor(45) as pool:
        asked = [pool.submit(api.post, CHAT, long, headers=bearer(flood)) for _ in range(45)]
        until(lambda: api.service.queue.held["flood"] >= 20)
        begin = time.monotonic()
        assert api.post(CHAT, ASK, headers=bearer(quiet)).status_code == 200
        mine = time.monotonic() - begin
        answers = [one.result() for one in asked]
    assert mine < (time.monotonic() - begin) / 3  # not behind them
    refused = [a for a in answers if a.status_code != 200]
    assert refused
    assert {error_of(a, 429)["code"] for a in refused} == {"server_busy"}
    api.quiet()


FLOODS = {
    "requests": ASK,
    "long answers": ASK | {"max_tokens": 400},
    "choices": ASK | {"n": 40, "max_tokens": 60, "temperature": 1.0},
    "long prompts": ASK | {"messages": [{"role": "user", "content": "word " * 80}], "max_tokens": 1},
    "half-sent bodies": None,
}


@pytest.mark.nightly
@pytest.mark.parametrize("kind", FLOODS)
def test_the_quiet_key_answers_as_fast_as_alone(shared, kind):
    """Its 99th percentile within three times what it is alone."""
    api, flood, quiet = shared
    seconds(api, quiet, 5)
    alone = statistics.quantiles(seconds(api, quiet, 100), n=100)[98]
    body = FLOODS[kind]
    with half_sent(api, flood, 300) if body is None else flooding(api, flood, body):
        beside = statistics.quantiles(seconds(api, quiet, 100), n=100)[98]
    print(json.dumps({"kind": kind, "alone": alone, "beside": beside}))
    assert beside <= 3 * alone, (alone, beside)
