"""What dies in mid-training, in a search, under load; what it costs: seconds to the next new step, steps done again.

Each run ends with a ledger that equals the plan. What was measured is appended to `runs/cluster-faults.jsonl`, of which
the table in docs/clusters.md is made.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd
import pytest
from launch import REPOSITORY, VENV, Cluster, until
from measuring import Watch, steps_done, write_down
from test_hosts import STEPS, assert_exactly_once

from ialign_ray.storage import is_intact, read_json
from ialign_ray.training.run_log import LEDGER, ledger, records

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]
EVERY, FAULT_AT = 5, 12
"""Past two checkpoints of 5 steps."""


@pytest.fixture
def up(cluster) -> Cluster:
    """The cluster with all of its hosts, whatever the test before this one left."""
    for host in (cluster.head, *cluster.workers):
        host.mend()
        host.boot(sshd=True)
    if not cluster.alive():
        cluster.configure()
        cluster.up()
    all_there(cluster)
    return cluster


def all_there(cluster: Cluster) -> float:
    """Seconds until every host is in the cluster.

    Its set-up must have ended too: the autoscaler never tries a host again that dies in it.
    """
    hosts = sorted([cluster.head.address, *(w.address for w in cluster.workers)])
    state = cluster.head.own / "tmp" / "ray" / "cluster-ialign.state"

    def there() -> bool:
        tags = [host["tags"].get("ray-node-status") for host in json.loads(state.read_text()).values()]
        return cluster.alive() == hosts and tags == ["up-to-date"] * len(hosts)

    return until(there, 300, "all hosts in the cluster", every=1)


def reach(cluster: Cluster, job: str, file: str, run: Path, step: int = FAULT_AT) -> None:
    """Submit a run, and wait for a step; of both hosts, one worker each."""
    cluster.submit(job, f"ialign align {file} --resume")
    until(lambda: steps_done(run) >= min(step, 1), 400, f"a first step of {job}", every=0.05)
    if step:
        busy = [w for w in cluster.workers if "RayTrainWorker" in w.command("ps axo args", check=False)]
        assert busy == cluster.workers
    until(lambda: steps_done(run) >= step, 200, f"step {step} of {job}", every=0.02)


def ended(cluster: Cluster, case: str, job: str, run: Path, watch: Watch, fault: float, **more: object) -> dict:
    """The job's end: the right model, a ledger that equals the plan, and what the fault cost."""
    cluster.finish(job, 500)
    assert_exactly_once(run)
    found = watch.cost(fault)
    write_down(case, **found, **more)
    return found


def test_the_pocket_pipeline_runs_across_the_hosts(up):
    """Corpus, control and run with a training worker a host, judged, registered; sent again, nothing is done twice."""
    settings = "--set search=null --set scaling.placement=spread --set scaling.cpus_per_worker=1.5"
    command = f"python jobs/pipeline.py jobs/experiments/pocket.yaml --set storage.runs=/srv/pocket {settings}"
    began, runs = time.monotonic(), up.lan.shared / "pocket" / "pocket"
    up.submit("pipeline", f"{command} --force 'a test of several hosts'", REPOSITORY)
    for name in ("control-s0", "align"):
        until(lambda run=runs / name: steps_done(run) >= 1, 400, f"a first step of {name}", every=0.1)
        busy = [w for w in up.workers if "RayTrainWorker" in w.command("ps axo args", check=False)]
        assert busy == up.workers
    up.finish("pipeline", 600)
    seconds = round(time.monotonic() - began, 1)
    made = {p.stem: read_json(p)["status"] for p in (runs / "jobs").glob("*.json")}
    names = ("build_data", "align", "align-control-s0", "evaluate", "promote", "pipeline")
    assert made == dict.fromkeys(names, "succeeded")
    assert (runs / "align" / "evaluation" / "RESULTS.md").exists()
    for name in ("control-s0", "align"):
        assert_exactly_once(runs / name, steps=54, batch=16)
        assert {p.name for p in (runs / name / LEDGER).rglob("*.parquet")} == {"0-of-2.parquet", "1-of-2.parquet"}
    up.submit("pipeline-2", f"{command} --force 'a test of several hosts'", REPOSITORY)
    up.finish("pipeline-2", 300)
    assert up.logs("pipeline-2").count("is already done") == 5
    write_down("pocket pipeline across two hosts", seconds=seconds)


def test_a_hosts_link_is_cut(up, on_the_cluster):
    file, run = on_the_cluster("link")
    reach(up, "link", file, run)
    with Watch(run) as watch:
        up.workers[1].cut()
        fault = time.monotonic()
        try:
            missed = until(lambda: len(up.alive()) == 2, 120, "the host missed", every=0.5)
            found = ended(up, "link of a worker host cut", "link", run, watch, fault, missed=round(missed, 1))
        finally:
            up.workers[1].mend()
    assert 0 <= found["steps_repeated"] <= EVERY
    write_down("link mended", joined=round(all_there(up), 1))


def test_a_raylet_is_killed(up, on_the_cluster):
    file, run = on_the_cluster("raylet")
    reach(up, "raylet", file, run)
    with Watch(run) as watch:
        up.workers[1].command("pkill -KILL -x raylet")
        fault = time.monotonic()
        until(lambda: len(up.alive()) == 2, 120, "the host missed", every=0.2)
        all_there(up)
        joined = round(time.monotonic() - fault, 1)
        found = ended(up, "raylet of a worker host killed", "raylet", run, watch, fault, joined=joined)
    assert found["seconds"] > 0
    assert found["steps_repeated"] <= EVERY


def test_the_driver_is_killed(up, on_the_cluster):
    file, run = on_the_cluster("driver")
    reach(up, "driver", file, run)
    with Watch(run) as watch:
        up.head.command("pkill -KILL -f 'bin/[i]align align'")
        fault = time.monotonic()
        until(lambda: up.status("driver") == "FAILED", 60, "the job known as failed")
        reach(up, "driver-2", file, run, 0)
        case = "driver killed; the job submitted again at once"
        found = ended(up, case, "driver-2", run, watch, fault)
    assert found["seconds"] > 0
    assert found["steps_repeated"] <= EVERY


def test_the_head_stops_and_comes_back(up, on_the_cluster):
    file, run = on_the_cluster("head")
    reach(up, "head", file, run)
    with Watch(run) as watch:
        up.head.kill()
        fault = time.monotonic()
        up.head.boot(sshd=True)
        up.up()
        all_there(up)
        joined = round(time.monotonic() - fault, 1)
        reach(up, "head-2", file, run, 0)
        case = "head lost; booted again, `ray up`, the job submitted again"
        found = ended(up, case, "head-2", run, watch, fault, joined=joined)
    assert found["seconds"] > 0
    assert found["steps_repeated"] <= EVERY


def test_a_search_survives_the_loss_of_a_host(up, on_the_cluster):
    """No finished trial is lost or trained again; what ran on the lost host is trained on another."""
    search = {
        "space": {"replay.ratio": {"choice": [0, 0.25, 0.5]}, "model.lora.rank": {"choice": [2, 4]}},
        # 2 of a worker host's 3 CPUs and of none of the head's 1: one trial a host
        **{"searcher": "grid", "scheduler": "none", "trials": 6, "tolerance": 5.0, "cpus_per_trial": 2},
    }
    watched = {"pairs": 24, "instructions": 3}
    file, run = on_the_cluster(
        "search", {"search": search}, steps=90, checkpoint_every=10, batch_size=4, validation=watched
    )
    folder = run.parent / "search"
    up.submit("search", f"ialign tune {file}")

    def found(finished: bool) -> list[Path]:
        begun = [p for p in folder.glob("trials/*") if steps_done(p)]
        return [p for p in begun if is_intact(p / "model") == finished]

    until(lambda: found(True) and len(found(False)) == 2 and min(map(steps_done, found(False))) > 6, 500, "trials")
    trying = [w for w in up.workers if "Trainable" in w.command("ps axo args", check=False)]
    assert trying == up.workers
    host, done, running = up.workers[1], found(True), found(False)
    known = {p: (p.stat().st_mtime_ns, p.read_bytes()) for t in done for p in (t / "metrics.jsonl", t / "reports.json")}
    with Watch(running[0]) as first, Watch(running[1]) as second:
        host.lose()
        fault = time.monotonic()
        up.finish("search", 600)
    seconds = round(time.monotonic() - fault, 1)
    assert known == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in known}
    table = pd.read_parquet(folder / "trials.parquet")
    assert table["trial"].nunique() == 6
    assert table.groupby("trial").tail(1)["last"].all()
    for trial in folder.glob("trials/*"):
        assert [r["step"] for r in records(trial)] == list(range(1, 91)), trial
        assert ledger(trial).num_rows == 4 * 90, trial
    assert read_json(folder / "winner.json")
    lost = max(first.cost(fault), second.cost(fault), key=lambda cost: cost["seconds"])
    assert lost["seconds"] > 0
    write_down("a host lost in a search of 6 trials", finished=len(done), to_the_end=seconds, **lost)


def test_serving_survives_the_loss_of_a_host(up, on_the_cluster):
    """Two replicas on two hosts; the one on the lost host is replaced, and every request is answered."""
    home = up.lan.shared / "serve"
    serve = {"models": ["/srv/serve/model"], "replicas": [2, 2], "cpus_per_replica": 1.5}
    file, _ = on_the_cluster("serve", {"serve": serve})
    up.submit("serve", f"python serve.py {file}")

    def serving() -> list[int]:
        each = (w.command("pgrep -fc '^ray::ServeReplica:[i]align' || true", check=False) for w in up.workers)
        return [int((said.split() or ["0"])[0]) for said in each]

    until(lambda: "Ready at" in up.logs("serve"), 300, "the models served", every=1)
    assert serving() == [1, 1]
    (home / "clients").mkdir()
    words = f"PYTHONPATH={REPOSITORY}/tests:{REPOSITORY} {VENV}/bin/python {REPOSITORY}/tests/cluster/clients.py"
    up.head.command(f"{words} http://127.0.0.1:8000 base 4 /srv/serve/clients > /srv/serve/clients/log 2>&1 &")

    def counted() -> dict:
        file = home / "clients" / "counts.json"
        return json.loads(file.read_text()) if file.exists() else {"requests": 0}

    until(lambda: counted()["requests"] > 40, 120, "requests")
    up.workers[1].lose()
    fault = time.monotonic()
    replaced = until(lambda: serving() == [2, 0], 240, "the replica on another host", every=0.5)
    so_far = counted()["requests"]
    until(lambda: counted()["requests"] > so_far + 100, 120, "requests after the replica was replaced")
    (home / "clients" / "stop").touch()
    until(lambda: (home / "clients" / "ended").exists(), 150, "the clients' end")
    found = counted()
    write_down("a host of two lost under load, 4 clients", replaced=round(replaced, 1), **found)
    assert found["lost"] == 0
    assert found["texts"] == 1
    assert time.monotonic() - fault < 600
    up.laptop.command("RAY_AUTH_MODE=token ray job stop --address http://127.0.0.1:8265 serve", check=False)


def test_the_disk_of_a_host_fills_up(up, on_the_cluster):
    host = up.workers[1]
    host.kill()
    until(lambda: len(up.alive()) == 2, 60, "the host missed", every=1)
    host.boot(sshd=True, disk="400m")
    all_there(up)
    file, run = on_the_cluster("disk")
    reach(up, "disk", file, run)
    with Watch(run) as watch:
        host.command("head -c 1G /dev/zero > /tmp/full", check=False)
        fault = time.monotonic()
        assert host.command("df --output=avail /tmp").split()[-1] == "0"
        assert steps_done(run) < STEPS
        found = ended(up, "local disk of a worker host full", "disk", run, watch, fault)
    assert found["steps_repeated"] <= EVERY
    host.command("rm /tmp/full")


def test_a_host_is_added(up, on_the_cluster):
    """`ray up` with a host more restarts the head, so the job is stopped before; sent again, it has a worker more."""
    file, run = on_the_cluster("growth")
    reach(up, "growth", file, run)
    with Watch(run) as watch:
        fault = time.monotonic()
        up.laptop.command("RAY_AUTH_MODE=token ray job stop --address http://127.0.0.1:8265 growth", check=False)
        until(lambda: up.status("growth") in {"STOPPED", "FAILED"}, 120, "the job stopped")
        assert steps_done(run) < STEPS
        up.workers.append(up.lan.add("three"))
        began = time.monotonic()
        up.configure()
        up.up()
        all_there(up)
        joined = round(time.monotonic() - began, 1)
        reach(up, "growth-2", f"{file} --set scaling.workers=3", run, 0)
        case = "a host added; the job stopped before and submitted again with a third worker"
        ended(up, case, "growth-2", run, watch, fault, joined=joined)
    assert {p.name.partition("-of-")[2] for p in (run / LEDGER).rglob("*.parquet")} == {"2.parquet", "3.parquet"}
