"""Checkpoints validated beside the training, by another process: the same losses, only later."""

import io
import os
import resource
from dataclasses import replace

import pytest
import torch
from beside import Beside
from rich.console import Console
from safetensors.torch import load_file
from survivor import FINAL
from test_loop import Lost, lose_at, same, weights
from test_survival import group, job, run_of, wait_for_one, warm_server  # noqa: F401
from test_watched_runs import TIRED, checkpoint, data, losses, made, said  # noqa: F401

from ialign_ray.cluster.resources import validation_resources
from ialign_ray.config import ScalingConfig, build_experiment
from ialign_ray.errors import ClusterError
from ialign_ray.storage import read_json
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.run_log import ENDING, shown_warnings
from ialign_ray.training.trainer import resources_beside

pytestmark = pytest.mark.slow


def beside(setting, late=0, **how):
    return Beside(setting.experiment, setting.folder, late, **how)


def steps_said(run):
    return [r["step"] for r in said(run)]


@pytest.fixture(scope="module", params=["lora", "full"])
def tuning(request):
    return request.param


@pytest.fixture
def rising(data, tmp_path):  # noqa: F811
    """A rate that rises to the end, far too high, so that the last step is not the best."""
    return made(data, tmp_path / "a", keep="best", learning_rate=3.0, warmup=1.0, steps=16, checkpoint_every=50)


@pytest.mark.parametrize("late", [0, 1, 9])
def test_losses_and_weights_are_those_of_a_run_that_waits(data, tmp_path, tuning, late):  # noqa: F811
    """With the adapter's dropout; told of at once, in between, or when the next one is due."""
    setting = made(data, tmp_path / "a", tuning)
    waits, _ = setting.run("waits")
    validator = beside(setting, late)
    goes_on, _ = setting.run("goes-on", validator=validator)
    assert validator.steps == [2, 4, 6, 8, 10]  # the base and the last one are not among them
    assert said(setting.folder / "goes-on") == said(setting.folder / "waits")
    assert steps_said(setting.folder / "goes-on") == [0, 2, 4, 6, 8, 10, 12]
    assert same(weights(waits), weights(goes_on))


def test_a_checkpoint_stays_until_its_result_is_there(data, tmp_path):  # noqa: F811
    """Beside newer ones, though but one is kept."""
    setting = made(data, tmp_path / "a", checkpoint_every=1, validation={"every": 5, "pairs": 12, "instructions": 0})
    seen = {}

    def look(step):
        seen[step] = [int(p.name[-2:]) for p in sorted((setting.folder / "run" / "checkpoints").iterdir())]

    setting.run("run", look, keep=1, validator=beside(setting, late=2))
    assert {s: seen[s] for s in (4, 5, 6, 7, 9)} == {4: [4], 5: [5], 6: [5, 6], 7: [5, 7], 9: [9]}
    assert steps_said(setting.folder / "run") == [0, 5, 10, 12]


def test_an_early_end_comes_as_late_as_the_result(data, tmp_path):  # noqa: F811
    setting = made(data, tmp_path / "a", stop=[TIRED], validation={"every": 3, "pairs": 12, "instructions": 0})
    model, _ = setting.run("run", validator=beside(setting, late=1))
    run = setting.folder / "run"
    ending = read_json(run / ENDING)
    assert (ending["step"], ending["kept"]) == (8, 8)  # of 6's result it heard at the boundary before step 8
    assert "in 2 validations (train.stop patience 2)" in ending["reason"]
    assert steps_said(run) == [0, 3, 6]
    again, start = setting.run("run", validator=beside(setting))
    assert start == 8
    assert read_json(run / ENDING) == ending
    assert same(weights(model), weights(again))


def test_an_end_at_a_step_that_is_due_is_final(data, tmp_path):  # noqa: F811
    """That step is not validated, also not by a run that is begun again: the reason to end must not go away."""
    setting = made(data, tmp_path / "a", stop=[TIRED])
    setting.run("run", validator=beside(setting, late=9))
    run = setting.folder / "run"
    ending = read_json(run / ENDING)
    assert ending["step"] == 6
    setting.run("run", validator=beside(setting, late=9))
    assert read_json(run / ENDING) == ending
    assert steps_said(run) == [0, 2, 4]


@pytest.mark.parametrize("late", [1, 9])
def test_the_best_step_is_kept_though_it_is_known_late(rising, late):
    model, _ = rising.run("run", keep=1, validator=beside(rising, late))
    run = rising.folder / "run"
    best = min(losses(run), key=losses(run).get)
    assert 0 < best < 14  # or the test would show nothing
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [f"step-{s:08d}" for s in (best, 16)]
    assert same(weights(model), checkpoint(run, best))
    assert read_json(run / ENDING)["kept"] == best


@pytest.mark.parametrize(("lost_at", "start"), [(4, 4), (5, 5), (7, 6)])
def test_what_a_killed_run_had_not_heard_of_is_validated_again(data, tmp_path, lost_at, start):  # noqa: F811
    """Lost right after a validation began, or after a newer checkpoint."""
    setting = made(data, tmp_path / "a", "lora", keep="best", checkpoint_every=5)
    whole, _ = setting.run("whole")
    with pytest.raises(Lost):
        setting.run("broken", lose_at(lost_at), keep=1, validator=beside(setting, late=9))
    run, under_way = setting.folder / "broken", lost_at // 2 * 2
    assert steps_said(run) == list(range(0, under_way, 2))
    validator = beside(setting, late=9)
    resumed, started = setting.run("broken", keep=1, validator=validator)
    assert started == start
    assert validator.steps[0] == under_way
    assert said(run) == said(setting.folder / "whole")
    assert same(weights(whole), weights(resumed))


def test_a_step_whose_checkpoint_is_gone_is_left_out(data, tmp_path):  # noqa: F811
    setting = made(data, tmp_path / "a", checkpoint_every=5)
    with pytest.raises(Lost):
        setting.run("run", lose_at(5), validator=beside(setting, late=9))
    run = setting.folder / "run"
    torn = run / "checkpoints" / "step-00000004" / "trainable.safetensors"
    torn.unlink()  # a file that is shortened while another process maps it ends that process
    torn.write_bytes(b"torn")
    setting.run("run", validator=beside(setting))
    assert steps_said(run) == [0, 2, 6, 8, 10, 12]


def test_a_run_goes_on_waiting_where_another_did_not(data, tmp_path):  # noqa: F811
    setting = made(data, tmp_path / "a")
    with pytest.raises(Lost):
        setting.run("run", lose_at(4), validator=beside(setting, late=9))
    setting.run("run")
    assert steps_said(setting.folder / "run") == [0, 2, 4, 6, 8, 10, 12]


def dies(experiment, run, checkpoint):
    os._exit(1)


def test_a_validation_that_dies_is_told_and_the_workers_take_over(data, tmp_path):  # noqa: F811
    setting = made(data, tmp_path / "a")
    setting.run("run", validator=beside(setting, late=1, work=dies))
    run = setting.folder / "run"
    assert steps_said(run) == [0, 4, 6, 8, 10, 12]
    assert shown_warnings(run) == [
        "the validation beside failed (EOFError); validation of step 2 is skipped, and the workers validate from now on"
    ]


def test_a_step_whose_checkpoint_finds_no_room_is_not_validated(data, tmp_path):  # noqa: F811
    setting = made(data, tmp_path / "a", "full", checkpoint_every=6)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if step == 3 else most, most))

    try:
        setting.run("run", fill, validator=beside(setting))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    run = setting.folder / "run"
    assert steps_said(run) == [0, 2, 6, 8, 10, 12]
    [told] = shown_warnings(run)
    assert "step-00000004 could not be written (File too large); training continues" in told


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_workers_hear_the_same(job, strategy):  # noqa: F811
    """They end together and keep the same step; of a sharded model the parts of a checkpoint are read."""
    lora = job.experiment.model.lora.model_copy(update={"dropout": 0.0})
    plain = job.experiment.model_dump(mode="json")
    plain["model"] |= {"lora": lora.model_dump()}
    plain["scaling"] |= {"strategy": strategy}
    plain["train"] |= {"keep": "best", "stop": [TIRED | {"patience": 3}], "learning_rate": 1e-3}
    plain["corpora"] = [c | {"holdout": 0.2} for c in plain["corpora"]]
    ended = {}
    for name, asynchronous in (("whole", False), ("broken", True)):
        plain["train"]["validation"] = {"every": 2, "pairs": 12, "instructions": 0, "asynchronous": asynchronous}
        experiment = build_experiment(plain, "x")
        prepared = prepare(experiment)
        save_data(job.data, prepared.plan, prepared.encoder, prepared.held_out)
        place = job if name == job.run.name else run_of(job, name)
        ended[name] = replace(place, experiment=experiment)
        workers = group(ended[name], 2, ended[name].run / "meeting")
        wait_for_one(workers, 240)
        assert [p.exitcode for p in workers] == [0, 0]
    one, other = (ended[n].run for n in ("whole", "broken"))
    assert read_json(one / ENDING)["step"] == 6
    assert read_json(other / ENDING)["step"] == 8
    assert read_json(one / ENDING)["kept"] == read_json(other / ENDING)["kept"]
    for a, b in zip(said(one), said(other), strict=True):
        assert a["step"] == b["step"]
        assert a["losses"]["pairs"] == pytest.approx(b["losses"]["pairs"], abs=1e-5)
    a, b = (load_file(run / FINAL) for run in (one, other))
    assert all(torch.allclose(a[n], b[n], atol=1e-5) for n in a)


def test_a_validation_gets_what_a_worker_gets_if_that_is_spare():
    scaling = ScalingConfig(workers=2, cpus_per_worker=0.5)
    assert validation_resources(scaling, {"CPU": 2.5}, use_gpu=False) == {"CPU": 0.5}
    assert validation_resources(scaling, {"CPU": 8, "GPU": 3}, use_gpu=True) == {"CPU": 0.5, "GPU": 1.0}
    with pytest.raises(ClusterError, match=r"asynchronous needs 2.5 CPUs .* the cluster has 2$"):
        validation_resources(scaling, {"CPU": 2}, use_gpu=False)
    with pytest.raises(ClusterError, match=r"needs one GPU more than its 2 workers, but the cluster has 2$"):
        validation_resources(scaling, {"CPU": 8, "GPU": 2}, use_gpu=True)


def test_where_there_is_no_room_for_it_the_workers_validate(data):  # noqa: F811
    heard = io.StringIO()
    console = Console(file=heard, width=500)

    def resources(asynchronous, cpus):
        data["train"]["validation"] = {"every": 2, "asynchronous": asynchronous}
        return resources_beside(build_experiment(data, "x"), {"CPU": cpus}, False, console)

    assert resources(False, 1.5) is None
    assert resources(True, 2.0) == {"CPU": 0.5}
    assert heard.getvalue() == ""
    assert resources(True, 1.5) is None
    assert heard.getvalue() == (
        "warning: train.validation.asynchronous needs 2 CPUs (workers, one to encode data, the validation), but the "
        "cluster has 1.5; the workers validate between two steps\n"
    )
