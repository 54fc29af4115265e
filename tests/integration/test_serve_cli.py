"""`ialign serve` as a user meets it: ready, requests to try, and down again at a signal."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import httpx2 as httpx
import pytest
from load import until
from runs import WEAK
from safetensors.torch import load_file, save_file

from ialign_ray.registry.promotion import promote
from ialign_ray.serving.deployment import free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def answers(url):
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_serving_until_a_signal(ialign, registry, tmp_path, monkeypatch, ray_cluster, stop):
    monkeypatch.chdir(tmp_path)
    promote(registry, "mine", WEAK)
    assert ialign("serve", "keys", "alice", "--file", "keys.yaml")[0] == 0
    port = free_port("127.0.0.1", 0)
    seen = []

    def user():
        until(lambda: getattr(signal.getsignal(stop), "__module__", None) == "ialign_ray.cli.serve", 120)
        seen.append(httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=10).status_code)
        os.kill(os.getpid(), stop)

    thread = threading.Thread(target=user)
    thread.start()
    code, out, err = ialign("serve", "--port", port, "--set", "serve.keys=keys.yaml")
    thread.join()
    assert (code, seen) == (0, [401]), err
    assert f"Ready at http://127.0.0.1:{port}: champion (mine/1), base" in out
    lines = [line for line in out.splitlines() if line.startswith("curl ")]
    assert len(lines) == 7
    assert all('-H "Authorization: Bearer $IALIGN_KEY"' in line for line in lines)
    assert not answers(f"http://127.0.0.1:{port}")


@pytest.mark.nightly
def test_a_model_that_does_not_load_is_one_sentence(ialign, library, tmp_path, monkeypatch, ray_cluster):
    adapter = tmp_path / "narrow"
    shutil.copytree(library / "runs" / "small" / "best" / "model", adapter)
    (adapter / "manifest.json").unlink()
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {key: weight[:, :-1].contiguous() for key, weight in weights.items()}, adapter / "adapter_model.safetensors"
    )
    code, out, err = ialign("serve", "--model", adapter, "--port", 0)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "does not fit the base: layer" in err
    assert "Ready" not in out


TWICE = """
import sys
from ialign_ray.config import ScalingConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.deployment import running

for _ in range(2):
    with running(ServeConfig(port=0, models=sys.argv[1:]), "runs", ScalingConfig(), show_log=False) as url:
        print(url)
"""


def test_a_process_may_serve_twice_each_time_on_a_cluster_of_its_own(tiny_model_folder, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", TWICE, str(tiny_model_folder)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert (done.returncode, done.stdout.count("http://127.0.0.1:")) == (0, 2), done.stderr[-3000:]


def test_the_lines_to_try_are_what_a_shell_takes(registry):
    from ialign_ray.serving.examples import curl_lines
    from ialign_ray.serving.model_sources import locate

    promote(registry, "mine", WEAK)
    for line in curl_lines("http://127.0.0.1:8000", [locate("champion", registry.uri).info()], keyed=True):
        words = shlex.split(line)
        assert words[0] == "curl"
        assert subprocess.run(["bash", "-nc", line]).returncode == 0
