import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from ialign_ray import storage
from ialign_ray.config import build_experiment
from ialign_ray.errors import ConfigError
from ialign_ray.storage import (
    MANIFEST,
    alone,
    is_intact,
    join_writers,
    json_hash,
    once,
    read_json,
    whole_folder,
    write_json,
    write_text,
)
from ialign_ray.training.trainer import train
from ialign_ray.workflows.evaluate import judge


def fill(folder, text="first"):
    with whole_folder(folder, {"step": 3}) as scratch:
        (scratch / "a.txt").write_text(text)
        (scratch / "sub").mkdir()
        (scratch / "sub" / "b.bin").write_bytes(bytes(range(256)))
    return folder


def hidden(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_a_whole_folder_is_intact_and_knows_its_meta(tmp_path):
    folder = fill(tmp_path / "deep" / "x")
    assert is_intact(folder)
    manifest = read_json(folder / MANIFEST)
    assert manifest["meta"] == {"step": 3}
    assert set(manifest["files"]) == {"a.txt", "sub/b.bin"}
    assert hidden(folder.parent) == []


def test_a_new_folder_takes_the_old_ones_place(tmp_path):
    fill(tmp_path / "x")
    (tmp_path / "x" / "stray").write_text("old")
    fill(tmp_path / "x", "second")
    assert (tmp_path / "x" / "a.txt").read_text() == "second"
    assert not (tmp_path / "x" / "stray").exists()
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_folder(tmp_path, kind):
    def failing():
        with whole_folder(tmp_path / "x") as scratch:
            (scratch / "a.txt").write_text("half")
            raise kind

    with pytest.raises(kind):
        failing()
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "x")
    with pytest.raises(kind):
        failing()
    assert (tmp_path / "x" / "a.txt").read_text() == "first"
    assert is_intact(tmp_path / "x")
    assert hidden(tmp_path) == []


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    fill(tmp_path / "x")
    rename = Path.rename

    def refuse(path, target):
        if path.name != "old" and Path(target) == tmp_path / "x":
            raise OSError("refused")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="refused"):
        fill(tmp_path / "x", "second")
    assert (tmp_path / "x" / "a.txt").read_text() == "first"
    assert is_intact(tmp_path / "x")
    assert hidden(tmp_path) == []


def test_nothing_is_seen_before_the_end(tmp_path):
    with whole_folder(tmp_path / "x") as scratch:
        (scratch / "a.txt").write_text("half")
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "x").exists()


def flip(folder):
    path = folder / "sub" / "b.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def tear(folder):
    path = folder / MANIFEST
    path.write_text(path.read_text()[:-20])


SPOILERS = {
    "flipped": flip,
    "short": lambda f: (f / "a.txt").write_text("fir"),
    "missing": lambda f: (f / "a.txt").unlink(),
    "torn manifest": tear,
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "other manifest": lambda f: (f / MANIFEST).write_text("{}"),
    "listed manifest": lambda f: (f / MANIFEST).write_text('{"files": ["a.txt"]}'),
    "binary manifest": lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_damage_is_seen(tmp_path, how):
    folder = fill(tmp_path / "x")
    SPOILERS[how](folder)
    assert not is_intact(folder)


def test_a_missing_folder_is_not_intact(tmp_path):
    assert not is_intact(tmp_path / "none")


def test_once_makes_once_and_mends_damage(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "n").write_text(str(len(made)))

    for _ in range(2):
        assert once(tmp_path / "x", make) == tmp_path / "x"
    assert len(made) == 1
    (tmp_path / "x" / "n").write_text("broken")
    once(tmp_path / "x", make)
    assert (tmp_path / "x" / "n").read_text() == "2"


def test_text_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "a.json"
    write_json(path, {"ä": [1, 2], "p": tmp_path})
    assert read_json(path) == {"ä": [1, 2], "p": str(tmp_path)}
    assert "ä" in path.read_text(encoding="utf-8")

    def broken(*_):
        raise OSError("full")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(OSError, match="full"):
        write_text(path, "new")
    assert read_json(path)["ä"] == [1, 2]
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_hash_is_blind_to_key_order():
    assert json_hash({"a": 1, "b": [2]}) == json_hash(json.loads('{"b": [2], "a": 1}'))
    assert json_hash({"a": 1}) != json_hash({"a": 2})


HOLDS = """
import sys, time
from pathlib import Path
from ialign_ray.storage import alone
with alone(Path(sys.argv[1]), "`ialign align`"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and that process."""
    folder = tmp_path / "runs" / "tiny" / "align"
    holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    yield folder, holder
    holder.kill()
    holder.wait()


def test_a_folder_is_held_by_one_process_until_it_dies(held):
    folder, holder = held
    refused = pytest.raises(ConfigError, match=f"{folder} is in use by another `ialign align`; wait")
    with refused, alone(folder, "`ialign align`"):
        pytest.fail("held twice")
    holder.kill()
    holder.wait()
    for _ in range(2):
        with alone(folder, "`ialign align`"):
            pass


def test_no_second_process_trains_a_run_or_judges_in_its_folder(held, experiment_data):
    folder, _ = held
    experiment_data["storage"]["runs"] = str(folder.parents[1])
    experiment = build_experiment(experiment_data, "x")
    with pytest.raises(ConfigError, match=f"{folder} is in use by another `ialign align`; wait"):
        train(experiment, "align", resume=True)
    with pytest.raises(ConfigError, match="is in use by another `ialign compare` or `ialign evaluate`"):
        judge(experiment, {}, folder, Console(quiet=True))
    assert not folder.exists()


WRITES = """
import sys
from pathlib import Path
from ialign_ray.storage import join_writers
held = join_writers(Path(sys.argv[1]))
print("writes", flush=True)
input()
"""


def test_a_command_waits_for_the_workers_of_one_that_was_killed(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", WRITES, str(folder)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["writes\n"] * 2  # side by side
        monkeypatch.setattr(storage, "WRITERS_SECONDS", 0.1)
        with pytest.raises(ConfigError, match=f"still write to {folder}"), alone(folder, "`ialign align`"):
            pytest.fail("two drivers at once")
        workers[0].communicate("\n")
        monkeypatch.setattr(storage, "WRITERS_SECONDS", 30)
        threading.Timer(0.7, workers[1].kill).start()
        with alone(folder, "`ialign align`"):
            assert workers[1].poll() is not None
            join_writers(folder).close()  # its own workers are not kept out
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, caplog, code):
    def none(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", none)
    with alone(tmp_path / "run", "`ialign align`"), alone(tmp_path / "run", "`ialign align`"):
        pass
    assert f"{tmp_path / 'run'} cannot be locked ({os.strerror(code)}); make sure" in caplog.text
