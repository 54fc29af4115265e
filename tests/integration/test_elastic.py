"""Under Ray: workers and drivers that die or are told to go, and another number of workers after each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from test_align import consumed_rows, expected_rows, worker_pids

from ialign_ray.config import build_experiment, dump_yaml, override
from ialign_ray.errors import ClusterError
from ialign_ray.storage import is_intact
from ialign_ray.training.run_log import LEDGER, records
from ialign_ray.training.runs import MODEL
from ialign_ray.training.trainer import train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly]
QUIET = Console(quiet=True)
STEPS = 60


@pytest.fixture
def experiment(experiment_data):
    """One worker, and no checkpoint but the last unless someone asks for one."""
    train = {"steps": STEPS, "batch_size": 6, "checkpoint_every": 1000, "learning_rate": 1e-3}
    data = experiment_data | {"train": train, "scaling": {"workers": 1, "cpus_per_worker": 0.5}}
    return build_experiment(data, "test")


def when_at(run: Path, step: int, act) -> threading.Thread:
    """Do something once the run has done this many steps."""

    def wait() -> None:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            if any(r["step"] >= step for r in records(run)):
                act()
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def signal_one_worker(number: int):
    return lambda: os.kill(worker_pids()[-1], number)


def assert_whole(run: Path, steps: int = STEPS) -> None:
    assert is_intact(run / MODEL)
    assert consumed_rows(run) == expected_rows(run, steps * 6)
    assert [r["step"] for r in records(run)] == list(range(1, steps + 1))


def same_bits(a: Path, b: Path) -> bool:
    one, two = (load_file(r / MODEL / "adapter_model.safetensors") for r in (a, b))
    return all(torch.equal(one[name], two[name]) for name in one)


def parts(run: Path) -> list[tuple[int, int]]:
    """From which step to which each part of the ledger goes."""
    return sorted(tuple(map(int, p.name.split("-"))) for p in (run / LEDGER).iterdir())


def test_two_workers_then_one_then_three(ray_cluster, experiment):
    run = Path(experiment.storage.runs) / experiment.name / "elastic"
    often = {"train.checkpoint_every": 5, "scaling.max_failures": 0}
    for workers, step in ((2, 13), (1, 33)):
        thread = when_at(run, step, signal_one_worker(signal.SIGKILL))
        with pytest.raises(ClusterError, match="continue with --resume"):
            train(override(experiment, often | {"scaling.workers": workers}), "elastic", resume=True, console=QUIET)
        thread.join()
        assert records(run)[-1]["step"] < STEPS
    train(override(experiment, often | {"scaling.workers": 3}), "elastic", resume=True, console=QUIET)
    assert_whole(run)
    names = {p.name for p in (run / LEDGER).rglob("*.parquet")}
    assert {n.partition("-of-")[2] for n in names} == {"2.parquet", "1.parquet", "3.parquet"}


def test_workers_with_a_part_of_the_model_each_leave_the_same_model(ray_cluster, experiment):
    """One of two is killed, then one of three; two end it."""
    steps = 30
    cut = {"train.steps": steps, "train.checkpoint_every": 5, "scaling.strategy": "fsdp", "scaling.max_failures": 0}
    whole = train(override(experiment, cut), "whole", console=QUIET)
    run = whole.parent / "cut"
    for workers, step in ((2, 7), (3, 17)):
        thread = when_at(run, step, signal_one_worker(signal.SIGKILL))
        with pytest.raises(ClusterError, match="continue with --resume"):
            train(override(experiment, cut | {"scaling.workers": workers}), "cut", resume=True, console=QUIET)
        thread.join()
        newest = max(p for p in (run / "checkpoints").glob("step-*") if is_intact(p))
        assert len(list(newest.glob("*.distcp"))) == workers
    train(override(experiment, cut | {"scaling.workers": 2}), "cut", resume=True, console=QUIET)
    assert_whole(run, steps)
    one, two = (load_file(r / MODEL / "adapter_model.safetensors") for r in (whole, run))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_a_worker_told_to_go_saves_and_is_replaced(ray_cluster, experiment):
    whole = train(experiment, "whole", console=QUIET)
    run = whole.parent / "told"
    thread = when_at(run, 8, signal_one_worker(signal.SIGTERM))
    train(experiment, "told", console=QUIET)
    thread.join()
    assert_whole(run)
    [(first, saved), (again, last)] = parts(run)
    assert (first, again, last) == (0, saved, STEPS)
    assert 8 <= saved < STEPS
    assert same_bits(whole, run)


def test_a_driver_told_to_stop_saves_and_says_how_to_go_on(ray_cluster, experiment, tmp_path):
    steps = 600  # some seconds beyond the signal
    experiment = override(experiment, {"train.steps": steps})
    whole = train(experiment, "whole", console=QUIET)
    file = tmp_path / "long.yaml"
    file.write_text(dump_yaml(experiment))
    run = whole.parent / "align"
    command = [sys.executable, "-c", "from ialign_ray.cli.main import main; main()", "align", str(file)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    when_at(run, 3, lambda: process.send_signal(signal.SIGTERM)).join()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    done = records(run)[-1]["step"]
    said = f"ialign: stopped by SIGTERM after step {done} of {steps}; continue with --resume"
    assert errors.strip().splitlines()[-1] == said
    assert done < steps
    assert is_intact(run / "checkpoints" / f"step-{done:08d}")
    train(experiment, "align", resume=True, console=QUIET)
    assert_whole(run, steps)
    assert same_bits(whole, run)
