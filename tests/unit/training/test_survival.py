"""Runs that are killed, stopped and starved of disk: what they leave is whole, and they end as if undisturbed.

The workers are real processes (forked from a warm server, joined by gloo), so SIGKILL is a real one; Ray's part,
replacing lost workers, is tested in tests/integration/test_elastic.py.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import forkserver

import pytest
import torch
from safetensors.torch import load_file
from survivor import DEATHS, FINAL, SENTENCE, START, Job, attempt, attempt_on_a_small_disk

from ialign_ray.config import build_experiment
from ialign_ray.storage import is_intact, read_json
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.run_log import ENDING, VALIDATIONS, RunLogFile, ledger, records, shown_warnings

pytestmark = pytest.mark.slow

STEPS, EVERY = 12, 3
PATIENCE = 300
"""Seconds; an attempt takes tenths of one, unless the machine is busy with something else."""
processes = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def warm_server():
    """The server finds what it preloads by PYTHONPATH alone (Python 3.11), and says nothing where it does not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        processes.set_forkserver_preload(["warm_survivor"])
        forkserver.ensure_running()


@pytest.fixture
def job(experiment_data, tmp_path):
    """Undisturbed, with an adapter whose dropout must be drawn again in each repeated step."""
    experiment_data["model"] |= {"tuning": "lora", "lora": {"rank": 4, "dropout": 0.3}}
    experiment_data["train"] |= {"steps": STEPS, "checkpoint_every": EVERY}
    experiment = build_experiment(experiment_data, "x")
    prepared = prepare(experiment)
    save_data(tmp_path / "data", prepared.plan, prepared.encoder)
    return run_of(Job(experiment, tmp_path / "data", tmp_path, prepared.encoder.tokenizer.pad_token_id), "whole")


def run_of(job, name):
    run = job.run.parent / name if job.run.name in ("whole", "broken", "watched") else job.run / name
    run.mkdir()
    return replace(job, run=run)


def full(job):
    """All weights instead of an adapter: without dropout, whose draws depend on the number of workers."""
    model = job.experiment.model.model_copy(update={"tuning": "full"})
    return replace(job, experiment=job.experiment.model_copy(update={"model": model}))


def start(job, work=attempt, *arguments):
    process = processes.Process(target=work, args=(job, *arguments))
    process.start()
    return process


def finish(process, seconds=PATIENCE):
    process.join(seconds)
    assert process.exitcode is not None
    return process.exitcode


def group(job, world, meeting, victim=0, **trouble):
    """One process a worker; the trouble is the victim's."""
    jobs = [replace(job, rank=r, world=world, meeting=meeting) for r in range(world)]
    jobs[victim] = replace(jobs[victim], **trouble)
    return [start(j) for j in jobs]


def wait_for_one(group, seconds=PATIENCE):
    """Until all have ended well or one has not; then the others are killed, as Ray Train would."""
    until = time.monotonic() + seconds
    while any(p.exitcode is None for p in group) and not any(p.exitcode for p in group):
        assert time.monotonic() < until
        time.sleep(0.005)
    for process in group:
        if any(p.exitcode for p in group):
            process.kill()
        process.join()


def await_step(run, step, seconds=PATIENCE):
    until = time.monotonic() + seconds
    while not any(r["step"] >= step for r in records(run)):
        assert time.monotonic() < until
        time.sleep(0.002)


def consumed(job):
    rows = ledger(job.run).to_pydict()
    return Counter(zip(rows["step"], rows["epoch"], rows["row_id"], strict=True))


def planned(job):
    size, plan = job.experiment.train.batch_size, prepare(job.experiment).plan
    drawn = ((i // size + 1, plan.draw(i)) for i in range(STEPS * size))
    return Counter((step, d.epoch, d.row_id) for step, d in drawn)


def same_bits(a, b):
    a, b = load_file(a.run / FINAL), load_file(b.run / FINAL)
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def assert_whole(job):
    """Exactly once, every record, and nothing half written left over."""
    assert consumed(job) == planned(job)
    assert [r["step"] for r in records(job.run)] == list(range(1, STEPS + 1))
    names = sorted(p.name for p in (job.run / "checkpoints").iterdir())
    assert names == ["step-00000009", "step-00000012"]
    assert all(is_intact(job.run / "checkpoints" / n) for n in names)


def sentence(job, rank=0):
    return (job.run / f"{rank}-{SENTENCE}").read_text()


def test_a_run_killed_at_any_file_operation_ends_with_the_same_bits(job):
    """SIGKILL right before the n-th operation below the run's folder: most are those of saving and pruning."""
    assert finish(start(job)) == 0
    dice = random.Random(0)
    kills, deaths, number = 0, "", 0
    while kills < 25:
        number += 1
        broken = run_of(job, f"broken-{number}")
        while code := finish(start(replace(broken, die_at=dice.randint(1, 90)))):
            assert code == -signal.SIGKILL
            kills += 1
        assert same_bits(job, broken)
        assert_whole(broken)
        deaths += (broken.run / DEATHS).read_text()
    for place in ("checkpoints/.step-", "manifest.json", "ledger", "metrics.jsonl"):
        assert place in deaths


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(job):
    assert finish(start(job)) == 0
    dice = random.Random(0)
    kills, number = 0, 0
    while kills < 6:
        number += 1
        broken = run_of(job, f"broken-{number}")
        patience = 0.0
        while True:
            process = start(broken)
            process.join(patience + dice.uniform(0.05, 0.3))
            process.kill()
            if finish(process) == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
            patience += 0.05  # or a busy machine would never come to an end
        assert same_bits(job, broken)
        assert_whole(broken)


@pytest.fixture
def watched(experiment_data, job, tmp_path):
    """As `job`, validated, ended early and kept at its best step."""
    validation = {"every": 2, "pairs": 12, "instructions": 3}
    rule = {"metric": "validation/instructions", "patience": 4, "min_delta": 100.0}
    train = experiment_data["train"] | {"validation": validation, "stop": [rule], "keep": "best", "learning_rate": 0.1}
    experiment = build_experiment(experiment_data | {"train": train}, "x")
    prepared = prepare(experiment)
    save_data(tmp_path / "watched-data", prepared.plan, prepared.encoder, prepared.held_out)
    return run_of(replace(job, experiment=experiment, data=tmp_path / "watched-data"), "watched")


def said(job):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in RunLogFile(job.run / VALIDATIONS).read()]


def test_a_watched_run_killed_at_any_file_operation_decides_and_ends_as_undisturbed(watched):
    """Killed in validations, between one and its checkpoint, and while the best checkpoint is spared."""
    assert finish(start(watched)) == 0
    ending = read_json(watched.run / ENDING)
    assert ending["step"] == 8
    dice = random.Random(1)
    kills, deaths, number = 0, "", 0
    while kills < 12:
        number += 1
        broken = run_of(watched, f"broken-{number}")
        while code := finish(start(replace(broken, die_at=dice.randint(10, 120)))):
            assert code == -signal.SIGKILL
            kills += 1
        assert same_bits(watched, broken)
        assert said(broken) == said(watched)
        assert read_json(broken.run / ENDING) | {"device": 0} == ending | {"device": 0}
        kept = [p.name for p in (broken.run / "checkpoints").iterdir()]
        assert f"step-{ending['kept']:08d}" in kept
        deaths += (broken.run / DEATHS).read_text()
    for place in ("validation.jsonl", "checkpoints/.step-"):
        assert place in deaths


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_share_a_validation_and_agree(watched, strategy):
    scaling = watched.experiment.scaling.model_copy(update={"strategy": strategy})
    watched = replace(watched, experiment=watched.experiment.model_copy(update={"scaling": scaling}))
    alone, two = full(run_of(watched, "alone")), full(run_of(watched, "two"))
    assert finish(start(alone)) == 0
    workers = group(two, 2, watched.run.parent / "meeting")
    assert [finish(p) for p in workers] == [0, 0]
    assert read_json(two.run / ENDING)["step"] == read_json(alone.run / ENDING)["step"] == 8
    for a, b in zip(said(alone), said(two), strict=True):
        assert a["losses"].keys() == b["losses"].keys()
        for metric, (value, _, _, n) in a["losses"].items():
            # the base is the same; later, at so high a rate, another order of sums has been made much of
            assert b["losses"][metric][0] == pytest.approx(value, rel=0.05 if a["step"] else 1e-6)
            assert b["losses"][metric][3] == n


@pytest.mark.parametrize("worlds", [(2, 1, 3), (1, 3, 2)])
def test_any_number_of_workers_goes_on_with_what_another_left(job, worlds):
    """A worker dies, the others with it; the next attempt has another number of them."""
    alone = full(run_of(job, "whole-1"))
    assert finish(start(alone)) == 0
    dice = random.Random(worlds[0])
    broken = full(run_of(job, "broken"))
    kills = 0
    for number, world in enumerate([*worlds, *worlds, *worlds]):
        victim = dice.randrange(world)
        # the first worker saves, so it touches many more files than the others
        operation = dice.randint(15, 45) if victim == 0 else dice.randint(2, 6)
        trouble = {"die_at": operation} if number < 8 else {}
        workers = group(broken, world, job.run.parent / f"meeting-{number}", victim, **trouble)
        wait_for_one(workers)
        kills += workers[victim].exitcode == -signal.SIGKILL
        if not any(p.exitcode for p in workers):
            break
    assert (broken.run / FINAL).exists()
    assert kills >= 2
    assert_whole(broken)
    for a, b in zip(records(alone.run), records(broken.run), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)  # sums over workers are added in another order


def test_sigterm_ends_the_step_saves_and_tells_how_to_go_on(job):
    assert finish(start(job)) == 0
    broken = run_of(job, "broken")
    process = start(broken)
    await_step(broken.run, 4)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 143
    [kind, said] = sentence(broken).split(": ")
    done = records(broken.run)[-1]["step"]
    assert (kind, said) == ("StoppedError", f"stopped by SIGTERM after step {done} of 12; continue with --resume")
    assert is_intact(broken.run / "checkpoints" / f"step-{done:08d}")
    assert finish(start(broken)) == 0
    assert int((broken.run / START).read_text()) == done
    assert same_bits(job, broken)
    assert consumed(broken) == planned(broken)


def test_all_workers_stop_after_the_same_step_when_one_is_asked(job):
    broken = full(run_of(job, "broken"))
    workers = group(broken, 2, job.run.parent / "meeting")
    await_step(broken.run, 2)
    os.kill(workers[1].pid, signal.SIGTERM)
    assert [finish(p) for p in workers] == [143, 143]
    assert sentence(broken, 0) == sentence(broken, 1)
    assert finish(start(broken)) == 0
    assert consumed(broken) == planned(broken)


def may_mount():
    return os.geteuid() == 0 and os.system("unshare -m true 2>/dev/null") == 0


needs_mount = pytest.mark.skipif(not may_mount(), reason="only root may mount a small file system")


def on_disk(disk, job, **trouble):
    """Start an attempt on a disk that fills up."""
    troubled = replace(job, disk=disk, **trouble)
    return start(troubled, attempt_on_a_small_disk, "4m") if "tmpfs" in disk else start(troubled)


DISKS = [*(pytest.param(d, marks=needs_mount) for d in ("tmpfs", "tmpfs but for 64 KiB")), "rlimit"]
"""Nothing fits; the ledger fits and the checkpoint does not; the same where one may not mount."""


def cause(disk):
    return "No space left on device" if "tmpfs" in disk else "File too large"


@pytest.mark.parametrize("disk", DISKS)
def test_a_full_disk_is_told_and_outlived(job, disk):
    """Full at the checkpoint of step 6, free again at that of step 9."""
    whole, broken = full(job), full(run_of(job, "broken"))
    assert finish(start(whole)) == 0
    assert finish(on_disk(disk, broken, full=(4, 7))) == 0
    assert same_bits(whole, broken)
    assert_whole(broken)
    refused = "ledger/00000003-00000006/0-of-1.parquet" if disk == "tmpfs" else "checkpoints/step-00000006"
    told = [t for t in shown_warnings(broken.run) if refused in t]
    assert len(told) == 1
    assert cause(disk) in told[0]
    assert "training continues and tries again after step 9" in told[0]


@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_full_to_the_end_ends_with_a_sentence_and_the_earlier_checkpoint(job, disk):
    whole, broken = full(job), full(run_of(job, "broken"))
    assert finish(start(whole)) == 0
    assert finish(on_disk(disk, broken, full=(4, 99))) == 2
    said = sentence(broken)
    assert said.startswith("CheckpointError: ")
    assert cause(disk) in said
    assert "free space or raise the quota there, then continue with --resume" in said
    assert "12" in said
    assert [p.name for p in (broken.run / "checkpoints").iterdir()] == ["step-00000003"]
    assert finish(start(broken)) == 0
    assert int((broken.run / START).read_text()) == 3
    assert same_bits(whole, broken)
    assert_whole(broken)


def test_no_checkpoint_is_made_ahead_of_another_workers_ledger(job):
    broken = full(run_of(job, "broken"))
    workers = group(broken, 2, job.run.parent / "meeting", victim=1, disk="nothing", full=(4, 7))
    assert [finish(p) for p in workers] == [0, 0]
    assert_whole(broken)
    [told] = shown_warnings(broken.run)
    assert "00000003-00000006/1-of-2.parquet could not be written (File too large)" in told


SPOILERS = {
    "truncated": lambda f: os.truncate(f / "optimizer.pt", 1000),
    "without its manifest": lambda f: (f / "manifest.json").unlink(),
    "with a flipped byte": lambda f: flip(f / "trainable.safetensors"),
}


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", SPOILERS)
def test_a_spoiled_newest_checkpoint_is_passed_over_by_name(job, how):
    assert finish(start(job)) == 0
    broken = run_of(job, "broken")
    assert finish(start(broken)) == 0
    newest = broken.run / "checkpoints" / "step-00000012"
    SPOILERS[how](newest)
    assert finish(start(broken)) == 0
    assert (broken.run / START).read_text() == "9"
    [told] = shown_warnings(broken.run)
    assert told == f"{newest} is torn (a file is missing or differs from its hash); resuming from step 9"
    assert same_bits(job, broken)
    assert_whole(broken)
