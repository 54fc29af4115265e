"""A run's copies: whole or not counted, and a run is taken back only where that is further than what is here."""

import json
import resource
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from refusals import refused
from rich.console import Console

from ialign_ray.config import build_experiment
from ialign_ray.errors import CheckpointError, ConfigError
from ialign_ray.storage import is_intact, whole_folder
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.mirror import Mirror, bring_back, mirrored, state_of

PRINT = "same settings"


def advance(run, step, *, finished=False):
    """A run folder as training leaves it after a step, with a ledger part and a checkpoint of that step."""
    checkpoints = Checkpoints(run / "checkpoints", PRINT)
    part = run / "ledger" / f"{step - 1:08d}-{step:08d}"
    part.mkdir(parents=True)
    (part / "0-of-1.parquet").write_text(f"rows of step {step}")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step}) + "\n")
    with whole_folder(checkpoints.of(step), {"step": step, "fingerprint": PRINT}) as folder:
        (folder / "weights").write_bytes(bytes([step]) * 1000)
    if finished:
        with whole_folder(run / "model") as folder:
            (folder / "adapter").write_text(f"of step {step}")
    return checkpoints


@pytest.fixture
def run(tmp_path):
    return tmp_path / "here" / "align"


@pytest.fixture
def mirror(tmp_path):
    return Mirror(f"file://{tmp_path}/mirror/tiny/align")


def told():
    lines = []
    return lines, lines.append


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_comes_back_as_it_was_sent(run, mirror, tmp_path):
    checkpoints = advance(run, 1)
    mirror.push(run, state_of(run, checkpoints), PRINT)
    sent = files(run)
    lines, tell = told()
    back = tmp_path / "elsewhere" / "align"
    assert mirror.pull(back, PRINT, tell) == "step-00000001"
    assert files(back) == sent
    assert is_intact(back / "checkpoints" / "step-00000001")
    assert lines == []
    assert not [p for p in back.parent.iterdir() if p.name.startswith(".")]
    assert not [p for p in run.parent.iterdir() if p.name.startswith(".")]


def test_nothing_is_sent_twice_and_old_copies_go(run, mirror):
    for step in range(1, 5):
        checkpoints = advance(run, step)
        mirror.push(run, state_of(run, checkpoints), PRINT)
        root = Path(mirror.address.removeprefix("file://"))
        objects = {p: p.stat().st_mtime_ns for p in (root / "objects").iterdir()}
        mirror.push(run, state_of(run, checkpoints), PRINT)
        assert objects == {p: p.stat().st_mtime_ns for p in (root / "objects").iterdir()}
    assert mirror.names() == ["step-00000004", "step-00000003"]
    listed = json.loads((root / "copies" / "step-00000003.json").read_text())["files"]
    newest = json.loads((root / "copies" / "step-00000004.json").read_text())["files"]
    assert {p.name for p in objects} == {*listed.values(), *newest.values()}


@pytest.mark.parametrize("how", ["missing", "torn", "other bytes", "list torn", "no list"])
def test_a_torn_copy_is_passed_over_for_the_one_before(run, mirror, tmp_path, how):
    for step in (1, 2):
        checkpoints = advance(run, step)
        mirror.push(run, state_of(run, checkpoints), PRINT)
    root = Path(mirror.address.removeprefix("file://"))
    newest = root / "copies" / "step-00000002.json"
    weights = root / "objects" / json.loads(newest.read_text())["files"]["checkpoints/step-00000002/weights"]
    if how == "missing":
        weights.unlink()
    elif how == "torn":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "other bytes":
        weights.write_bytes(b"x" * weights.stat().st_size)
    elif how == "list torn":
        newest.write_text(newest.read_text()[:50])
    else:  # the upload died before the list
        newest.unlink()
    lines, tell = told()
    back = tmp_path / "elsewhere" / "align"
    assert mirror.pull(back, PRINT, tell) == "step-00000001"
    assert not (back / "checkpoints" / "step-00000002").exists()
    assert (back / "metrics.jsonl").read_text() == '{"step": 1}\n'
    if how == "no list":
        assert lines == []
    else:
        assert "step-00000002" in lines[0]
        assert "torn" in lines[0]
    shutil.rmtree(root / "objects")
    assert mirror.pull(tmp_path / "third" / "align", PRINT, tell) is None


def test_a_torn_object_is_sent_again(run, mirror, tmp_path):
    checkpoints = advance(run, 1)
    mirror.push(run, state_of(run, checkpoints), PRINT)
    for path in (Path(mirror.address.removeprefix("file://")) / "objects").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    mirror.push(run, state_of(run, checkpoints), PRINT)
    assert mirror.pull(tmp_path / "elsewhere" / "align", PRINT, pytest.fail) == "step-00000001"


def test_a_list_that_was_torn_stops_no_later_copy(run, mirror, tmp_path):
    mirror.push(run, state_of(run, advance(run, 1)), PRINT)
    listed = Path(mirror.address.removeprefix("file://")) / "copies" / "step-00000001.json"
    listed.write_text(listed.read_text()[:40])
    mirror.push(run, state_of(run, advance(run, 2)), PRINT)
    assert mirror.pull(tmp_path / "elsewhere" / "align", PRINT, pytest.fail) == "step-00000002"


def test_a_list_that_leads_out_of_the_run_is_not_followed(run, mirror, tmp_path):
    mirror.push(run, state_of(run, advance(run, 1)), PRINT)
    listed = Path(mirror.address.removeprefix("file://")) / "copies" / "step-00000001.json"
    listed.write_text(listed.read_text().replace("metrics.jsonl", "../../metrics.jsonl"))
    lines, tell = told()
    assert mirror.pull(tmp_path / "elsewhere" / "align", PRINT, tell) is None
    assert "its list cannot be read" in lines[0]
    assert not (tmp_path / "metrics.jsonl").exists()


def test_copies_of_other_settings_are_refused(run, mirror, tmp_path):
    checkpoints = advance(run, 1)
    mirror.push(run, state_of(run, checkpoints), PRINT)
    with pytest.raises(CheckpointError, match="other settings or data; give it another --run name"):
        mirror.pull(tmp_path / "elsewhere" / "align", "others", pytest.fail)


def test_only_what_is_further_is_taken_back(run, mirror, tmp_path):
    console = Console(quiet=True)
    checkpoints = advance(run, 1)
    mirror.push(run, state_of(run, checkpoints), PRINT)
    behind = tmp_path / "behind" / "align"
    shutil.copytree(run, behind)
    advance(run, 2, finished=True)
    (run / "ledger" / ".half").write_text("half written")
    before = files(run)
    bring_back(mirror, run, checkpoints, console)  # the mirror is behind
    assert files(run) == before
    mirror.push(run, state_of(run, checkpoints), PRINT)
    assert mirror.names()[0] == "step-00000002-model"
    lost = Checkpoints(behind / "checkpoints", PRINT)
    part = behind / "ledger" / "00000001-00000009"  # of steps that no checkpoint came to
    part.mkdir()
    bring_back(mirror, behind, lost, console)
    assert state_of(behind, lost) == "step-00000002-model"
    assert not part.exists()
    assert not (behind / "ledger" / ".half").exists()


def test_each_checkpoint_is_sent_while_the_run_goes_on_and_what_it_left_at_its_end(run, mirror, monkeypatch):
    monkeypatch.setattr("ialign_ray.training.mirror.LOOK_SECONDS", 0.01)
    checkpoints = Checkpoints(run / "checkpoints", PRINT)
    with mirrored(mirror, run, checkpoints, Console(quiet=True)):
        advance(run, 1)
        for _ in range(500):
            if mirror.names():
                break
            time.sleep(0.01)
        assert mirror.names() == ["step-00000001"]
        advance(run, 2, finished=True)
    assert mirror.names()[0] == "step-00000002-model"


def test_a_mirror_out_of_reach_ends_no_run(run, tmp_path):
    (tmp_path / "mirror").write_text("a file where the folder should be")
    mirror = Mirror(f"file://{tmp_path}/mirror/tiny/align")
    with (tmp_path / "log").open("w") as log, mirrored(mirror, run, advance(run, 1), Console(file=log, width=300)):
        pass
    said = (tmp_path / "log").read_text()
    assert "storage.mirror file://" in said
    assert "does not answer" in said
    assert "the run continues" in said


@contextmanager
def disk_that_takes(size):
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_here_is_not_the_mirrors_fault(run, mirror, tmp_path):
    checkpoints = advance(run, 1)
    mirror.push(run, state_of(run, checkpoints), PRINT)
    back = tmp_path / "elsewhere" / "align"
    with pytest.raises(CheckpointError) as caught, disk_that_takes(500):
        mirror.pull(back, PRINT, pytest.fail)
    assert str(caught.value).startswith(f"{back} could not be written (File too large); free space or raise the quota")
    assert "--resume" in str(caught.value)
    assert list(back.parent.iterdir()) == []


def test_a_full_mirror_is_told_as_one(run, mirror):
    checkpoints = advance(run, 1)
    with pytest.raises(CheckpointError) as caught, disk_that_takes(500):
        mirror.push(run, state_of(run, checkpoints), PRINT)
    said = "storage.mirror {} could not be written (File too large); free space or raise the quota there"
    assert str(caught.value) == said.format(mirror.address)


def test_an_address_that_no_file_system_knows():
    with pytest.raises(CheckpointError, match="storage.mirror nope://x does not answer"):
        Mirror("nope://x")


@pytest.mark.parametrize("field", ["mirror", "data"])
def test_credentials_in_an_address_are_refused(experiment_data, field):
    experiment_data["storage"][field] = "s3://key:secret@bucket/folder"
    with pytest.raises(ConfigError, match=f"storage.{field}: credentials in an address") as caught:
        build_experiment(experiment_data, "test")
    assert "secret@" not in str(caught.value)


def test_a_new_run_is_not_mixed_with_copies_of_another(run, tmp_path, ialign, write_yaml, experiment_data):
    mirror = Mirror(f"file://{tmp_path}/mirror/tiny/align")
    mirror.push(run, state_of(run, advance(run, 1)), PRINT)
    experiment_data["storage"]["mirror"] = f"file://{tmp_path}/mirror"
    file = write_yaml(experiment_data)
    refused(ialign("align", file), "tiny/align or its mirror holds checkpoints; continue them with --resume")
    refused(ialign("align", file, "--resume"), f"{mirror.address} contains this run with other settings or data")
