"""The whole way once: align, lose a worker, resume, evaluate, register, promote, serve one request."""

import os
import signal
import threading
import time
from pathlib import Path

import httpx2 as httpx
import pytest
from rich.console import Console
from test_align import consumed_rows, expected_rows, worker_pids

from ialign_ray import align, evaluate, promote, register
from ialign_ray.config import build_experiment
from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.deployment import running
from ialign_ray.training.run_log import records

pytestmark = [pytest.mark.ray, pytest.mark.smoke]
QUIET = Console(quiet=True)


def kill_a_worker_once_it_has_saved(run, killed):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not killed:
        if any((run / "checkpoints").glob("step-*4")):
            for pid in worker_pids()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        time.sleep(0.05)


def test_from_an_experiment_to_an_answer(ray_cluster, experiment_data):
    experiment_data["train"] |= {"steps": 24, "batch_size": 6, "checkpoint_every": 4, "learning_rate": 1e-3}
    experiment_data["replay"]["ratio"] = 0.5
    experiment_data["scaling"] = {"workers": 2, "cpus_per_worker": 0.5}
    experiment = build_experiment(experiment_data, "smoke")

    killed = []
    folder = Path(experiment.storage.runs) / experiment.name / "align"
    thread = threading.Thread(target=kill_a_worker_once_it_has_saved, args=(folder, killed))
    thread.start()
    run = align(experiment, console=QUIET)
    thread.join()

    assert killed
    assert consumed_rows(run) == expected_rows(run, 24 * 6)
    assert [r["step"] for r in records(run)] == list(range(1, 25))

    assert evaluate(experiment, [run], console=QUIET)
    added = register(run)
    assert (added.version.name, added.version.number, added.new) == ("tiny", 1, True)
    moved = promote("tiny", 1, force="a model of six steps proves nothing", registry=added.registry)
    assert moved.event.kind == "forced"

    settings = ServeConfig(port=0, models=["tiny@champion"])
    with running(settings, added.registry, experiment.scaling, show_log=False) as url:
        body = {"model": "tiny@champion", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] in range(1, 5)
