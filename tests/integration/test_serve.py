"""A deployed champion: real HTTP through Ray Serve, two replicas, promotions and faults while clients ask."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time

import httpx2 as httpx
import openai
import psutil
import pytest
from load import Load, ask, question, until
from runs import BEST, WEAK

from ialign_ray.config import ScalingConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ClusterError
from ialign_ray.registry.promotion import promote, roll_back
from ialign_ray.registry.reference import resolve
from ialign_ray.serving.examples import requests_of, try_requests
from ialign_ray.serving.model_sources import locate

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUEUE = 24


class Deployed:
    def __init__(self, url, registry):
        self.url, self.registry = url, registry
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def text_of(self, model, tokens=12):
        """What a version says; it is the same at every request."""
        with httpx.Client(timeout=60) as client:
            found = ask(client, self.url, question(model, tokens))
        assert found.status == 200
        return found.text

    def texts(self):
        return {f"mine/{n}": self.text_of(f"mine/{n}") for n in (WEAK, BEST)}


@pytest.fixture(scope="module")
def deployed(library, tmp_path_factory, ray_cluster):
    from ialign_ray.registry.store import Registry
    from ialign_ray.serving.deployment import running

    folder = tmp_path_factory.mktemp("deployed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IALIGN_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copy(library / "runs" / "mlflow.db", folder / "mlflow.db")
        registry = Registry(str(folder))
        promote(registry, "mine", WEAK)
        settings = ServeConfig(
            port=0, replicas=(2, 2), follow_s=0.5, drain_s=20, max_adapters=2, limits={"queue": QUEUE}
        )
        with running(settings, registry.uri, ScalingConfig()) as url:
            yield Deployed(url, registry)


@pytest.fixture
def champion(deployed):
    """The deployment with version 1 as champion at every replica."""
    if deployed.registry.aliases("mine")["champion"] != WEAK:
        roll_back(deployed.registry, "mine", WEAK)
    with Load(deployed.url, 2) as load:
        until(lambda: len(load.answers) > 12 and set(load.versions(12)) == {"mine/1"})
    return deployed


def processes(title):
    """Processes of Ray actors whose title begins so."""
    return [
        p for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or []).startswith(f"ray::{title}")
    ]


def test_every_kind_of_request_is_answered(champion):
    cards = [locate("champion", champion.registry.uri).info()]
    with httpx.Client(base_url=champion.url, timeout=60) as client:
        for kind, path, body in requests_of(cards):
            found = client.get(path) if body is None else client.post(path, json=body)
            assert found.status_code == 200, (kind, found.text)
            if body is not None:
                assert found.headers["x-model-version"] == "mine/1", kind
        listed = {m["id"]: m for m in client.get("/v1/models").json()["data"]}
        assert list(listed)[:2] == ["champion", "base"]
        assert {"mine/1", "mine/2", "mine/3", "mine/4"} < set(listed)
        assert client.get("/metrics").status_code == client.get("/docs").status_code == 200
    told = dict(line.split(": ", 1) for line in try_requests(champion.url, cards))
    assert list(told) == [kind for kind, _, _ in requests_of(cards)]
    assert told["models"].startswith("champion, base")
    assert "eng" in told["translation"]


def test_openais_client_chats_streams_and_is_refused_as_it_expects(champion):
    asked = question("champion", 12)
    whole = champion.client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert whole.choices[0].message.content == champion.text_of("mine/1")
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens == 12
    pieces = champion.client.chat.completions.create(**asked, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="not served here"):
        champion.client.chat.completions.create(**question("../../etc/passwd", 12))
    with pytest.raises(openai.BadRequestError):
        champion.client.chat.completions.create(model="champion", messages=[])


def test_lm_evaluation_harness_scores_the_champion_as_its_adapter_on_disk(champion, tiny_model_folder):
    """Through `local-completions`, and through the harness' own model with PEFT."""
    pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    folder = resolve("mine/1", champion.registry).folder
    local = HFLM(pretrained=str(tiny_model_folder), peft=str(folder), device="cpu", max_length=512)
    remote = LocalCompletionsAPI(
        model="champion", base_url=f"{champion.url}/v1/completions", tokenizer=str(tiny_model_folder), max_length=512
    )
    pairs = [(f"Sentence {k}: the price is", rest) for k in range(3) for rest in (" high", " low")]
    asked = [Instance("loglikelihood", {}, arguments=pair, idx=k) for k, pair in enumerate(pairs)]
    here, there = (model.loglikelihood(asked) for model in (local, remote))
    assert [score for score, _ in there] == pytest.approx([score for score, _ in here], abs=1e-3)
    assert [greedy for _, greedy in there] == [greedy for _, greedy in here]


def test_no_request_fails_or_mixes_versions_while_the_champion_moves_forth_and_back(champion):
    texts = champion.texts()
    assert len(set(texts.values())) == 2
    with Load(champion.url, 8) as load:
        for _ in range(2):
            promote(champion.registry, "mine", BEST)
            until(lambda: set(load.versions(24)) == {"mine/3"})
            roll_back(champion.registry, "mine")
            until(lambda: set(load.versions(24)) == {"mine/1"})
    assert load.lost == []
    assert load.mixed(texts) == []
    print(f"promotion: {len(load.answers)} requests, 4 moves, {len(load.lost)} failed, 0 mixed")


def test_a_full_queue_is_answered_429_with_a_time_to_come_again(champion):
    with Load(champion.url, 3 * 2 * QUEUE, tokens=200) as load:
        until(lambda: sum(a.status == 429 for a in load.answers) > 20)
    statuses = {a.status for a in load.answers}
    assert statuses == {200, 429}
    assert all(int(a.retry_after) >= 1 for a in load.answers if a.status == 429)
    assert champion.text_of("champion") == champion.text_of("mine/1")


def test_adapters_whose_files_are_deleted_go_on(champion):
    before = champion.text_of("champion")
    shutil.rmtree(os.environ["IALIGN_CACHE"])
    assert champion.text_of("champion") == before
    # what is not in memory is fetched again
    assert {champion.text_of(f"mine/{n}") for n in (2, 3, 4)} != {before}
    assert champion.text_of("mine/1") == before


def test_requests_of_a_killed_replica_are_answered_when_tried_again(champion):
    texts = champion.texts()
    killed = processes("ServeReplica:ialign")
    assert len(killed) == 2
    with Load(champion.url, 6, retries=5) as load:
        until(lambda: len(load.answers) > 20)
        killed[0].send_signal(signal.SIGKILL)
        until(lambda: len(load.failures) > 0 or len(load.answers) > 400)
        so_far = len(load.answers)
        until(lambda: len(load.answers) > so_far + 100)
        until(lambda: len(processes("ServeReplica:ialign")) == 2)
    assert load.lost == []
    assert load.mixed(texts) == []
    assert {a.status for a in load.failures} <= {0, 500, 503}
    # at most what the replica was answering, and what was sent to it before it was missed
    print(f"replica killed: {len(load.answers)} requests, {len(load.failures)} failed at first, 0 lost")


def test_a_killed_controller_is_not_noticed_by_clients(champion):
    texts = champion.texts()
    (controller,) = processes("ServeController")
    with Load(champion.url, 4) as load:
        until(lambda: len(load.answers) > 20)
        controller.send_signal(signal.SIGKILL)
        until(lambda: processes("ServeController") and processes("ServeController")[0].pid != controller.pid)
        so_far = len(load.answers)
        until(lambda: len(load.answers) > so_far + 50)
        promote(champion.registry, "mine", BEST)
        until(lambda: set(load.versions(24)) == {"mine/3"})
    assert load.lost == []
    assert load.mixed(texts) == []
    print(f"controller killed: {len(load.answers)} requests, 0 failed")


def test_the_port_is_open_again_soon_after_its_proxy_died(champion):
    texts = champion.texts()
    (proxy,) = processes("ProxyActor")
    url, gap = httpx.URL(champion.url), 0.0
    with Load(champion.url, 4, retries=9) as load:
        until(lambda: len(load.answers) > 20)
        begin = time.monotonic()
        proxy.send_signal(signal.SIGKILL)
        while not gap:
            with contextlib.suppress(OSError), socket.create_connection((url.host, url.port), 1):
                gap = time.monotonic() - begin if proxy.pid not in psutil.pids() else 0.0
            time.sleep(0.05)
        so_far = len(load.answers)
        until(lambda: len(load.answers) > so_far + 50)
    failed = len(load.failures)
    print(f"proxy killed: open after {gap:.1f} s; {len(load.answers)} requests, {failed} failed at first")
    assert gap < 15
    assert load.lost == []
    assert load.mixed(texts) == []


def test_models_that_are_served_already_are_not_replaced(champion):
    from ialign_ray.serving.deployment import running

    with (
        pytest.raises(ClusterError, match=f"already serves models, at {champion.url};.*serve delete ialign"),
        running(ServeConfig(port=0), champion.registry.uri, ScalingConfig()),
    ):
        raise AssertionError
    assert champion.text_of("champion")


def test_requests_under_way_end_when_the_deployment_is_taken_down(champion):
    from ray import serve

    expected = champion.text_of("champion", 300)
    pieces, started = [], threading.Event()

    def stream():
        body = question("champion", 300, stream=True)
        with httpx.stream("POST", f"{champion.url}/v1/chat/completions", json=body, timeout=60) as found:
            for line in found.iter_lines():
                started.set()
                if line.startswith("data: {"):
                    pieces.append(json.loads(line.removeprefix("data: "))["choices"][0])

    client = threading.Thread(target=stream)
    client.start()
    assert started.wait(30)
    serve.delete("ialign")
    client.join(60)
    assert "".join(p["delta"].get("content") or "" for p in pieces) == expected
    assert pieces[-1]["finish_reason"] is not None


def test_a_second_replica_comes_under_load(deployed):
    """Autoscaling: the test before took the deployment down, so its place is free."""
    from ray import serve

    from ialign_ray.serving.deployment import running

    settings = ServeConfig(port=0, replicas=(1, 2), max_batch=1, follow_s=0.5)
    with running(settings, deployed.registry.uri, ScalingConfig()) as url:

        def replicas():
            return serve.status().applications["ialign"].deployments["models"].replica_states.get("RUNNING", 0)

        assert replicas() == 1
        with Load(url, 6, tokens=40) as load:
            until(lambda: replicas() == 2, 180)
            before = len(load.answers)
            until(lambda: len(load.answers) > before + 30)
        assert load.lost == []
        print(f"second replica under load: {len(load.answers)} requests, 0 failed")
