"""Batches whose loss is no number or far above the others': they are named, kept, and skipped where that is asked."""

import math
from dataclasses import replace
from itertools import count

import pyarrow.parquet as pq
import pytest
import torch
from test_loop import CPU, Kept, Lost, Setting, lose_at, same, weights, without_times

from ialign_ray.config import TrainConfig
from ialign_ray.errors import ModelError
from ialign_ray.storage import read_json
from ialign_ray.streaming.examples import local_stream
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.loop import Loop, run_loop
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.run_log import ENDING, RunLog, ledger, records, shown_warnings
from ialign_ray.training.spikes import SpikeDetector, spike_limit
from ialign_ray.training.step import train_step

ODD = 26
"""The step whose batch holds something odd."""


def test_a_spike_is_far_above_the_median_in_robust_deviations():
    steady = [2.0, 2.1, 1.9, 2.05, 1.95] * 6
    assert spike_limit(steady, 10) == pytest.approx(2.0 + 10 * 1.4826 * 0.05)
    assert spike_limit([*steady[:-2], 900.0, 900.0], 10) == pytest.approx(spike_limit(steady, 10), rel=0.1)
    assert spike_limit([2.0] * 30, 10) == pytest.approx(2.2)  # however still: a hundredth of the median
    assert spike_limit(steady[:19], 10) == math.inf


def test_a_loss_that_falls_as_it_should_is_no_spike():
    falling = [6 * 0.97**k + 0.1 * math.sin(k) for k in range(200)]
    detector = SpikeDetector(TrainConfig(on_spike="stop"))
    assert all(detector.allows(k, loss, 1.0, [], CPU) for k, loss in enumerate(falling))


def test_guarding_goes_on_after_a_lasting_change_of_level():
    """Or a run that skips would never update again."""
    detector = SpikeDetector(TrainConfig(on_spike="skip"))
    e = Encoded("r", 0, "s", "mt", "t", [1], [2])
    allowed = [detector.allows(k, 2.0 + 0.01 * (k % 3) + (k >= 50), 1.0, [(e, 1.0)], CPU) for k in range(120)]
    assert all(allowed[:50])
    assert not any(allowed[50:70])
    assert all(allowed[80:])


@pytest.fixture
def setting(experiment_data, tmp_path):
    # one task alone: the batches of so small a corpus should be alike
    experiment_data["tasks"] = {"mix": "mt"}
    experiment_data["train"] |= {"steps": 30, "batch_size": 8, "checkpoint_every": 7, "learning_rate": 0.003}
    return Setting(experiment_data, tmp_path, "lora")


def run(setting, name, on_step=lambda step: None, **train):
    """A run whose stream holds an odd target at step 26."""
    folder = setting.folder / name
    folder.mkdir(exist_ok=True)
    settings = setting.experiment.train.model_copy(update={"spike_deviations": 4.0, **train})
    loop = Loop(
        settings=settings,
        stream=lambda start: odd(local_stream(setting.source, start), start),
        checkpoints=Checkpoints(folder / "checkpoints", "f", 9),
        run_log=RunLog(folder),
        pad=1,
        device=CPU,
        on_step=on_step,
    )
    model = setting.model()
    run_loop(model, loop)
    return model


def odd(stream, start):
    for step, examples in zip(count(start + 1), stream, strict=False):
        if step == ODD:
            examples[3] = replace(examples[3], row_id="odd:1:eng-ind", target=[7, 300, 5, 290] * 100)
        yield examples


def test_a_spike_is_told_with_the_batch_that_made_it(setting):
    run(setting, "run")
    [told] = shown_warnings(setting.folder / "run")
    assert told.startswith(f"step {ODD}: the gradient norm ")
    assert "is far above the last 25 steps' (median " in told
    assert "highest of 8 examples: odd:1:eng-ind (" in told
    assert told.endswith(f"all are in run/flagged/step-{ODD:08d}.parquet")
    rows = pq.read_table(setting.folder / "run" / "flagged" / f"step-{ODD:08d}.parquet").to_pylist()
    own = [r for r in ledger(setting.folder / "run").to_pylist() if r["step"] == ODD]
    assert sorted((r["row_id"], r["tokens"]) for r in rows) == sorted((r["row_id"], r["tokens"]) for r in own)
    assert max(rows, key=lambda r: r["nats"])["row_id"] == "odd:1:eng-ind"
    assert not any(r["skipped"] for r in records(setting.folder / "run"))


def test_a_skipped_step_changes_no_weight_and_is_recorded(setting):
    skipping = run(setting, "skip", on_spike="skip")
    warned = run(setting, "warn")
    assert not same(weights(skipping), weights(warned))
    folder = setting.folder / "skip"
    assert [r["step"] for r in records(folder) if r["skipped"]] == [ODD]
    assert read_json(folder / ENDING)["skipped_steps"] == 1
    assert shown_warnings(folder)[0].endswith("; its update is skipped")
    assert ledger(folder).num_rows == 30 * 8  # it was consumed all the same


@pytest.mark.slow
def test_a_resumed_run_skips_the_same_step(setting):
    whole = run(setting, "whole", on_spike="skip")
    for lost_at in (24, 28):  # resumed before the odd batch, and after it
        with pytest.raises(Lost):
            run(setting, f"broken-{lost_at}", lose_at(lost_at), on_spike="skip")
        resumed = run(setting, f"broken-{lost_at}", on_spike="skip")
        assert same(weights(whole), weights(resumed))
        assert without_times(setting.folder / f"broken-{lost_at}") == without_times(setting.folder / "whole")


def test_a_run_may_stop_at_a_spike_and_go_on_by_skipping_it(setting):
    with pytest.raises(ModelError) as error:
        run(setting, "run", on_spike="stop")
    assert "odd:1:eng-ind" in str(error.value)
    assert "continue with --resume --set train.on_spike=skip" in str(error.value)
    assert records(setting.folder / "run")[-1]["step"] == ODD - 1
    assert same(weights(run(setting, "run", on_spike="skip")), weights(run(setting, "whole", on_spike="skip")))


def test_a_loss_that_is_no_number_names_its_rows(setting, tmp_path):
    model = setting.model()
    [examples, *_] = local_stream(setting.source, 0)
    rare = 299
    assert not any(rare in e.prompt + e.target for e in examples)
    examples[2] = replace(examples[2], row_id="broken:1:eng-jav", prompt=[rare, *examples[2].prompt])
    with torch.no_grad():
        model.get_input_embeddings().weight[rare] = float("nan")
    settings = {"seed": 0, "layout": PassLayout.of(model, 64, 1), "clip_norm": 1.0, "device": CPU}
    with pytest.raises(ModelError) as error:
        train_step(model, Kept(model), examples, step=4, detector=SpikeDetector(run=tmp_path / "run"), **settings)
    said = str(error.value)
    assert said.startswith("step 5: the loss is nan and the gradient norm nan; 1 (")
    assert f"({examples[2].source}: broken:1:eng-jav) of 8 examples have no finite loss" in said
    assert "all are in run/flagged/step-00000005.parquet" in said
    rows = pq.read_table(tmp_path / "run" / "flagged" / "step-00000005.parquet").to_pylist()
    assert [r["row_id"] for r in rows if math.isnan(r["nats"])] == ["broken:1:eng-jav"]


def test_a_batch_that_cannot_be_kept_is_named_all_the_same(tmp_path):
    (tmp_path / "run").write_text("a file where a folder should be")
    e = Encoded("r", 0, "s", "mt", "t", [1], [2])
    with pytest.raises(ModelError, match=r"the batch could not be written \(.+\); lower"):
        SpikeDetector(run=tmp_path / "run").allows(1, math.nan, 1.0, [(e, math.nan)], CPU)


def test_a_gradient_that_is_no_number_over_finite_losses_is_told_apart():
    e = Encoded("r", 0, "s", "mt", "t", [1], [2])
    with pytest.raises(ModelError, match=r"step 1: the loss is 2.0 and the gradient norm inf; each example's loss is"):
        SpikeDetector().allows(1, 2.0, math.inf, [(e, 2.0)], CPU)
