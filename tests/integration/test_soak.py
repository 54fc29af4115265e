"""Half an hour of everything: mixed routes, versions that move, clients that leave, bodies that ask for too much.

`IALIGN_SOAK_MINUTES` changes how long; `IALIGN_SOAK_RESULT` names a file for the figures (`make soak`).
"""

import collections
import json
import os
import random
import shutil
import threading
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import psutil
import pytest
from bombs import bombs
from runs import BEST, WEAK

from ialign_ray.config import ScalingConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.registry.promotion import promote, roll_back
from ialign_ray.registry.store import Registry
from ialign_ray.serving.api import add_key, new_key

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(3 * 3600)]
MINUTES = float(os.environ.get("IALIGN_SOAK_MINUTES", "30"))
CLIENTS, EVERY_S = 6, 5.0
CHAT = {"messages": [{"role": "user", "content": "Say it in one sentence."}], "max_tokens": 12}
ROUTES = {
    "chat": ("/v1/chat/completions", CHAT),
    "choices": ("/v1/chat/completions", CHAT | {"n": 4, "logprobs": True, "top_logprobs": 3}),
    "stream": ("/v1/chat/completions", CHAT | {"stream": True}),
    "completions": ("/v1/completions", {"prompt": ["One", "Two"], "max_tokens": 6, "echo": True, "logprobs": 2}),
    "translate": ("/v1/translate", {"source": "eng", "target": "ind", "texts": ["One house."] * 3, "max_tokens": 8}),
    "classify": ("/v1/classify", {"texts": ["Good."] * 4, "labels": ["good", "bad"], "prompt": "{text} It is"}),
    "score": ("/v1/score", {"prompt": "The sky is", "continuations": [" blue", " loud"]}),
}
MODELS = ["champion", "base", "mine/1", "mine/2", "mine/3", "mine/4"]
"""More versions than `max_adapters`, so that adapters come and go."""


class Traffic:
    """Clients, and what they were answered."""

    def __init__(self, url, secret):
        self.url, self.headers = url, {"authorization": f"Bearer {secret}"}
        self.ending, self.statuses, self.errors = threading.Event(), collections.Counter(), []
        self.threads = [threading.Thread(target=self._ask, args=(k,)) for k in range(CLIENTS)]
        self.threads.append(threading.Thread(target=self._bomb))

    def _ask(self, seed):
        draw = random.Random(seed)
        with httpx.Client(timeout=120, headers=self.headers) as client:
            while not self.ending.is_set():
                kind = draw.choice(list(ROUTES))
                path, body = ROUTES[kind]
                body = body | {"model": draw.choice(MODELS)}
                if kind == "stream" and draw.random() < 0.3:
                    with client.stream("POST", self.url + path, json=body) as stream:
                        next(stream.iter_lines(), None)  # and leave
                    self.statuses["left"] += 1
                else:
                    self._note(kind, client.post(self.url + path, json=body))

    def _bomb(self):
        headers = {"content-type": "application/json"} | self.headers
        with httpx.Client(timeout=120, headers=headers) as client:
            for kind, path, body in bombs(10**9):
                if self.ending.wait(1.0):
                    return
                self._note(kind, client.post(self.url + path, content=body))

    def _note(self, kind, answer):
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500 or ('"error"' in answer.text[:20] and answer.status_code == 200):
            self.errors.append((kind, answer.status_code, answer.text[:300]))


def measured():
    """Of each process of Serve: megabytes, open files and threads."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        for kind in ("ServeReplica:ialign", "ProxyActor", "ServeController"):
            if title.startswith(f"ray::{kind}"):
                # a title goes on with what the process does at the moment
                name = title.removeprefix("ray::").split(".")[0].split()[0]
                numbers = (process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
                found[f"{name} {process.pid}"] = numbers
    return found


def trend(samples):
    """Start and end of each number after the first fifth, and the slope an hour, for each process."""
    times = np.array([when for when, _ in samples])
    late = times >= times[0] + (times[-1] - times[0]) / 5
    rows = {}
    for name in samples[-1][1]:
        own = np.array([found.get(name, (np.nan,) * 3) for _, found in samples])[late]
        slopes = [np.polyfit(times[late] / 3600, column, 1)[0] for column in own.T]
        rows[name] = {
            what: {
                "start": round(float(own[0, k]), 1),
                "end": round(float(own[-1, k]), 1),
                "an_hour": round(slopes[k], 2),
            }
            for k, what in enumerate(("megabytes", "files", "threads"))
        }
    return rows


def test_half_an_hour_of_everything(ray_cluster, library, tmp_path, monkeypatch):
    from ialign_ray.serving.deployment import running

    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(library / "runs" / "mlflow.db", tmp_path / "mlflow.db")
    registry = Registry(str(tmp_path))
    promote(registry, "mine", WEAK)
    secret, entry = new_key("all", requests_per_minute=10**6, tokens_per_minute=10**9)
    add_key(tmp_path / "keys.yaml", entry)
    settings = ServeConfig(
        port=0, replicas=(2, 2), follow_s=0.5, max_adapters=2, keys=str(tmp_path / "keys.yaml"), limits={"queue": 64}
    )
    samples, moves = [], 0
    with running(settings, registry.uri, ScalingConfig()) as url:
        traffic = Traffic(url, secret)
        for thread in traffic.threads:
            thread.start()
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + 60 * MINUTES:
            samples.append((now, measured()))
            if moves % 2:
                roll_back(registry, "mine")
            else:
                promote(registry, "mine", BEST)
            moves += 1
            time.sleep(EVERY_S)
        traffic.ending.set()
        for thread in traffic.threads:
            thread.join(130)
        samples.append((time.monotonic(), measured()))
    statuses = {str(status): count for status, count in sorted(traffic.statuses.items(), key=str)}
    result = {"minutes": MINUTES, "promotions": moves, "statuses": statuses, "processes": trend(samples)}
    text = json.dumps(result, indent=2)
    print(text)
    if file := os.environ.get("IALIGN_SOAK_RESULT"):
        Path(file).write_text(text + "\n")
    assert traffic.errors == []
    assert traffic.statuses[200] > 10 * MINUTES
    if MINUTES >= 10:  # shorter, the slope is that of the first requests
        for name, numbers in result["processes"].items():
            assert numbers["megabytes"]["an_hour"] < 100, (name, numbers)
            assert numbers["files"]["end"] <= numbers["files"]["start"] + 20, (name, numbers)
            assert numbers["threads"]["end"] <= numbers["threads"]["start"] + 10, (name, numbers)
