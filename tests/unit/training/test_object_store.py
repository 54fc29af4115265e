"""Corpora, a run's mirror and registered versions on an S3-compatible server, with credentials of the environment."""

import shutil
from pathlib import Path

import boto3
import fsspec
import pytest
from object_store import BUCKET, object_store
from refusals import refused
from rich.console import Console
from test_mirror import PRINT, advance, files

from ialign_ray.config import build_experiment
from ialign_ray.errors import RegistryError
from ialign_ray.storage import is_intact
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.mirror import Mirror, mirrored

pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as url:
        yield url


@pytest.fixture
def store(server):
    """An empty bucket."""
    client = boto3.client("s3")
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    fsspec.filesystem("s3").invalidate_cache()
    return server


def keys():
    return sorted(o["Key"] for o in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", []))


def send(folder, prefix):
    for path in Path(folder).rglob("*"):
        if path.is_file():
            boto3.client("s3").upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder).as_posix()}")


@pytest.mark.slow
def test_an_experiment_reads_corpora_replay_and_suites_from_it(store, ialign, write_yaml, experiment_data, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("first.csv", "second.jsonl", "third.parquet", "old.jsonl", "suite.parquet"):
        shutil.move(tmp_path / name, data / name)
    send(data, "corpora")
    experiment_data["storage"]["data"] = f"{store}/corpora"
    code, out, err = ialign("validate", write_yaml(experiment_data))
    assert code == 0, err
    assert "tiny: valid" in out
    experiment_data["corpora"][1]["path"] = "sec*.jsonl"
    assert ialign("data", "build", write_yaml(experiment_data))[0] == 0
    experiment_data["corpora"][0]["path"] = "none.csv"
    refused(ialign("validate", write_yaml(experiment_data)), f"{store}/corpora/none.csv", "does not exist")


def test_without_credentials_one_sentence(store, ialign, write_yaml, experiment_data, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.filesystem("s3").clear_instance_cache()
    experiment_data["storage"]["data"] = f"{store}/corpora"
    experiment_data["corpora"][0]["path"] = "only-there.csv"  # the others are found next to the experiment
    refused(ialign("validate", write_yaml(experiment_data)), "cannot be opened", "credentials")
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_run_is_mirrored_and_comes_back(store, tmp_path):
    run, mirror = tmp_path / "here" / "align", Mirror(f"{store}/runs/tiny/align")
    checkpoints = Checkpoints(run / "checkpoints", PRINT)
    with mirrored(mirror, run, checkpoints, Console(quiet=True)):
        for step in (1, 2):
            advance(run, step)
    sent = files(run)
    shutil.rmtree(run)
    assert Mirror(mirror.address).pull(run, PRINT, pytest.fail) == "step-00000002"
    assert files(run) == sent
    assert is_intact(checkpoints.of(2))


def test_an_upload_that_died_is_no_checkpoint(store, tmp_path, monkeypatch):
    """The sender dies at any of its requests, one after the other; what counts is always whole."""
    run, mirror = tmp_path / "here" / "align", Mirror(f"{store}/runs/tiny/align")
    mirror.push(run.parent / "align", "step-00000001", (advance(run, 1)).fingerprint)
    checkpoints = advance(run, 2)
    requests = {"put_file", "pipe_file", "rm_file"}
    for dies_at in range(20):
        left = [dies_at]

        class Dying:
            def __init__(self, system, left=left):
                self._system, self._left = system, left

            def __getattr__(self, name):
                real = getattr(self._system, name)
                if name not in requests:
                    return real

                def call(*arguments, **named):
                    if self._left[0] == 0:
                        raise ConnectionError("the sender died")
                    self._left[0] -= 1
                    return real(*arguments, **named)

                return call

        dying = Mirror(mirror.address)
        dying._system = Dying(dying._system)
        try:
            dying.push(run, "step-00000002", PRINT)
            died = False
        except Exception:
            died = True
        back = tmp_path / f"back-{dies_at}" / "align"
        name = Mirror(mirror.address).pull(back, PRINT, pytest.fail)
        assert name in ("step-00000001", "step-00000002")
        assert all(is_intact(p) for p in (back / "checkpoints").iterdir())
        if not died:
            assert dies_at > 2
            assert name == "step-00000002"
            break
    assert Checkpoints(back / "checkpoints", checkpoints.fingerprint).newest().name == "step-00000002"


def test_versions_lie_on_it_and_a_spoiled_one_is_refused(store, library, tmp_path, migrated, monkeypatch):
    from ialign_ray.registry.promotion import register
    from ialign_ray.registry.store import Registry

    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(migrated, tmp_path / "runs" / "mlflow.db")
    registry = Registry(str(tmp_path / "runs"), artifacts=f"{store}/registry")
    version, new = register(registry, library / "runs" / "small" / "good", "mine")
    assert new
    assert any(key.startswith("registry/mine/") and key.endswith("manifest.json") for key in keys())
    folder = registry.fetch(version)
    assert is_intact(folder)
    key = next(k for k in keys() if k.endswith("adapter_model.safetensors"))
    whole = boto3.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"].read()
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=whole[:-1])
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(RegistryError, match=r"adapter_model.safetensors is missing or does not match the hash"):
        registry.fetch(version)


def test_a_build_of_the_same_data_is_found_again(store, experiment_data, tmp_path):
    """What a file on the server is, is told by its mark there: unchanged data is not cleaned again."""
    from ialign_ray.streaming.curate import curate

    send_one = tmp_path / "second.jsonl"
    boto3.client("s3").upload_file(str(send_one), BUCKET, "second.jsonl")
    experiment_data["corpora"][1]["path"] = f"{store}/second.jsonl"
    experiment = build_experiment(experiment_data, "test")
    first, _ = curate(experiment)
    assert curate(experiment)[0].folder == first.folder
    send_one.write_text(send_one.read_text().replace("house 16", "house 99"))
    boto3.client("s3").upload_file(str(send_one), BUCKET, "second.jsonl")
    fsspec.filesystem("s3").invalidate_cache()
    assert curate(experiment)[0].folder != first.folder
