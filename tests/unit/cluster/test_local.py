"""A Ray of this process alone: what its settings are, whom its ports are open to, and what its token file may be."""

import os
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants
from ray._private.services import get_node_ip_address
from rich.console import Console

from ialign_ray.cluster import local, ports
from ialign_ray.cluster.join import cluster
from ialign_ray.config import ScalingConfig
from ialign_ray.errors import ClusterError
from ialign_ray.workflows.doctor import doctor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", local.LOOPBACK):
        monkeypatch.setenv(name, "")  # so that what is set in the test goes with it
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def token_file(home):
    (home / ".ray").mkdir()
    file = home / ".ray" / "auth_token"
    file.write_text("secret")
    return file


def test_a_local_ray_is_on_loopback_behind_a_token_in_a_folder_of_its_own():
    with local.private_ray() as arguments:
        folder = Path(arguments["_temp_dir"]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert get_node_ip_address() == "127.0.0.1"
        assert os.environ[local.LOOPBACK] == "0"
        first = os.environ["RAY_AUTH_TOKEN"]
        assert len(first) == 64
        (folder / "session").mkdir()
    assert not folder.exists()
    # what comes later in this process joins other machines by its real address, and keeps its token, which Ray holds
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert local.LOOPBACK not in os.environ
    with local.private_ray():
        assert os.environ["RAY_AUTH_TOKEN"] == first


def test_the_folder_goes_when_the_start_fails(home):
    with pytest.raises(ZeroDivisionError), local.private_ray():
        raise ZeroDivisionError
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "mine"), (local.LOOPBACK, "1")],
)
def test_what_the_user_set_wins(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with local.private_ray():
        assert os.environ[name] == value
        assert (name == local.LOOPBACK) == ray_constants.ENABLE_RAY_CLUSTER
        assert ("RAY_AUTH_TOKEN" in os.environ) == (name != "RAY_AUTH_MODE")


def test_a_users_token_file_is_used(token_file):
    token_file.chmod(0o600)
    with local.private_ray():
        assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o666])
@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_a_token_file_that_others_can_read_is_refused_before_ray_starts(token_file, mode, address):
    token_file.chmod(mode)
    with pytest.raises(ClusterError) as caught, cluster(ScalingConfig(address=address)):
        pytest.fail("started")
    assert str(token_file) in str(caught.value)
    assert f"chmod 600 {token_file}" in str(caught.value)


def test_a_token_file_elsewhere_is_looked_at_too(token_file, monkeypatch):
    elsewhere = token_file.rename(token_file.with_name("other"))
    elsewhere.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(elsewhere))
    with pytest.raises(ClusterError, match="other"):
        local.check_token_file()


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("127.0.0.1", False),
        ("127.0.0.2", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("fe80::1%eth0", True),
    ],
)
def test_who_can_connect(address, exposed):
    assert ports.Listener("raylet", 1, address, 80).exposed is exposed


@pytest.fixture
def raylet():
    """Starts a process that looks like Ray's and listens on an address; returns (pid, port)."""
    code = (
        "import socket, sys; s = socket.create_server((sys.argv[1], 0)); print(s.getsockname()[1], flush=True); input()"
    )
    with ExitStack() as stack:

        def start(address):
            command = [sys.executable, "-u", "-c", code, address, "raylet"]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            return process.pid, int(process.stdout.readline())

        yield start


def test_open_ports_are_found_and_warned_of(raylet, capsys):
    pid, port = raylet("127.0.0.1")
    assert [(each.pid, each.exposed) for each in ports.ray_listeners() if each.port == port] == [(pid, False)]
    pid, port = raylet("0.0.0.0")
    assert str(port) in ports.exposure()
    [warning] = [text for text in doctor(Console(width=200)) if str(port) in text]
    said = capsys.readouterr().out
    assert warning in said
    assert [line for line in said.splitlines() if str(pid) in line and "other machines" in line]


def test_doctor_names_the_versions_that_a_report_of_a_fault_needs(capsys):
    doctor(Console())
    assert f"ray {ray.__version__}" in capsys.readouterr().out
