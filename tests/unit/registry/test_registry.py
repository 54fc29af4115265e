"""The registry on a real MLflow database: register, promote, refuse, roll back, resolve."""

import json
import shutil
import sqlite3

import pytest
import torch
from runs import BEST, FORGETFUL, GOOD, STRENGTHS, WEAK, make_run, small_experiment, suite

from ialign_ray.config import override
from ialign_ray.errors import RegistryError
from ialign_ray.registry.decisions import FORCED, PROMOTED, REFUSED, ROLLED_BACK, head
from ialign_ray.registry.promotion import promote, promote_run, register, roll_back
from ialign_ray.registry.reference import resolve
from ialign_ray.registry.run_evidence import search_of
from ialign_ray.registry.store import Registry
from ialign_ray.storage import write_json
from ialign_ray.training.runs import MODEL, run_experiment
from ialign_ray.workflows.predict import open_model


def champion(registry):
    return registry.aliases("mine").get("champion")


def events(registry):
    return [(e.kind, e.version, e.before) for e in head(registry, "mine", "champion").events]


def refusal(call, *arguments, **named):
    with pytest.raises(RegistryError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def registry_model(run):
    return run_experiment(run / MODEL).model.id


@pytest.fixture
def spoilable(tmp_path, tiny_model_folder, monkeypatch, migrated):
    """A registry with files of its own: (registry, run folder, the folder of version 1)."""
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated, tmp_path / "runs" / "mlflow.db")
    run = make_run(small_experiment(tmp_path, tiny_model_folder), "only", STRENGTHS["good"])
    fresh = Registry(str(tmp_path / "runs"))
    register(fresh, run, "mine")
    return fresh, run, next((tmp_path / "runs" / "registry" / "mine").glob("*/artifacts/version"))


# --- register


def test_a_version_carries_all_that_proves_it(registry, library):
    version = registry.version("mine", GOOD)
    assert version.tags["base"].endswith("tiny")
    assert (version.tags["dose"], version.tags["run"]) == ("0", "good")
    shown = {row["scope"]: row for row in json.loads(version.tags["metrics"])}
    assert set(shown) == {"group:L1", "group:L2"}
    assert shown["group:L2"]["low"] < shown["group:L2"]["value"] < shown["group:L2"]["high"]
    folder = registry.fetch(version)
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names >= {
        "manifest.json", "experiment.yaml", "metrics.csv", "README.md", "model/adapter_model.safetensors",
        "model/record.json", "predictions/version/mood.parquet", "predictions/base/mood.parquet",
    }  # fmt: skip
    assert "| mood | L2 | f1_weighted | 120 |" in (folder / "README.md").read_text()
    run = library / "runs" / "small" / "good"
    for path in (run / MODEL).iterdir():
        assert (folder / "model" / path.name).read_bytes() == path.read_bytes()


def test_the_same_files_are_registered_once(registry, library):
    version, new = register(registry, library / "runs" / "small" / "good", "mine")
    assert (version.number, new) == (GOOD, False)
    assert len(registry.versions("mine")) == len(STRENGTHS)
    assert register(registry, library / "runs" / "small" / "good", "another")[1]


def test_files_of_a_registration_that_failed_are_removed(spoilable, monkeypatch):
    registry, run, folder = spoilable
    files = folder.parents[2]
    call = Registry.call

    def dies(self, method, *arguments, **named):
        if method == "create_model_version":
            raise RegistryError("killed")
        return call(self, method, *arguments, **named)

    monkeypatch.setattr(Registry, "call", dies)
    (run / "notes.txt").write_text("evaluated again")
    with pytest.raises(RegistryError, match="killed"):
        register(registry, run, "other")
    with pytest.raises(RegistryError, match="killed"):
        register(registry, run, "mine", control=run)
    monkeypatch.undo()
    left = sorted(path for path in files.iterdir() if path.is_dir())
    assert len(left) == 2
    assert registry.clean("mine") == (0, 0)  # it may still be at work
    number, size = registry.clean("mine", older=0)
    assert number == 1
    assert size > 1000
    assert [path for path in files.iterdir() if path.is_dir()] == [folder.parents[1]]
    assert registry.fetch(registry.version("mine", 1)).exists()
    assert registry.clean("mine", older=0) == (0, 0)
    assert registry.clean("unheard-of", older=0) == (0, 0)


def test_the_control_beside_a_run_is_carried_along(spoilable):
    registry, run, _ = spoilable
    experiment = small_experiment(run.parents[2], registry_model(run))
    make_run(experiment, "control-s0", STRENGTHS["weak"])
    version, new = register(registry, run, "mine")
    assert (version.number, new) == (2, True)
    assert (registry.fetch(version) / "predictions" / "control" / "mood.parquet").exists()
    assert "control" in (registry.fetch(version) / "README.md").read_text()
    promote(registry, "mine", 2)
    assert [t for t in head(registry, "mine", "champion").events[0].told if "against control" in t]


def test_the_winner_of_a_search_finds_its_control_and_the_base(spoilable):
    _, run, _ = spoilable
    experiment = small_experiment(run.parents[2], registry_model(run))
    control = make_run(experiment, "control-s0", STRENGTHS["weak"])
    search = run.parent / "search"
    (search / "trials").mkdir(parents=True)
    write_json(search / "front.json", [{"trial": "trial-1", "gain": 1.5}])
    write_json(search / "winner.json", {"trial": "trial-1", "why": "it is", "tolerance": 0.2, "budget": 3})
    trial, _ = run.rename(search / "trials" / "trial-1"), control.rename(search / "control-s0")
    said = []
    moved = promote_run(experiment, trial, said.append)
    assert said[:2] == ["small/1: registered", "small/1 is champion: promoted"]
    assert (moved.version.title, moved.event.kind) == ("small/1", "promoted")
    assert [t for t in moved.event.told if "against control" in t]
    assert [t for t in moved.event.told if "against base" in t]
    found = search_of(Registry(str(run.parents[1])).fetch(moved.version))
    assert found["front"] == [{"trial": "trial-1", "gain": 1.5}]
    assert (found["trial"], found["why"], found["tolerance"]) == ("trial-1", "it is", 0.2)
    assert promote_run(experiment, trial, said.append).event is None
    assert said[-2:] == ["small/1: registered already, with the same files", "small/1 is champion already"]


def test_an_unfinished_run_is_refused(registry, tmp_path):
    (tmp_path / "run").mkdir()
    assert "no finished model: model/manifest.json" in refusal(register, registry, tmp_path / "run", "mine")


def test_a_spoiled_run_is_refused_by_file(spoilable):
    registry, run, _ = spoilable
    flip(run / MODEL / "adapter_model.safetensors")
    assert "model/adapter_model.safetensors is missing or does not match" in refusal(register, registry, run, "mine")


def test_missing_predictions_are_refused_with_the_cure(spoilable):
    registry, run, _ = spoilable
    shutil.rmtree(run / "predictions")
    said = refusal(register, registry, run, "mine")
    assert "lacks 360 predictions of mood" in said
    assert "ialign evaluate" in said


def test_predictions_of_another_model_are_refused(spoilable):
    registry, run, _ = spoilable
    other = make_run(small_experiment(run.parents[2], registry_model(run)), "other", STRENGTHS["best"], seed=1)
    shutil.rmtree(run / "predictions")
    shutil.copytree(other / "predictions", run / "predictions")
    assert "lacks 360 predictions of mood" in refusal(register, registry, run, "mine")


@pytest.mark.slow
def test_a_run_evaluated_with_another_experiment(spoilable):
    registry, run, _ = spoilable
    experiment = small_experiment(run.parents[2], registry_model(run))
    wider = override(experiment, {"evaluate.suites": [suite("mood"), suite("tone")]})
    assert "lacks 360 predictions of tone" in refusal(register, registry, run, "mine", wider)
    make_run(wider, "only", STRENGTHS["good"])
    promote(registry, "mine", 1, force="there is no control")
    assert register(registry, run, "mine", wider)[0].number == 2
    # the same model with other suites: its evidence is renewed
    assert promote(registry, "mine", 2).event.told == ("the model of mine/1, evaluated again",)
    better = make_run(experiment, "better", STRENGTHS["best"], seed=1)
    number = register(registry, better, "mine")[0].number
    assert "suite 'tone' was evaluated for mine/2 only" in refusal(promote, registry, "mine", number)


# --- promote


def test_the_first_champion_is_compared_with_the_base(registry):
    said = refusal(promote, registry, "mine", FORGETFUL)
    assert "mine/4 is not promoted: eng (mood): may be worse by up to 0." in said
    assert "against base" in said
    moved = promote(registry, "mine", GOOD)
    assert moved.event.kind == PROMOTED
    assert any("against base" in line for line in moved.event.told)
    assert champion(registry) == GOOD


def test_a_better_candidate_replaces_the_champion(registry):
    promote(registry, "mine", WEAK)
    moved = promote(registry, "mine", BEST)
    assert (moved.event.before, champion(registry)) == (WEAK, BEST)
    assert moved.event.told[0].startswith("new languages (mood): better, +0.")
    assert "against mine/1 (n = 120" in moved.event.told[0]
    assert promote(registry, "mine", BEST).event is None


def test_a_worse_candidate_is_refused_with_numbers(registry):
    promote(registry, "mine", BEST)
    said = refusal(promote, registry, "mine", GOOD)
    assert "mine/2 is not promoted over mine/3: new languages (mood): worse, -0." in said
    assert champion(registry) == BEST
    assert events(registry)[-1] == (REFUSED, GOOD, BEST)


def test_a_forgetful_candidate_is_refused_by_language(registry):
    promote(registry, "mine", GOOD)
    said = refusal(promote, registry, "mine", FORGETFUL)
    assert "mine/4 is not promoted over mine/2: eng (mood): worse by 0." in said
    assert champion(registry) == GOOD


def test_old_work_is_held_against_the_best_champion_so_far(registry):
    for number in (BEST, WEAK):
        promote(registry, "mine", number, force="x")
    said = refusal(promote, registry, "mine", GOOD)
    assert "eng (mood): " in said
    assert "against mine/3" in said
    promote(registry, "mine", BEST, alias="other", force="x")
    assert "against mine/3" in refusal(promote, registry, "mine", GOOD, alias="other")


def test_a_replay_only_control_is_not_promoted(registry, library):
    control, _ = register(registry, library / "runs" / "small" / "control-s0", "mine")
    assert "replay.ratio is 1" in refusal(promote, registry, "mine", control.number)


def test_force_is_recorded_with_its_reason(registry):
    promote(registry, "mine", BEST)
    moved = promote(registry, "mine", WEAK, force="a demo needs it")
    assert (moved.event.kind, moved.event.reason, champion(registry)) == (FORCED, "a demo needs it", WEAK)
    kept = head(registry, "mine", "champion").events[-1]
    assert (kept.reason, kept.before, kept.number) == ("a demo needs it", BEST, 2)
    assert kept.who
    assert kept.when


def test_aliases_have_histories_of_their_own(registry):
    promote(registry, "mine", WEAK, force="x")
    promote(registry, "mine", BEST, alias="staging")
    assert registry.aliases("mine") == {"champion": WEAK, "staging": BEST}
    assert events(registry) == [(FORCED, WEAK, None)]


def test_a_flipped_byte_is_refused_by_file_and_recorded(spoilable):
    registry, _, files = spoilable
    registry.fetch(registry.version("mine", 1))  # a whole copy in the cache does not hide the spoiled one
    flip(files / "model" / "adapter_model.safetensors")
    for force in (None, "please"):
        said = refusal(promote, registry, "mine", 1, force=force)
        assert "mine/1: model/adapter_model.safetensors is missing or does not match the hash" in said
    assert events(registry) == [(REFUSED, 1, None)] * 2
    assert champion(registry) is None


def test_a_rewritten_manifest_is_refused(spoilable):
    registry, _, files = spoilable
    manifest = json.loads((files / "manifest.json").read_text())
    del manifest["files"]["model/adapter_model.safetensors"]
    (files / "manifest.json").write_text(json.dumps(manifest))
    assert "mine/1: manifest.json is missing or does not match" in refusal(promote, registry, "mine", 1)


def test_lost_files_are_refused(spoilable):
    registry, _, files = spoilable
    shutil.rmtree(files)
    assert "mine/1: " in refusal(promote, registry, "mine", 1)
    assert champion(registry) is None


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# --- roll back


def test_a_rollback_goes_back_step_by_step(registry):
    for number in (WEAK, GOOD, BEST):
        promote(registry, "mine", number, force="x")
    assert roll_back(registry, "mine").version.number == GOOD
    assert roll_back(registry, "mine").version.number == WEAK
    assert "no earlier holder" in refusal(roll_back, registry, "mine")
    assert champion(registry) == WEAK
    promote(registry, "mine", BEST)
    assert roll_back(registry, "mine").version.number == WEAK
    assert [kind for kind, *_ in events(registry)] == [FORCED] * 3 + [ROLLED_BACK] * 2 + [PROMOTED, ROLLED_BACK]


def test_a_rollback_to_a_named_version(registry):
    for number in (WEAK, GOOD, BEST):
        promote(registry, "mine", number, force="x")
    assert "was not held by version 4 (but by 1, 2)" in refusal(roll_back, registry, "mine", FORGETFUL)
    assert roll_back(registry, "mine", WEAK).event.before == BEST
    assert champion(registry) == WEAK


def test_an_alias_that_was_moved_by_hand_is_told_and_can_be_rolled_back(registry):
    promote(registry, "mine", WEAK, force="x")
    registry.call("set_registered_model_alias", "mine", "champion", str(FORGETFUL))
    seen = head(registry, "mine", "champion")
    assert (seen.champion, seen.held) == (FORGETFUL, [WEAK])
    assert roll_back(registry, "mine").version.number == WEAK


def test_two_rollbacks_at_once_take_one_step(registry, monkeypatch):
    for number in (WEAK, GOOD, BEST):
        promote(registry, "mine", number, force="x")
    seen = head(registry, "mine", "champion")
    assert roll_back(registry, "mine").version.number == GOOD
    monkeypatch.setattr("ialign_ray.registry.promotion.head", lambda *_: seen)
    assert "changed by another process" in refusal(roll_back, registry, "mine")
    assert champion(registry) == GOOD


# --- resolve


@pytest.mark.parametrize(
    ("reference", "number", "alias"),
    [
        ("champion", BEST, "champion"),
        ("mine", BEST, "champion"),
        ("mine@champion", BEST, "champion"),
        ("mine@old", WEAK, "old"),
        ("mine/2", GOOD, None),
        ("models:/mine/2", GOOD, None),
        ("models:/mine@old", WEAK, "old"),
        ("models:/mine", BEST, "champion"),
    ],
)
def test_references(registry, reference, number, alias):
    promote(registry, "mine", BEST, force="x")
    promote(registry, "mine", WEAK, alias="old", force="x")
    found = resolve(reference, registry)
    assert (found.version.number, found.alias) == (number, alias)
    assert (found.folder / "adapter_config.json").exists()
    assert f"mine/{number}" in str(found)


def test_references_that_lead_nowhere(registry, library):
    assert "has no alias 'champion' (it has: none yet)" in refusal(resolve, "champion", registry)
    assert "no model 'other' (it has: mine)" in refusal(resolve, "other@champion", registry)
    assert "no model 'other' (it has: mine)" in refusal(resolve, "models:/other", registry)
    assert "no version 9 (it has: 1, 2, 3, 4)" in refusal(resolve, "mine/9", registry)
    promote(registry, "mine", BEST)
    assert "no alias 'staging' (it has: champion)" in refusal(resolve, "mine@staging", registry)
    register(registry, library / "runs" / "small" / "good", "another")
    assert "name one: another@champion, mine@champion" in refusal(resolve, "champion", registry)


def test_the_resolved_adapter_is_the_one_that_was_registered(registry, library):
    promote(registry, "mine", BEST)
    ids = torch.arange(3, 20)[None]
    found, _, _ = open_model(resolve("champion", registry).folder, None)
    expected, _, _ = open_model(library / "runs" / "small" / "best", None)
    other, _, _ = open_model(library / "runs" / "small" / "weak", None)
    assert torch.equal(found(ids).logits, expected(ids).logits)
    assert not torch.equal(found(ids).logits, other(ids).logits)


def test_a_spoiled_copy_in_the_cache_is_fetched_anew(spoilable):
    registry, _, _ = spoilable
    folder = resolve("mine/1", registry).folder
    flip(folder / "adapter_model.safetensors")
    good = resolve("mine/1", registry).folder / "adapter_model.safetensors"
    assert good.read_bytes() == (spoilable[1] / MODEL / "adapter_model.safetensors").read_bytes()


def test_a_version_of_another_tool_is_refused(registry):
    run = registry.call("create_run", "0").info.run_id
    registry.call("create_model_version", "mine", f"runs:/{run}/model", run)
    assert "mine/5 was not registered by ialign" in refusal(resolve, "mine/5", registry)
    assert "mine/5 was not registered by ialign" in refusal(promote, registry, "mine", 5, force="x")


# --- registries that cannot be used


def test_no_registry(tmp_path):
    assert "does not exist, so there is no registry" in refusal(Registry, str(tmp_path))
    assert not (tmp_path / "mlflow.db").exists()


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is not a database")
    for create in (False, True):
        assert "is not a SQLite database" in refusal(Registry, str(tmp_path), create=create)


def test_a_database_of_another_mlflow(registry, tmp_path):
    with sqlite3.connect(tmp_path / "runs" / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
    said = refusal(Registry, f"sqlite:///{tmp_path}/runs/../runs/mlflow.db")  # MLflow keeps what it opened, by address
    assert "another version of MLflow" in said
    assert "mlflow db upgrade" in said


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert "http://127.0.0.1:9 cannot be reached" in refusal(Registry("http://127.0.0.1:9").names)


def test_a_folder_of_files_is_no_registry():
    assert "is neither an MLflow server nor a database" in refusal(Registry, "file:///tmp/mlruns")


def test_another_place_for_files_is_refused_after_the_first_registration(spoilable, tmp_path):
    _, run, _ = spoilable
    moved = Registry(str(tmp_path / "runs"), artifacts=str(tmp_path / "elsewhere"))
    run = make_run(small_experiment(tmp_path, registry_model(run)), "other", STRENGTHS["best"], seed=1)
    assert "tracking.artifacts is" in refusal(register, moved, run, "mine")
    assert register(moved, run, "new")[1]
    assert any((tmp_path / "elsewhere" / "new").rglob("manifest.json"))
