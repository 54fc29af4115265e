"""What the driver shows of a run's records: lines of a job's log, and curves."""

import io
import re

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_loop import Setting

from ialign_ray.config import build_experiment
from ialign_ray.search.progress import NestedRuns
from ialign_ray.training.display import curves, mlflow_experiment, validation_curves, validation_line, watching
from ialign_ray.training.run_log import VALIDATIONS, RunLogFile, records
from ialign_ray.training.trainer import ending_sentences


@pytest.fixture
def finished(experiment_data, tmp_path):
    """A run of six steps with validations, watched afterwards from the start."""
    experiment_data["train"] |= {"validation": {"every": 3, "pairs": 12}}
    experiment_data["tracking"] = {"mlflow": True, "tensorboard": True}
    for corpus in experiment_data["corpora"]:
        corpus["holdout"] = 0.2
    setting = Setting(experiment_data, tmp_path, "full")
    setting.run("run")
    return setting


def test_every_curve_is_in_tensorboard_and_mlflow(finished):
    from mlflow import MlflowClient

    run, said = finished.folder / "run", io.StringIO()
    with watching(finished.experiment, run, Console(file=said, width=200)):
        pass
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    names = set(board.Tags()["scalars"])
    wanted = {
        *(f"train/{n}" for n in ("loss", "grad_norm", "learning_rate", "tokens_per_second", "useful_share")),
        *(f"train/{n}" for n in ("mfu", "memory_gib", "data_wait_share")),
        *(f"validation/{n}" for n in ("pairs", "pairs_low", "pairs_high", "instructions", "pairs/eng-ind")),
        "loss/replay",
    }
    assert wanted <= names
    assert [e.step for e in board.Scalars("validation/pairs")] == [0, 3, 6]
    losses = [r["losses"]["pairs"][0] for r in RunLogFile(run / VALIDATIONS).read()]
    assert [e.value for e in board.Scalars("validation/pairs")] == pytest.approx(losses)
    client = MlflowClient(f"sqlite:///{finished.folder}/runs/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "tiny"]
    [tracked] = client.search_runs([experiment.experiment_id])
    assert wanted <= set(tracked.data.metrics)
    lines = said.getvalue().splitlines()
    assert lines[0].startswith("run: step 0: held out, nats per token: pairs ")
    assert ", base " in lines[1]
    assert "step 6/6  loss " in lines[-1]
    assert " mfu " in lines[-1]
    assert " GiB " in lines[-1]


def test_a_step_of_one_worker_on_this_machine_is_plausible(finished):
    for record in records(finished.folder / "run"):
        flat = curves(record)
        assert 0 < flat["train/mfu"] < 1
        assert 0.05 < flat["train/memory_gib"] < 100
        assert record["flops"] > 0
        assert not record["skipped"]


@pytest.mark.parametrize(
    ("uri", "why"), [("sqlite:///{}/mlflow.db", "'tiny' .* was deleted"), ("http://127.0.0.1:9", "127.0.0.1")]
)
def test_a_run_without_its_tracking_server_continues(experiment_data, tmp_path, monkeypatch, uri, why):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = uri.format(tmp_path)
    if uri.startswith("sqlite"):
        client = MlflowClient(uri)
        client.delete_experiment(client.create_experiment("tiny"))
    experiment = build_experiment(experiment_data | {"tracking": {"mlflow": True, "mlflow_uri": uri}}, "x")
    (tmp_path / "run").mkdir()
    said = io.StringIO()
    with watching(experiment, tmp_path / "run", Console(file=said, width=200)):
        pass
    assert re.match(f"warning: tracking stopped .*{why}", said.getvalue())
    said = io.StringIO()
    NestedRuns(experiment, tmp_path, Console(file=said, width=200))
    assert re.match(f"warning: tracking stopped .*{why}", said.getvalue())


def test_the_loser_of_a_race_for_an_experiment_takes_the_winners(experiment_data, tmp_path):
    tracking = {"mlflow": True, "mlflow_uri": f"sqlite:///{tmp_path}/mlflow.db"}
    experiment = build_experiment(experiment_data | {"tracking": tracking}, "x")
    assert mlflow_experiment(experiment)[1] == mlflow_experiment(experiment)[1]


NAN = float("nan")
BASE = {"step": 0, "losses": {"pairs": [3.0, 2.9, 3.1, 50], "instructions": [2.0, 1.9, 2.1, 40]}}


def test_a_validation_is_one_line_beside_the_base():
    assert validation_line(BASE, BASE) == (
        "step 0: held out, nats per token: pairs 3.000 [2.900, 3.100] n=50; instructions 2.000 [1.900, 2.100] n=40"
    )
    later = {"step": 50, "losses": {"instructions": [2.5, 2.4, 2.6, 40]}}
    assert validation_line(later, BASE) == (
        "step 50: held out, nats per token: instructions 2.500 [2.400, 2.600] n=40, base 2.000"
    )


def test_a_run_that_began_without_validation_has_no_base():
    """Validation is free to change over a resume; its first record is then of a trained step, or of other metrics."""
    later = {"step": 50, "losses": {"instructions": [2.5, 2.4, 2.6, 40]}}
    for first in (BASE | {"step": 10}, {"step": 0, "losses": {"pairs": [3.0, 2.9, 3.1, 50]}}):
        assert ", base " not in validation_line(later, first)


def test_an_unknown_interval_makes_no_curve():
    assert validation_curves({"step": 0, "losses": {"pairs": [3.0, NAN, NAN, 1]}}) == {"validation/pairs": 3.0}


def test_an_ending_that_is_not_the_plain_one_is_told():
    plain = {"step": 9, "steps": 9, "kept": 9, "reason": None, "skipped_steps": 0}
    assert ending_sentences(plain) == []
    early = plain | {"step": 6, "kept": 3, "reason": "because", "skipped_steps": 2}
    assert ending_sentences(early) == [
        "ended early after step 6 of 9: because",
        "the model is that of step 3, the best one",
        "2 updates were skipped as spikes, see metrics.jsonl",
    ]
