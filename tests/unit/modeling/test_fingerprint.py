from __future__ import annotations

import os
import shutil

import pytest

from ialign_ray.config import ModelSettings
from ialign_ray.modeling import fingerprint
from ialign_ray.modeling.fingerprint import base_identity, run_identity
from ialign_ray.storage import whole_folder


@pytest.fixture
def folder(tmp_path, tiny_model_folder):
    shutil.copytree(tiny_model_folder, tmp_path / "model")
    return tmp_path / "model"


def of(folder):
    return base_identity(ModelSettings(id=str(folder)))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("largest", [1 << 25, 0])
def test_a_folder_whose_weights_or_tokenizer_change_is_another_model(folder, monkeypatch, name, largest):
    monkeypatch.setattr(fingerprint, "READ_WHOLE", largest)
    before = of(folder)
    assert of(folder) == before
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1  # of the same size
    (folder / name).write_bytes(data)
    os.utime(folder / name, ns=(1, 1))
    assert of(folder) != before


def test_a_copied_folder_with_another_readme_is_the_same_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("mine")
    assert of(folder) == of(tmp_path / "copy")


def test_a_hub_model_is_its_commit(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--me--small"
    settings = ModelSettings(id="me/small")
    assert base_identity(settings) == ["me/small", None]
    for commit in ("a" * 40, "b" * 40):
        (root / "snapshots" / commit).mkdir(parents=True)
        (root / "snapshots" / commit / "config.json").write_text("{}")
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        assert base_identity(settings) == ["me/small", commit]


def test_a_run_is_its_weights_and_tokenizer_not_its_record(tmp_path):
    seen = []
    for weights, record in (("w", "1"), ("w", "2"), ("v", "2")):
        with whole_folder(tmp_path / "model") as scratch:
            (scratch / "adapter_model.safetensors").write_text(weights)
            (scratch / "record.json").write_text(record)
        seen.append(run_identity(tmp_path / "model"))
    assert seen[0] == seen[1] != seen[2]
