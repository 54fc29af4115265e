"""The whole way once: align, lose a worker, resume, evaluate, register, promote, serve one request."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from test_align import consumed_rows, expected_rows, worker_pids

from ialign_ray.cluster.ports import ray_listeners
from ialign_ray.config.serve import ServeConfig
from ialign_ray.registry.store import Registry
from ialign_ray.serving.deployment import running
from ialign_ray.training.run_log import records

pytestmark = [pytest.mark.ray, pytest.mark.smoke]
README = Path(__file__).parents[2] / "README.md"


def kill_a_worker_once_it_has_saved(run, killed):
    deadline = time.monotonic() + 500  # Ray may start slowly beside other work
    while time.monotonic() < deadline and not killed:
        if any((run / "checkpoints").glob("step-*")):
            for pid in worker_pids()[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        time.sleep(0.05)


def test_the_example_of_the_readme_survives_a_kill_and_its_model_answers(
    ray_cluster, experiment_data, write_yaml, tmp_path, monkeypatch, capsys
):
    experiment_data["train"] |= {"steps": 24, "batch_size": 6, "checkpoint_every": 4, "learning_rate": 1e-3}
    experiment_data["replay"]["ratio"] = 0.5
    experiment_data["scaling"] = {"workers": 2, "cpus_per_worker": 0.5}
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    example = example.replace("jobs/experiments/pocket.yaml", str(write_yaml(experiment_data)))
    assert example.count('"train.steps=54"') == 1

    killed, folder = [], tmp_path / "runs" / "mine" / "align"
    thread = threading.Thread(target=kill_a_worker_once_it_has_saved, args=(folder, killed))
    thread.start()
    names: dict = {}
    exec(example.replace('"train.steps=54"', '"train.steps=24"'), names)
    thread.join()

    assert killed
    assert names["run"] == folder
    assert consumed_rows(folder) == expected_rows(folder, 24 * 6)
    assert [r["step"] for r in records(folder)] == list(range(1, 25))
    assert "base" in capsys.readouterr().out
    version = names["version"]
    assert (version.name, version.number) == ("mine", 1)
    assert Registry("runs").aliases("mine") == {"champion": 1}

    settings = ServeConfig(port=0, models=["champion"])
    with running(settings, "runs", names["experiment"].scaling, show_log=False) as url:
        body = {"model": "champion", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] in range(1, 5)
        ours = {process.pid for process in psutil.Process().children(recursive=True)}
        ports = [each for each in ray_listeners() if each.pid in ours]
        assert {"control service", "node manager", "HTTP proxy"} <= {each.process for each in ports}
        assert [each for each in ports if each.exposed] == []
