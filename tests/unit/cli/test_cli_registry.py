"""`register`, `promote`, `rollback`, `models` and `predict --model`, as a user meets them."""

import json
import shutil

import pytest
from refusals import refused
from runs import BEST, FORGETFUL, GOOD, make_run, small_experiment

from ialign_ray.config import dump_yaml, override
from ialign_ray.registry.promotion import promote
from ialign_ray.training.runs import run_experiment


@pytest.fixture
def ialign(ialign, monkeypatch, registry, tmp_path):
    """Runs the command line beside `runs`."""
    monkeypatch.chdir(tmp_path)
    return ialign


@pytest.mark.slow
def test_from_a_run_to_the_champion_and_back(ialign, library, registry):
    run = library / "runs" / "small" / "good"
    code, out, _ = ialign("register", run, "--name", "mine", "--registry", "runs")
    assert (code, out.splitlines()) == (
        0,
        ["mine/2: registered already, with the same files", "Next:  ialign promote mine 2 --registry runs"],
    )
    code, out, _ = ialign("promote", "mine", GOOD)
    assert (code, out.splitlines()[0]) == (0, "mine/2 is champion: promoted")
    assert "- new languages (mood): better, +0." in out
    refused(ialign("promote", "mine", FORGETFUL), "mine/4 is not promoted over mine/2: eng (mood): worse by 0.")
    assert ialign("promote", "mine", BEST)[1].startswith("mine/3 is champion: promoted (before: mine/2)")
    assert ialign("promote", "mine", BEST)[:2] == (0, "mine/3 is champion already\n")
    assert ialign("promote", "mine", FORGETFUL, "--force", "a demo")[1] == (
        "mine/4 is champion: forced (before: mine/3), a demo\n"
    )
    assert ialign("rollback", "mine")[1] == "mine/3 is champion: rolled back (before: mine/4)\n"
    assert ialign("rollback", "mine", "--to", GOOD)[1] == "mine/2 is champion: rolled back (before: mine/3)\n"
    out = ialign("models", "mine", "--history")[1]
    kinds = [line.split(": ", 1)[1].split(" (")[0] for line in out.splitlines() if line[0].isdigit()]
    assert kinds == [
        "version 2 promoted", "version 4 refused", "version 3 promoted", "version 4 forced",
        "version 3 rolled back", "version 2 rolled back",
    ]  # fmt: skip
    assert "version 4 forced (champion: 3): a demo" in out
    assert "    eng (mood): worse by 0." in out
    assert registry.aliases("mine") == {"champion": GOOD}


@pytest.mark.slow
def test_a_run_that_the_command_evaluated(ialign, library, tmp_path, tiny_model_folder):
    experiment = small_experiment(tmp_path, tiny_model_folder)
    experiment = override(experiment, {"storage.data": str(library), "promotion.min_rows": 2})
    run = make_run(experiment, "real", None, evaluated=False)
    (tmp_path / "small.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    refused(ialign("register", run), "lacks 360 predictions of mood", "ialign evaluate")
    assert ialign("evaluate", "small.yaml", "--adapter", run)[0] == 0
    assert ialign("register", run, "--name", "real")[1].splitlines() == [
        "real/1: registered",
        "Next:  ialign promote real 1",
    ]
    # its weights were never trained, so its scores are those of chance
    refused(ialign("promote", "real", 1), "real/1 is not promoted: new languages (mood): not shown better")
    refused(ialign("register", run, "--set", "evaluate.scorer=mean"), "--set overrides fields of --experiment")


def test_a_run_can_be_promoted_by_its_folder(ialign, library):
    run = library / "runs" / "small" / "best"
    assert ialign("promote", "mine", run, "--registry", "runs")[1].startswith("mine/3 is champion: promoted")


def test_models_shows_scores_with_intervals(ialign, registry):
    promote(registry, "mine", BEST)
    code, out, _ = ialign("models")
    assert code == 0
    assert "champion" in out
    assert "mood L2 f1_weighted 0." in out
    assert "n=120" in out
    assert "[0." in out


def test_the_next_command_names_the_registry_of_the_given_experiment(ialign, library, registry, tmp_path):
    run = library / "runs" / "small" / "good"
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "runs" / "mlflow.db", tmp_path / "other" / "mlflow.db")
    experiment = override(run_experiment(run / "model"), {"tracking.mlflow_uri": str(tmp_path / "other")})
    (tmp_path / "small.yaml").write_text(dump_yaml(experiment), encoding="utf-8")
    out = ialign("register", run, "--name", "mine", "--experiment", "small.yaml")[1]
    assert out.splitlines()[1] == f"Next:  ialign promote mine 5 --registry {tmp_path / 'other'}"


def test_models_shows_a_score_that_is_no_number(ialign, registry):
    row = {"suite": "mood", "scope": "group:L2", "metric": "f1", "value": None, "low": None, "high": None, "n": 3}
    registry.call("set_model_version_tag", "mine", "1", "ialign.metrics", json.dumps([row]))
    code, out, _ = ialign("models")
    assert (code, "mood L2 f1 – [–, –] n=3" in out) == (0, True)


def test_predict_with_the_champion(ialign, registry, library):
    promote(registry, "mine", BEST)
    code, out, err = ialign("predict", "Say 3.", "--model", "champion", "--max-new-tokens", 5)
    assert (code, err.splitlines()[0].startswith("ialign: mine/3@champion: ")) == (0, True)
    assert "files verified" in err
    direct = ialign("predict", "Say 3.", "--adapter", library / "runs" / "small" / "best", "--max-new-tokens", 5)
    assert direct[:2] == (0, out)
    for reference in ("mine", "mine/3", "mine@champion", "models:/mine@champion"):
        assert ialign("predict", "Say 3.", "--model", reference, "--max-new-tokens", 5)[1] == out


def test_predict_with_a_base_model_as_before(ialign, tiny_model_folder):
    code, _, err = ialign("predict", "Say 3.", "--model", tiny_model_folder, "--max-new-tokens", 5)
    assert (code, "mine" in err) == (0, False)
    for hub_id in ("nobody/3", "nobody/nothing", "nothing"):
        refused(ialign("predict", "Say 3.", "--model", hub_id), f"model.id '{hub_id}' cannot be loaded")


def test_refusals(ialign, tmp_path, library):
    refused(ialign("promote", "mine", 9), "model 'mine' has no version 9 (it has: 1, 2, 3, 4)")
    refused(ialign("promote", "other", 1), "no model 'other' (it has: mine)")
    refused(ialign("promote", "mine", 1, "--force", " "), "--force is empty")
    refused(ialign("promote", "mine", 1, "--alias", "latest"), "latest")
    refused(ialign("promote", "mine", "no-run"), "no-run does not exist")
    refused(ialign("register", "no-run"), "no-run does not exist")
    refused(ialign("register", tmp_path), "contains no finished model")
    refused(ialign("rollback", "mine"), "no earlier holder")
    refused(ialign("predict", "Hello.", "--model", "champion"), "no alias 'champion'")
    refused(ialign("models", "other"), "no model 'other'")
    for command in (["models"], ["promote", "mine", 1], ["rollback", "mine"], ["predict", "x", "--model", "champion"]):
        refused(ialign(*command, "--registry", tmp_path / "empty"), "there is no registry")
    assert not (tmp_path / "empty").exists()
