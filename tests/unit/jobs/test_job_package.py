"""What a job takes along: no data, runs or secrets, not too much, and the same bytes each time."""

import os
import zipfile

import pytest

from ialign_ray.errors import ConfigError
from ialign_ray.jobs import package
from ialign_ray.jobs.package import Package

SENT = ("experiment.yaml", "code/model.py", "code/templates/jav.yaml", "notes.md", "corpus.jsonl")
KEPT_HERE = (
    *(".git/config", ".venv/bin/python", "code/__pycache__/model.pyc", ".mypy_cache/x.json", "mine.egg-info/PKG-INFO"),
    *("data/corpus.parquet", "runs/mine/align/model/adapter.bin", "mlflow.db", "model.safetensors", "deep/er/w.pt"),
    *(".env", "code/.env.local", "server.pem", "id_rsa", "id_ed25519.pub", ".aws/credentials", ".ssh/config", ".netrc"),
    *(
        "credentials.json",
        "api_keys.yaml",
        "keys.yaml",
        "my-secret.yaml",
        "token.txt",
        "ignored/by-git.txt",
        "code/scratch.log",
    ),
    *("code/only-ray.csv",),
)


@pytest.fixture
def folder(tmp_path):
    for name in (*SENT, *KEPT_HERE):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"in {name}")
    work = tmp_path / "work"
    (work / ".gitignore").write_text("ignored/\n")
    (work / "code" / ".gitignore").write_text("*.log\n!keep.log\n")
    (work / "code" / ".rayignore").write_text("/only-ray.csv\n")
    return work


def test_data_runs_secrets_and_what_git_ignores_stay_here(folder):
    ignores = {".gitignore", "code/.gitignore", "code/.rayignore"}
    assert set(Package.of(folder).files) == {*SENT, *ignores}


def test_a_deeper_ignore_file_can_take_a_name_back(folder):
    (folder / "code" / "keep.log").write_text("kept")
    assert "code/keep.log" in Package.of(folder).files


def test_links_out_of_the_folder_stay_here(folder, tmp_path):
    (tmp_path / "outside.txt").write_text("private")
    (folder / "out.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "home").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    (folder / "dead").symlink_to(folder / "nothing")
    (folder / "inside.md").symlink_to(folder / "notes.md")
    found = set(Package.of(folder).files)
    assert "inside.md" in found
    assert not found & {"out.txt", "dead"}
    assert not [f for f in found if f.startswith(("home", "loop"))]


def test_the_zip_holds_our_code_where_the_folder_has_none_and_is_the_same_each_time(folder, tmp_path):
    (folder / "notes.md").chmod(0o755)
    Package.of(folder).write(tmp_path / "one.zip")
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    Package.of(folder).write(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        names = archive.namelist()
        assert archive.read("code/model.py") == b"in code/model.py"
        assert archive.getinfo("notes.md").external_attr >> 16 == 0o755
    assert "ialign_ray/jobs/__main__.py" in names
    assert "ialign_ray/tasks/templates/eng.yaml" in names
    assert not [n for n in names if "__pycache__" in n]


def test_a_checkout_brings_its_own_code(folder, tmp_path):
    (folder / "ialign_ray").mkdir()
    (folder / "ialign_ray" / "__init__.py").write_text("mine = True\n")
    Package.of(folder).write(tmp_path / "one.zip")
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert [n for n in archive.namelist() if n.startswith("ialign_ray/")] == ["ialign_ray/__init__.py"]


def test_too_much_is_refused_by_name_before_anything_is_packed(folder, monkeypatch):
    monkeypatch.setattr(package, "LIMIT", 2 * 2**20)
    (folder / "large.csv").write_bytes(bytes(2 * 2**20))
    with pytest.raises(ConfigError, match=r"2 MiB .* 2 are allowed \(largest: large.csv \(2 MiB\)") as caught:
        Package.of(folder)
    assert ".rayignore" in str(caught.value)
    (folder / ".rayignore").write_text("large.csv\n")
    assert "large.csv" not in Package.of(folder).files


def test_no_folder(tmp_path):
    with pytest.raises(ConfigError, match="--working-dir .*none is not a folder; pass the one containing"):
        Package.of(tmp_path / "none")
