"""What others can do to a Ray of ours: from another host, and as another user of this one, without its token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from ialign_ray.cluster import ports
from ialign_ray.storage import cache_folder

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(600)]
PARTS = {"control service", "node manager", "node agent", "environment agent"}
TOOLS = Path(sys.executable).parent
POCKET = Path(__file__).parents[2] / "jobs" / "experiments" / "pocket.yaml"
STRANGER = Path(__file__).with_name("stranger.py")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def hosts():
    """Two namespaces joined by a cable: (ours, a stranger's), at 10.78.0.1 and 10.78.0.2."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("namespaces need root and Debian's iproute2")
    ours, theirs = f"ia{os.getpid()}o", f"ia{os.getpid()}t"
    try:
        for name in (ours, theirs):
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "eth0", "netns", ours, "type", "veth", "peer", "name", "eth0", "netns", theirs)
        for number, name in enumerate((ours, theirs), 1):
            run("ip", "-n", name, "address", "add", f"10.78.0.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", device, "up")
            # Ray finds a host's address by asking which one would reach the world
            run("ip", "-n", name, "route", "add", "default", "via", f"10.78.0.{3 - number}")
        yield ours, theirs
    finally:
        for name in (ours, theirs):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@contextmanager
def running(host: str, command: str, folder: Path, environment: dict[str, str]):
    """Run a shell command on a host until the body ends."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "IALIGN_"))} | environment
    environment |= {"PATH": f"{TOOLS}:{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    log = (folder / "log").open("w")
    with subprocess.Popen(
        ["ip", "netns", "exec", host, "bash", "-c", f"exec {command}"],
        cwd=folder,
        env=environment | {"RAY_worker_niceness": "0"},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def inside(host: str) -> list[ports.Listener]:
    """Ports of our Ray processes on a host, which only a process there sees."""
    code = (
        "import dataclasses, json; from ialign_ray.cluster.ports import ray_listeners; "
        "print(json.dumps([dataclasses.astuple(each) for each in ray_listeners()]))"
    )
    said = run("ip", "netns", "exec", host, sys.executable, "-c", code)
    return [ports.Listener(*each) for each in json.loads(said)]


def until_it_works(process, host: str, folder: Path) -> list:
    """Wait until a worker of Ray has begun and no new port has opened for some seconds; returns the ports."""
    found: list = []
    quiet = time.monotonic()
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        now = inside(host)
        if {(e.process, e.port) for e in now} - {(e.process, e.port) for e in found}:
            found, quiet = now, time.monotonic()
        if time.monotonic() - quiet > 6 and {e.process for e in found} >= PARTS:
            return found
        time.sleep(0.5)
    raise AssertionError((folder / "log").read_text()[-3000:])


def command_of(kind: str, tiny_model_folder: Path, write_yaml, data: dict, folder: Path) -> str:
    if kind == "head":
        token = folder / "token"
        token.write_text("0123456789abcdef" * 2)
        token.chmod(0o600)
        return f"env RAY_AUTH_TOKEN_PATH={token} {ports.HEAD} --block --temp-dir={folder}/ray --num-cpus=2"
    if kind == "serve":
        return f"ialign serve --model {tiny_model_folder} --registry {folder}/runs --set serve.cpus_per_replica=0.5"
    data |= {"storage": {**data.get("storage", {}), "runs": str(folder / "runs")}}
    data["train"] |= {"steps": 4000}
    if kind == "tune":
        return f"ialign tune {POCKET} --set storage.runs={folder}/runs --set train.steps=4000"
    file = write_yaml(data)
    return f"ialign {kind} {file}"


@pytest.mark.parametrize("kind", ["head", "serve", "align", "tune"])
def test_nobody_else_can_do_anything(hosts, kind, tiny_model_folder, write_yaml, experiment_data, tmp_path):
    ours, theirs = hosts
    short = Path(run("mktemp", "-d", "/tmp/ia-XXXX").strip())  # Ray's sockets want a short path
    try:
        command = command_of(kind, tiny_model_folder, write_yaml, experiment_data, short)
        with running(ours, command, short, {"IALIGN_CACHE": str(cache_folder())}) as process:
            found = until_it_works(process, ours, short)
            assert [p for p in found if p.exposed] == []
            numbers = sorted({p.port for p in found})
            # every port of the host, found as a stranger would find it
            assert connected(theirs, "10.78.0.1", (1, 65536)) == []
            tried = as_nobody(ours, numbers, next(p.port for p in found if p.process == "control service"))
            assert process.poll() is None, (short / "log").read_text()[-3000:]
        assert tried["joined"] == []
        assert tried["read"] == []
        # what answers without a token: counters for Prometheus, the dashboard's page, which asks for one, and the
        # models' API, which has keys of its own
        allowed = {"metrics"} | {"serve": {"api"}, "head": {"page"}}.get(kind, set())
        assert {each for said in tried["answers"].values() for each in said} <= allowed, tried["answers"]
    finally:
        shutil.rmtree(short, ignore_errors=True)


def test_the_attacks_would_succeed_where_something_is_open(hosts, tmp_path):
    ours, theirs = hosts
    with running(ours, f"{sys.executable} -m http.server 8123", tmp_path, {}):
        deadline = time.monotonic() + 30
        while connected(theirs, "10.78.0.1", (8123, 8124)) != [8123]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert as_nobody(ours, [8123], 8123)["answers"] == {"8123": ["200 GET /"]}


def connected(host: str, address: str, span: tuple[int, int]) -> list[int]:
    """Ports from `span[0]` to below `span[1]` that accept a connection from a host."""
    said = run("ip", "netns", "exec", host, sys.executable, str(STRANGER), "connect", address, *map(str, span))
    return json.loads(said)


def as_nobody(host: str, ports: list[int], control: int) -> dict:
    """Attack the ports of a host as a user who has no rights there."""
    command = [sys.executable, str(STRANGER), "attack", str(control), json.dumps(ports)]
    done = subprocess.run(
        ["ip", "netns", "exec", host, *command],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "TMPDIR": "/tmp"},
        cwd="/",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
