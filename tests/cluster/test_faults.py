"""What dies in mid-training, and what it costs: seconds until the next new step, and steps done again.

Each case ends with a ledger that equals the plan. What was measured is appended to `runs/cluster-faults.jsonl`; the
table in docs/clusters.md is made of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launch import REPOSITORY, Cluster, until
from test_cluster import assert_exactly_once, steps_done

from ialign_ray.training.journal import LEDGER

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
EVERY, FAULT_AT = 5, 12
"""Past two checkpoints of 5 steps."""


@pytest.fixture(scope="module")
def up(cluster) -> Cluster:
    """The cluster, with all of its hosts."""
    if len(cluster.alive()) != 3:
        cluster.configure()
        cluster.up()
        until(lambda: len(cluster.alive()) == 3, 150, "a head and two workers", every=1)
    return cluster


def starts(run: Path) -> list[int]:
    """After which steps the run began or went on, by the parts of its ledger."""
    return sorted(int(part.name.split("-")[0]) for part in (run / LEDGER).iterdir())


def measured(case: str, run: Path, reached: int, began: float, again: Callable[[], None] = lambda: None) -> None:
    """Wait for a step beyond the one reached at the fault, and write down what it took."""
    again()
    until(lambda: steps_done(run) > reached, 420, f"a new step after: {case}", every=0.1)
    seconds = time.monotonic() - began
    repeated = reached - max(s for s in starts(run) if s <= reached)
    found = {
        "case": case,
        "seconds": round(seconds, 1),
        "steps_repeated": repeated,
        "load": round(os.getloadavg()[0], 1),
    }
    log = REPOSITORY / "runs" / "cluster-faults.jsonl"
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(found) + "\n")
    assert repeated <= EVERY


def reach(cluster: Cluster, job: str, file: str, run: Path, step: int = FAULT_AT) -> None:
    cluster.submit(job, f"ialign align {file} --resume")
    until(lambda: steps_done(run) >= step, 400, f"step {step} of {job}", every=0.05)


def all_there(cluster: Cluster) -> None:
    until(lambda: len(cluster.alive()) == 3, 240, "all hosts in the cluster again", every=1)


def test_a_hosts_link_is_cut(up, on_the_cluster):
    file, run = on_the_cluster("link")
    reach(up, "link", file, run)
    host = up.workers[1]
    host.cut()
    began, reached = time.monotonic(), steps_done(run)
    try:
        measured("link of a worker host cut", run, reached, began)
    finally:
        host.mend()
    up.finish("link", 500)
    assert_exactly_once(run)
    all_there(up)


def test_a_raylet_is_killed(up, on_the_cluster):
    file, run = on_the_cluster("raylet")
    reach(up, "raylet", file, run)
    up.workers[1].command("pkill -KILL -x raylet")
    began, reached = time.monotonic(), steps_done(run)
    measured("raylet of a worker host killed", run, reached, began)
    up.finish("raylet", 500)
    assert_exactly_once(run)
    all_there(up)


def test_the_driver_is_killed(up, on_the_cluster):
    file, run = on_the_cluster("driver")
    reach(up, "driver", file, run)
    up.head.command("pkill -KILL -f 'bin/[i]align align'")
    began, reached = time.monotonic(), steps_done(run)
    until(lambda: up.status("driver") == "FAILED", 60, "the job known as failed")
    measured("driver killed, the job submitted again", run, reached, began, lambda: reach(up, "driver-2", file, run, 0))
    up.finish("driver-2", 500)
    assert_exactly_once(run)


def test_the_head_stops_and_comes_back(up, on_the_cluster):
    file, run = on_the_cluster("head")
    reach(up, "head", file, run)
    up.head.kill()
    began, reached = time.monotonic(), steps_done(run)

    def again() -> None:
        up.head.boot(sshd=True)
        up.up()
        all_there(up)
        reach(up, "head-2", file, run, 0)

    measured("head lost; `ray up` and the job submitted again", run, reached, began, again)
    up.finish("head-2", 500)
    assert_exactly_once(run)


def test_the_disk_of_a_host_fills_up(up, on_the_cluster):
    host = up.workers[1]
    host.kill()
    until(lambda: len(up.alive()) == 2, 60, "the host missed", every=1)
    host.boot(sshd=True, disk="400m")
    all_there(up)
    file, run = on_the_cluster("disk")
    reach(up, "disk", file, run)
    host.command("head -c 1G /dev/zero > /tmp/full", check=False)
    began, reached = time.monotonic(), steps_done(run)
    assert host.command("df --output=avail /tmp").split()[-1] == "0"
    measured("local disk of a worker host full", run, reached, began)
    up.finish("disk", 500)
    assert_exactly_once(run)
    host.command("rm /tmp/full")


def test_a_host_is_added(up, on_the_cluster):
    """The run is told to stop, and goes on with a worker more on the new host."""
    file, run = on_the_cluster("growth")
    reach(up, "growth", file, run)
    up.workers.append(up.lan.add("three"))
    began = time.monotonic()
    up.configure(workers=3)
    up.up("--no-restart")
    until(lambda: len(up.alive()) == 4, 240, "the new host in the cluster", every=1)
    joined = round(time.monotonic() - began, 1)
    up.laptop.command("RAY_AUTH_MODE=token ray job stop --address http://127.0.0.1:8265 growth", check=False)
    began, reached = time.monotonic(), steps_done(run)
    grown = f"{file} --set scaling.workers=3"
    case = f"a host added (in the cluster after {joined} s), the job resumed with a worker on it"
    measured(case, run, reached, began, lambda: reach(up, "growth-2", grown, run, 0))
    up.finish("growth-2", 500)
    assert_exactly_once(run)
    assert {p.name.partition("-of-")[2] for p in (run / LEDGER).rglob("*.parquet")} == {"2.parquet", "3.parquet"}
