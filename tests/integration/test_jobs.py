"""Jobs on a real head with its job server: sent, followed, stopped half-way, sent again; and what cannot be done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from object_store import object_store

from ialign_ray.cluster.join import SETTINGS
from ialign_ray.config import build_experiment
from ialign_ray.storage import is_intact, read_json
from ialign_ray.training.run_log import ledger, records

pytestmark = [pytest.mark.ray, pytest.mark.slow]
STEPS = 800  # some seconds beyond the signal
SCRIPTS = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    """Credentials of an S3-compatible server in this process' environment, where jobs are sent from."""
    pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as url:
        yield url


@pytest.fixture(scope="module")
def head(server, tmp_path_factory):
    """A head with a job server on free ports and a folder of its own; yields its address."""
    port = free_port()
    folder = tmp_path_factory.mktemp("h")
    # the head has none of the credentials: they come with the jobs
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_ADDRESS", "PYTHONPATH"))}
    environment |= {**SETTINGS, "RAY_AUTH_MODE": "disabled", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    environment["PATH"] = f"{RAY.parent}:{os.environ['PATH']}"
    command = [
        *(str(RAY), "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats", f"--temp-dir={folder}"),
        *(f"--port={free_port()}", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={free_port()}"),
        *(f"--dashboard-agent-grpc-port={free_port()}", "--node-ip-address=127.0.0.1"),
    ]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while not answers(address):
        assert process.poll() is None, (folder / "head.log").read_text()
        assert time.monotonic() < deadline, (folder / "head.log").read_text()
        time.sleep(0.5)
    yield address
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(90)
    finally:
        process.kill()


def answers(address):
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture
def work(tmp_path, write_yaml, experiment_data, monkeypatch):
    """A working directory with the experiment alone; its data and runs lie elsewhere, as on shared storage."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    experiment_data["train"] |= {"steps": STEPS, "checkpoint_every": 10_000}
    folder = tmp_path / "work"
    folder.mkdir()
    file = write_yaml(experiment_data, "work/experiment.yaml")
    monkeypatch.chdir(folder)
    return file


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_whole(run, steps=STEPS):
    """Each step recorded once, each example in the ledger once."""
    assert [r["step"] for r in records(run)] == list(range(1, steps + 1))
    drawn = ledger(run).to_pylist()
    assert len(drawn) == 4 * steps
    assert len({(row["epoch"], row["row_id"], row["step"]) for row in drawn}) == 4 * steps


def test_a_stopped_job_goes_on_where_it_was_even_from_an_empty_disk(head, server, work, ialign, experiment_data):
    address = ("--address", head)
    experiment = build_experiment(experiment_data, "test")
    run = Path(experiment.storage.runs) / "tiny" / "align"
    mirrored = ("--set", f"storage.mirror={server}/runs")
    code, out, err = ialign("submit", work, *mirrored, *address, "--detach")
    assert code == 0, err
    assert "AWS_SECRET_ACCESS_KEY" in out
    assert "test-secret" not in out
    until(lambda: len(records(run)) > 20)
    code, out, err = ialign("submit", work, *mirrored, *address)
    assert code == 2
    assert "tiny-align is still running" in err

    code, out, err = ialign("stop", "tiny-align", *address)
    assert code == 0, err
    done = records(run)[-1]["step"]
    assert done < STEPS
    assert is_intact(run / "checkpoints" / f"step-{done:08d}")
    record = read_json(run.parent / "jobs" / "align.json")
    assert (record["status"], record["exit_code"], record["submission"]) == ("stopped", 143, "tiny-align")
    assert f"stopped by SIGTERM after step {done} of {STEPS}" in record["error"]
    code, out, err = ialign("jobs", "--follow", "tiny-align", *address)
    assert code == 143
    assert "tiny-align: stopped, exit code 143" in out
    assert ialign("stop", "tiny-align", *address)[1] == "tiny-align has already finished\n"

    shutil.rmtree(run)  # another machine, with an empty disk
    code, out, err = ialign("submit", work, *mirrored, *address)
    assert code == 0, out + err
    assert f"restored from {server}/runs/tiny/align, step-{done:08d}" in out
    assert "\r" not in out
    assert "tiny-align-2: succeeded, exit code 0" in out
    assert is_intact(run / "model")
    assert_whole(run)
    assert ledger(run)["step"].to_pylist().count(done) == 4
    record = read_json(run.parent / "jobs" / "align.json")
    assert (record["status"], record["attempt"], record["submission"]) == ("succeeded", 2, "tiny-align-2")
    listed = ialign("jobs", *address)[1]
    assert "tiny-align-2" in listed
    assert "143" in listed


def test_what_cannot_be_done_is_told_with_the_jobs_own_exit_code(head, work, ialign, tmp_path):
    address = ("--address", head)
    wide = ("--set", "scaling.workers=2", "--set", "scaling.cpus_per_worker=2")
    code, out, _ = ialign("submit", work, "--name", "wide", *address, *wide)
    assert code == 2
    assert "2 workers with scaling.cpus_per_worker 2 leave no CPU of 4 to encode data" in out
    assert "Traceback" not in out
    (tmp_path / "second.jsonl").unlink()
    code, out, _ = ialign("submit", work, "--job", "build_data", *address)
    assert code == 2
    assert "second.jsonl does not exist" in out
    assert "tiny-build_data: failed, exit code 2" in out
    code, _, err = ialign("stop", "nothing", *address)
    assert code == 2
    assert "no such job 'nothing'" in err
    assert "tiny-build_data" in err


@pytest.mark.nightly
def test_the_pipeline_by_ray_job_submit_ends_with_a_model_that_is_served(head, work, ialign, experiment_data):
    runs = Path(experiment_data["storage"]["runs"])

    def send():
        command = [str(RAY), "job", "submit", "--address", head, "--working-dir", str(SCRIPTS)]
        command += ["--runtime-env", str(SCRIPTS / "jobs" / "runtime-env.yaml"), "--"]
        command += ["python", "jobs/pipeline.py", str(work), "--set", "train.steps=6", "--force", "a test"]
        return subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=SCRIPTS)

    first = send()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "tiny/1 is champion: forced, a test" in first.stdout
    made = {p.stem: read_json(p) for p in (runs / "tiny" / "jobs").glob("*.json")}
    assert {name: r["status"] for name, r in made.items()} == dict.fromkeys(
        ("build_data", "align", "align-control-s0", "evaluate", "promote", "pipeline"), "succeeded"
    )
    assert json.dumps(made["pipeline"]["result"]["steps"]["promote"]) == json.dumps(made["promote"]["result"])
    again = send()
    assert again.returncode == 0
    assert again.stdout.count("is already done") == 5

    port = free_port()
    serve = ("--set", f"serve.port={port}", "--set", "storage.runs=" + str(runs))
    code, out, err = ialign("submit", work, "--job", "serve", "--detach", "--address", head, *serve)
    assert code == 0, out + err
    until(lambda: served(port), 240)
    assert ialign("stop", "tiny-serve", "--address", head)[0] == 0
    assert not served(port)
    assert read_json(runs / "tiny" / "jobs" / "serve.json")["status"] == "stopped"


def served(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
