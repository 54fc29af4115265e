"""`clusters/slurm.sh`, run with stand-ins for Slurm and Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

CLUSTERS = Path(__file__).resolve().parents[3] / "clusters"


SRUN = """#!/bin/bash
# runs the command here, as Slurm would on the node named
while [[ "$1" == --* ]]; do shift; done
if [ "$1" = hostname ]; then echo 127.0.0.1; exit; fi
exec "$@"
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$SAID"
case "$1" in
  start)
    token=$RAY_AUTH_TOKEN_PATH
    echo "$RAY_AUTH_MODE $(wc -c < "$token") $(stat -c %a "$token")" >> "$SAID"
    exec sleep 60;;
  health-check) exit 0;;
esac
"""
IALIGN = """#!/bin/bash
trap 'sleep 0.5; kill $slept; exit ${CODE:-143}' TERM
while [ "$(grep -c token "$SAID")" -lt 2 ]; do sleep 0.05; done
echo "ialign $* at $RAY_ADDRESS" >> "$SAID"
if [ "$1" = long ]; then sleep 30 & slept=$!; wait $slept; fi
exit 7
"""


@pytest.fixture
def slurm(tmp_path):
    """clusters/slurm.sh with stand-ins for Slurm, Ray and ialign, which write down how they were called."""
    binaries = tmp_path / "venv" / "bin"
    binaries.mkdir(parents=True)
    stand_ins = {"srun": SRUN, "scontrol": "#!/bin/bash\nprintf 'a\\nb\\nc\\n'\n", "ray": RAY, "ialign": IALIGN}
    for command, text in stand_ins.items():
        (binaries / command).write_text(text)
        (binaries / command).chmod(0o755)
    (binaries / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "IALIGN_VENV": str(tmp_path / "venv"),
        "SAID": str(tmp_path / "said"),
        "SLURM_JOB_NODELIST": "a,b,c",
        "SLURM_JOB_ID": "20005",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }

    def start(*arguments: str, **more: str) -> subprocess.Popen:
        command = ["bash", str(CLUSTERS / "slurm.sh"), *arguments]
        return subprocess.Popen(command, env=environment | more, stderr=subprocess.PIPE, text=True)

    return start


def test_slurm_starts_a_head_and_workers_and_ends_with_the_commands_code(slurm, tmp_path):
    process = slurm("align", "my.yaml")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors
    said = (tmp_path / "said").read_text().splitlines()
    assert [line for line in said if "--head" in line and "--num-gpus=4" in line and "--port=20005" in line]
    assert [line for line in said if line.startswith("ray start --address=127.0.0.1:20005 --num-cpus=16")]
    assert said[-1] == "ialign align my.yaml at 127.0.0.1:20005"
    assert said.count("token 64 600") == 2  # the token's length, and a file for its owner alone
    assert not list(tmp_path.glob(".ialign-job-*"))


def slow(tmp_path: Path, command: str) -> str:
    """What every bash reads at its start: the script waits a second before one of its commands, as on a loaded host."""
    path = tmp_path / "slow"
    path.write_text(f"slow() {{ if [ \"$BASH_COMMAND\" = '{command}' ]; then sleep 1; fi; }}\ntrap slow DEBUG\n")
    return str(path)


def test_a_command_that_ends_before_it_is_waited_for_keeps_its_code(slurm, tmp_path):
    process = slurm("align", BASH_ENV=slow(tmp_path, "driver=$!"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 7, errors


def signalled(process: subprocess.Popen, said: Path) -> int:
    """The code of a script that gets Slurm's signal while its command runs."""
    until = time.monotonic() + 30
    while "ialign long" not in (said.read_text() if said.exists() else ""):
        assert time.monotonic() < until
        time.sleep(0.05)
    process.terminate()
    process.communicate(timeout=30)
    return process.returncode


def test_slurms_signal_reaches_the_driver_which_saves_and_ends(slurm, tmp_path):
    assert signalled(slurm("long"), tmp_path / "said") == 143
    assert not list(tmp_path.glob(".ialign-job-*"))


@pytest.mark.slow
def test_the_drivers_code_counts_where_it_ends_beside_the_signal(slurm, tmp_path):
    assert signalled(slurm("long", CODE="9", BASH_ENV=slow(tmp_path, "code=$?")), tmp_path / "said") == 9


def test_slurm_without_an_environment_or_a_command_says_so(slurm, tmp_path):
    process = slurm()
    assert process.communicate(timeout=30)[1].startswith("slurm.sh: name an ialign command")
    shutil.rmtree(tmp_path / "venv")
    process = slurm("align")
    assert "holds no ialign; set IALIGN_VENV" in process.communicate(timeout=30)[1]
    assert process.returncode == 2
