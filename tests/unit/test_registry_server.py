"""The same registry behind MLflow's own server, over HTTP."""

import shutil
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from runs import STRENGTHS, make_run, small_experiment

from ialign_ray.errors import RegistryError
from ialign_ray.registry.history import FORCED, PROMOTED, REFUSED, Event, append, head
from ialign_ray.registry.promotion import promote, register, roll_back
from ialign_ray.registry.reference import resolve
from ialign_ray.registry.store import Registry


@pytest.fixture
def server(tmp_path, migrated, monkeypatch):
    """Address of a server that keeps artifacts itself."""
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    shutil.copy(migrated, tmp_path / "server.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/server.db",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=tmp_path)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address, process, log):
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            urlopen(address, timeout=5).read()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_the_whole_way_over_http(server, tmp_path, tiny_model_folder):
    registry, experiment = Registry(server), small_experiment(tmp_path, tiny_model_folder)
    good, best, forgetful = (
        register(registry, make_run(experiment, name, STRENGTHS[name], seed), "mine")[0].number
        for seed, name in enumerate(("good", "best", "forgetful"))
    )
    assert register(registry, tmp_path / "runs" / "small" / "good", "mine")[1] is False
    assert promote(registry, "mine", good).event.kind == PROMOTED
    with pytest.raises(RegistryError, match=r"mine/3 is not promoted over mine/1: eng \(mood\): worse by 0\."):
        promote(registry, "mine", forgetful)
    assert promote(registry, "mine", best).event.before == good
    assert resolve("champion", registry).version.number == best
    assert roll_back(registry, "mine").version.number == good
    # of two that saw the same history, one is first
    seen = head(registry, "mine", "champion")
    assert append(registry, "mine", "champion", seen, Event(FORCED, best, good)).number == 5
    assert append(registry, "mine", "champion", seen, Event(FORCED, forgetful, good)) is None
    assert [e.kind for e in head(registry, "mine", "champion").events][:2] == [PROMOTED, REFUSED]
    weights = next((tmp_path / "kept").rglob("model/adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    spoiled = next(v.number for v in registry.versions("mine") if v.run_id in str(weights))
    with pytest.raises(RegistryError, match="model/adapter_model.safetensors is missing or does not match"):
        promote(registry, "mine", spoiled, alias="other", force="x")
