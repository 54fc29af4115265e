"""For real: `ray up` over ssh on a head and two workers, a job across them, a host that dies, `ray down`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from launch import until
from measuring import steps_done

from ialign_ray.storage import is_intact
from ialign_ray.tasks.plan import Plan
from ialign_ray.training.run_log import ledger, records
from ialign_ray.training.runs import MODEL

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
STEPS, BATCH = 100, 6


def assert_exactly_once(run: Path, steps: int = STEPS, batch: int = BATCH) -> None:
    """The model is there, and the ledger holds what the plan drew: each (epoch, row) as often, whatever died."""
    assert is_intact(run / MODEL)
    plan = Plan.load(run / "data" / "plan")
    drawn = Counter((d.epoch, d.row_id) for d in map(plan.draw, range(steps * batch)))
    rows = ledger(run).to_pydict()
    assert Counter(zip(rows["epoch"], rows["row_id"], strict=True)) == drawn
    assert [r["step"] for r in records(run)] == list(range(1, steps + 1))


def test_both_workers_come_up_and_strangers_are_refused(cluster):
    cluster.configure()
    cluster.up()
    hosts = sorted([cluster.head.address, *(w.address for w in cluster.workers)])
    until(lambda: cluster.alive() == hosts, 150, "a head and two workers", every=1)
    assert "result" not in cluster.ask("/api/version", token=False)
    assert cluster.ask("/api/jobs/", token=False) == {}
    open_to_others = cluster.workers[0].command(
        f"curl -s -m 5 http://{cluster.head.address}:8265/api/version", check=False
    )
    assert "version" not in open_to_others  # the dashboard listens on the head alone


def test_a_job_survives_the_death_of_a_host(cluster, on_the_cluster):
    file, run = on_the_cluster("death")
    cluster.submit("death", f"ialign align {file}")
    until(lambda: steps_done(run) >= 1, 400, "a first step", every=0.05)
    busy = [w for w in cluster.workers if "RayTrainWorker" in w.command("ps axo args", check=False)]
    assert busy == cluster.workers  # one training worker a host
    until(lambda: steps_done(run) >= 12, 200, "12 steps", every=0.05)
    cluster.workers[1].kill()
    assert steps_done(run) < STEPS
    cluster.finish("death", 500)
    assert_exactly_once(run)


def test_a_host_that_comes_back_joins_again(cluster):
    host = cluster.workers[1]
    assert host.address not in cluster.alive()
    host.boot(sshd=True)
    until(lambda: host.address in cluster.alive(), 300, "the host in the cluster again", every=1)
    until(lambda: cluster.raylets() == {"head": 1, "one": 1, "two": 1}, 60, "a raylet on every host", every=1)


def test_down_leaves_no_ray_behind(cluster):
    cluster.close_tunnel()
    cluster.laptop.command("ray down -y /srv/local.yaml", timeout=120)
    assert cluster.raylets()["head"] == 0
    until(lambda: sum(cluster.raylets().values()) == 0, 150, "workers that miss their head end by themselves", every=2)
