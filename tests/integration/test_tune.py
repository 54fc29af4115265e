"""A search under Ray: front, winner and its judgement; killed and resumed, nothing is trained twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from ialign_ray.config import build_experiment, dump_yaml
from ialign_ray.search.trial_context import confirmations, own_control_folder
from ialign_ray.storage import is_intact, read_json
from ialign_ray.training.run_log import ledger, records
from ialign_ray.workflows.tune import tune

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUIET = Console(quiet=True)


def searching(data, **fields):
    data["train"] |= {"steps": 9, "batch_size": 4, "validation": {"pairs": 24, "instructions": 3}}
    data["languages"]["l2"] = ["ind", "jav"]
    space = {"replay.ratio": {"choice": [0, 0.25, 0.5]}, "model.lora.rank": {"choice": [2, 4]}}
    search = {"space": space, "trials": 6, "tolerance": 50, "cpus_per_trial": 1, "min_budget": 1} | fields
    return build_experiment(data | {"search": search}, "test")


def trained_once(folder: Path) -> None:
    """Each trial's ledger and records hold every one of its steps once, and no step after its last report."""
    for trial in sorted((folder / "trials").iterdir()):
        reported = read_json(trial / "reports.json")["reports"][-1]["step"]
        assert [r["step"] for r in records(trial)] == list(range(1, reported + 1)), trial
        assert ledger(trial).num_rows == 4 * reported, trial


def test_a_search_ends_with_a_front_a_judged_winner_and_a_page(ray_cluster, experiment_data, monkeypatch):
    experiment_data["tracking"]["mlflow"] = True
    runs = Path(experiment_data["storage"]["runs"])
    runs.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(runs)
    experiment_data["storage"]["runs"] = "."  # where the user stands, not where a trial does
    experiment = searching(experiment_data, confirm_seeds=[1])
    run = tune(experiment, console=QUIET)
    folder = run.parents[1]
    table = pd.read_parquet(folder / "trials.parquet")
    assert table["trial"].nunique() == 6
    last = table.groupby("trial").tail(1)
    assert last["last"].any()
    assert (last["stopped"] | last["last"]).all()
    assert last["stopped"].any()  # ASHA stopped some
    found = read_json(folder / "winner.json")
    assert run.name == found["trial"]
    assert is_intact(run / "model")
    assert read_json(folder / "front.json")
    assert "search" in (folder / "search.html").read_text()
    assert (run / "evaluation" / "RESULTS.md").exists()
    own = own_control_folder(experiment, found["point"])
    assert read_json(own / "reports.json")["reports"][-1]["last"] is True
    assert is_intact(own / "model")
    assert (run / "evaluation" / "default-control" / "RESULTS.md").exists() == ("winner" in own.name)
    again = confirmations(experiment, found["point"])
    assert len(again) == 2
    assert all(is_intact(folder / "model") for folder in again)
    judged = pd.read_csv(run / "evaluation" / "results.csv").groupby("run")["seeds"].max()
    assert (judged["control"], judged[run.name]) == (2, 2)
    assert [look["trial"] for look in read_json(folder / "test-looks.json")] == [run.name]
    trained_once(folder)
    parents = nested_runs(Path(experiment.storage.runs) / "mlflow.db")
    assert len(parents) == 6
    assert len(set(parents)) == 1

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.jsonl")}
    assert tune(experiment, resume=True, console=QUIET) == run  # finished: nothing is trained again
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("metrics.jsonl")}


def nested_runs(database: Path) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    numbers = [e.experiment_id for e in client.search_experiments()]
    runs = [run for number in numbers for run in client.search_runs([number]) if "search/gain" in run.data.metrics]
    return [run.data.tags["mlflow.parentRunId"] for run in runs]


@pytest.mark.nightly
def test_a_killed_driver_goes_on_where_it_was(experiment_data, tmp_path):
    experiment = searching(experiment_data, scheduler="asha")
    file = tmp_path / "search.yaml"
    file.write_text(dump_yaml(experiment))
    folder = Path(experiment.storage.runs) / experiment.name / "search"
    command = [sys.executable, "-c", "from ialign_ray.cli.main import main; main()", "tune", str(file)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while len(list(folder.glob("trials/*/outcomes.json"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # Ray's own processes, which it started, go with it
    process.wait()
    known = {p: read_json(p) for p in folder.glob("trials/*/reports.json")}
    stopped = {p: read_json(p) for p in folder.glob("trials/*/stopped.json")}

    subprocess.run([*command, "--resume"], env=environment, check=True, timeout=500, stdout=subprocess.DEVNULL)

    for path, reports in known.items():
        again = read_json(path)["reports"]
        assert again[: len(reports["reports"])] == reports["reports"]  # what was found was not found again
    assert stopped == {p: read_json(p) for p in stopped}
    for path in stopped:
        assert read_json(path.parent / "reports.json")["reports"][-1]["budget"] == stopped[path]["budget"]
    trained_once(folder)
    table = pd.read_parquet(folder / "trials.parquet")
    assert table["trial"].nunique() == 6
    assert read_json(folder / "winner.json")["trial"] in set(table["trial"])
