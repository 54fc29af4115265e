"""Suites and data beside the experiment file are found there first, from whatever folder it is run."""

import zipfile
from pathlib import Path

import pytest
import yaml

from ialign_ray.config import dump_yaml, load_experiment
from ialign_ray.errors import ConfigError

SUITE = {"kind": "translation", "path": "m", "columns": {"eng": "en", "kat": "ka"}, "pivot": "eng"}


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An experiment's folder, one of data, and a working directory, each with a file of every name."""
    for name in ("exp", "data", "work"):
        folder = tmp_path / name
        (folder / "dev").mkdir(parents=True)
        for file in ("m.en", "m.ka", "z.en.gz", "a.jsonl", "t-eng.txt", "dev/eng.dev"):
            (folder / file).write_text(f"{name}\n", encoding="utf-8")
        with zipfile.ZipFile(folder / "p.zip", "w") as packed:
            packed.writestr("x.en", "x")
        suite = SUITE | {"name": name}
        (folder / "own.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def load(folders, path="m", suites=("own.yaml",), name="x.yaml", stored=False, **more):
    data = {
        "name": "x",
        "languages": {"l1": ["eng"], "l2": ["kat"]},
        "model": {"id": "none"},
        "corpora": [{"name": "c", "path": path, "columns": {"eng": "en", "kat": "ka"}, **more}],
        "replay": {"ratio": 0.5, "sources": [{"path": "a.jsonl"}]},
        "evaluate": {"suites": list(suites)},
        "decontamination": {"sets": [{"name": "s", "path": "dev", "columns": ["eng"]}]},
        "storage": {"data": str(folders / "data")},
    }
    (folders / "exp" / name).write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_experiment(Path("..", "exp", name), stored=stored)


@pytest.mark.parametrize(
    "path", ["m", "a.jsonl", "*.jsonl", "t-{language}.txt", "dev", "dev/*.dev", "p.zip", "p.zip!/x", "z"]
)
def test_data_beside_the_experiment_come_first(folders, path):
    assert load(folders, path).corpora[0].path == str(folders / "work" / ".." / "exp" / path)
    for file in sorted((folders / "exp").rglob("*")):
        if file.is_file() and file.suffix != ".yaml":
            file.unlink()
    (folders / "exp" / "dev").rmdir()
    assert load(folders, path).corpora[0].path == path


def test_every_source_and_suite_is_searched_for(folders):
    found = load(folders)
    assert found.evaluate.suites[0].name == "exp"
    sources = [found.replay.sources[0], found.evaluate.suites[0], found.decontamination.sets[0]]
    assert all(Path(s.path).resolve().parent == folders / "exp" for s in sources)
    (folders / "exp" / "own.yaml").unlink()
    assert load(folders, suites=[{"use": "own.yaml"}]).evaluate.suites[0].name == "work"
    (folders / "work" / "own.yaml").unlink()
    with pytest.raises(ConfigError, match="neither a bundled suite nor a YAML file"):
        load(folders)


@pytest.mark.parametrize("path", ["s3://b/m", "pocket:parallel", "/abs/m", "absent", "x"])
def test_other_paths_stay_what_they_are(folders, path):
    assert load(folders, path).corpora[0].path == path


def test_the_experiment_itself_is_no_data(folders):
    assert load(folders, "flores", name="flores.yaml").corpora[0].path == "flores"


def test_a_stored_experiment_keeps_the_paths_of_its_run(folders):
    assert load(folders, stored=True).corpora[0].path == "m"
    found = load(folders)
    (folders / "exp" / "stored.yaml").write_text(dump_yaml(found), encoding="utf-8")
    assert load_experiment(folders / "exp" / "stored.yaml", stored=True) == found


def test_paths_from_the_working_directory_stay_relative(folders, monkeypatch):
    monkeypatch.chdir(folders / "data")
    (folders / "data" / "x.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "x",
                "model": {"id": "none"},
                "languages": {"l1": ["eng"], "l2": ["kat"]},
                "corpora": [{"name": "c", "path": "m", "columns": {"eng": "en", "kat": "ka"}}],
            }
        ),
        encoding="utf-8",
    )
    assert load_experiment("x.yaml").corpora[0].path == "m"
