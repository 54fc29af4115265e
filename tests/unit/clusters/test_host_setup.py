"""`clusters/setup.sh`, run on this host with homes of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"
REPOSITORY = CLUSTERS.parent


def set_up(home: Path, *, source: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    defaults = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "IALIGN_VENV": str(Path(sys.executable).parent.parent),
        "IALIGN_SHARED": str(home / "shared"),
    }
    script = [str(CLUSTERS / "setup.sh"), str(source)]
    return subprocess.run(
        script, capture_output=True, text=True, env=defaults | {"PYTHONPATH": str(REPOSITORY)} | environment
    )


def test_setting_up_a_host_twice_is_setting_it_up_once(tmp_path):
    profiles = []
    for _ in range(2):
        done = set_up(tmp_path)
        assert done.returncode == 0, done.stderr
        profiles.append((tmp_path / ".bashrc").read_text())
    assert profiles[0] == profiles[1] == (tmp_path / ".profile").read_text()
    shell = [
        "bash",
        "-c",
        f". {shlex.quote(str(tmp_path / '.bashrc'))}; echo $RAY_AUTH_MODE $IALIGN_CACHE; which ialign",
    ]
    said = subprocess.run(shell, capture_output=True, text=True).stdout.split()
    assert said == ["token", str(tmp_path / "shared" / "cache"), str(Path(sys.executable).parent / "ialign")]
    assert list((tmp_path / "shared").iterdir()) == []


PIP = """
import pathlib, sys
here = pathlib.Path(__file__).parents[1]
with open(here / "installed", "a") as file:
    print(*sys.argv[1:], file=file)
if pathlib.Path(sys.argv[-1], "broken").exists():
    sys.exit("pip failed")
for package in ("ialign_ray", "ray"):
    (here / package).mkdir(exist_ok=True)
"""


def test_a_changed_source_is_installed_again_and_nothing_else(tmp_path):
    """A venv of its own, whose pip is a stand-in: the real one would need an index."""
    venv.create(tmp_path / "venv", with_pip=False)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "pip").mkdir()
    (packages / "pip" / "__main__.py").write_text(PIP)
    source = tmp_path / "source"
    (source / "ialign_ray").mkdir(parents=True)
    (source / "pyproject.toml").write_text("[project]\n")

    def installed() -> int:
        done = set_up(tmp_path, source=source, IALIGN_VENV=str(tmp_path / "venv"), PYTHONPATH="")
        assert (done.returncode == 0) != (source / "broken").exists(), done.stderr
        lines = (packages / "installed").read_text().splitlines() if (packages / "installed").exists() else []
        assert set(lines) <= {f"install --quiet {source}"}
        return len(lines)

    (packages / "ialign_ray").mkdir()
    (packages / "ray").mkdir()
    assert installed() == 0  # an image's own, which this script did not install
    (packages / "ray").rmdir()
    assert [installed(), installed()] == [1, 1]
    (source / "pyproject.toml").write_text("[project]\ndependencies = ['ray']\n")
    assert [installed(), installed()] == [2, 2]
    (source / "ialign_ray" / "cli.py").write_text("")
    (source / "broken").touch()
    assert [installed(), installed()] == [3, 4]  # what failed is tried again
    (source / "broken").unlink()
    assert [installed(), installed()] == [5, 5]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"IALIGN_SHARED": "/proc/nowhere"}, "/proc/nowhere cannot be written here; mount the shared storage"),
        ({"IALIGN_SHARED": ""}, "set IALIGN_SHARED to the folder that all hosts share"),
        ({"IALIGN_PYTHON": "false"}, "false is older than 3.11; name a newer one in IALIGN_PYTHON"),
    ],
)
def test_a_host_that_will_not_do_says_why(tmp_path, change, sentence):
    done = set_up(tmp_path, **change)
    assert done.returncode == 1
    assert sentence in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / ".bashrc").exists()


def test_a_host_without_the_source_says_so(tmp_path):
    done = set_up(tmp_path, source=tmp_path)
    assert done.returncode == 1
    assert "holds no pyproject.toml; check file_mounts" in done.stderr
