"""Runs that are validated, ended early, kept at their best step: what they leave, and that a resumed one agrees."""

import pytest
import torch
from safetensors.torch import load_file
from test_loop import Lost, Setting, lose_at, same, weights, without_times

from ialign_ray.storage import read_json
from ialign_ray.training import progress
from ialign_ray.training.collate import collate
from ialign_ray.training.run_log import ENDING, VALIDATIONS, RunLogFile, shown_warnings, validations
from ialign_ray.training.validation import estimate, summary, validate

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def data(experiment_data):
    for corpus in experiment_data["corpora"]:
        corpus["holdout"] = 0.2  # so that what is trained on does not depend on validation
    experiment_data["train"] |= {"steps": 12, "learning_rate": 0.05}
    return experiment_data


def made(data, folder, tuning="full", validation=True, **train):
    """A run's setting; no `instructions` are held out, which would be of the pool that is trained on."""
    usual = {"every": 2, "pairs": 12, "instructions": 0}
    train = {"validation": usual if validation is True else validation} | train
    folder.mkdir(exist_ok=True)
    return Setting(data | {"train": data["train"] | train}, folder, tuning)


def said(run):
    return [{k: v for k, v in r.items() if k != "seconds"} for r in RunLogFile(run / VALIDATIONS).read()]


def checkpoint(run, step):
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "trainable.safetensors")


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_validated_run_ends_with_the_same_bits(data, tmp_path, tuning):
    """With the adapter's dropout, whose randomness a validation must not touch."""
    plain, _ = made(data, tmp_path / "a", tuning, validation=None).run("run")
    watched, _ = made(data, tmp_path / "b", tuning).run("run")
    assert same(weights(plain), weights(watched))
    assert without_times(tmp_path / "a" / "run") == without_times(tmp_path / "b" / "run")
    assert said(tmp_path / "a" / "run") == []
    assert [r["step"] for r in said(tmp_path / "b" / "run")] == [0, 2, 4, 6, 8, 10, 12]
    assert watched.training is False


def test_the_last_step_is_validated_whatever_the_interval(data, tmp_path):
    made(data, tmp_path / "a", steps=5, validation={"every": 3, "pairs": 12, "instructions": 0}).run("run")
    assert [r["step"] for r in said(tmp_path / "a" / "run")] == [0, 3, 5]


def test_the_loss_is_that_of_each_example_by_itself(data, tmp_path):
    setting = made(data, tmp_path / "a", "lora", validation={"every": 2, "pairs": 12, "instructions": 3})
    model, held = setting.model(), setting.prepared.held_out
    sums = {}
    model.eval()
    for e in held:
        inputs, positions, labels = collate([e], 1, CPU)
        logits = model(**inputs).logits.flatten(0, 1)[positions]
        nats = torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        for metric in {e.source, e.source.partition("/")[0]}:
            before = sums.get(metric, (0, 0))
            sums[metric] = (before[0] + nats, before[1] + len(e.target))
    model.train()
    found = validate(model, held, pad=1, device=CPU, micro_batch_tokens=64)
    assert model.training
    assert {m: e.value for m, e in found.items()} == pytest.approx({m: a / b for m, (a, b) in sums.items()}, rel=1e-5)
    assert {"pairs", "instructions", "pairs/eng-ind", "pairs/jav-eng"} <= set(found)
    assert found["pairs"].n == len({e.row_id.rpartition(":")[0] for e in held if e.task == "mt"})
    assert all(e.low < e.value < e.high for e in found.values() if e.n > 2)


def test_the_interval_is_over_sentences_not_directions():
    rows = [(f"pairs/{way}", f"c:{k}:{way}", 10, 20.0 + k) for k in range(30) for way in ("eng-jav", "jav-eng")]
    found = summary(rows)
    assert found["pairs"].n == found["pairs/eng-jav"].n == 30
    width = found["pairs"].high - found["pairs"].low
    assert width == pytest.approx(found["pairs/eng-jav"].high - found["pairs/eng-jav"].low)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draw = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        tokens = torch.randint(3, 30, (60,), generator=draw)
        nats = tokens * (2 + 0.5 * torch.randn(60, generator=draw))
        found = estimate(list(zip(nats.tolist(), tokens.tolist(), strict=True)))
        covered += found.low < 2 < found.high
    assert 0.91 < covered / 400 < 0.98


def test_one_sentence_has_no_interval():
    assert str(estimate([(4.0, 2)])) == "LossEstimate(value=2.0, low=nan, high=nan, n=1)"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("at", [0, 2, 6, 12])
def test_a_run_killed_in_the_middle_of_a_validation_goes_on_as_if_undisturbed(data, tmp_path, monkeypatch, at):
    setting = made(data, tmp_path / "a", "lora", keep="best")
    whole, _ = setting.run("whole")
    real = progress.validate

    def dies(model, held_out, **settings):
        real(model, held_out[:3], **settings)
        raise Interrupted

    def until(step):
        monkeypatch.setattr(progress, "validate", dies if step == at else real)

    until(0)
    with pytest.raises(Interrupted):
        setting.run("broken", lambda step: until(step + 1))
    until(-1)
    resumed, start = setting.run("broken")
    assert start <= at
    assert same(weights(whole), weights(resumed))
    assert said(tmp_path / "a" / "broken") == said(tmp_path / "a" / "whole")


TIRED = {"metric": "validation/pairs", "patience": 2, "min_delta": 100.0}


def test_a_run_without_gain_ends_early_and_says_why(data, tmp_path):
    setting = made(data, tmp_path / "a", stop=[TIRED])
    model, _ = setting.run("run")
    run = tmp_path / "a" / "run"
    ending = read_json(run / ENDING)
    assert (ending["step"], ending["steps"], ending["kept"], ending["skipped_steps"]) == (4, 12, 4, 0)
    assert "in 2 validations (train.stop patience 2)" in ending["reason"]
    assert ending["device"]["source"] == "measured matmul peak"
    assert same(weights(model), checkpoint(run, 4))
    again, start = setting.run("run")
    assert start == 4
    assert read_json(run / ENDING) == ending
    assert same(weights(again), weights(model))


def test_a_run_that_does_not_end_early_gives_no_reason(data, tmp_path):
    made(data, tmp_path / "a").run("run")
    ending = read_json(tmp_path / "a" / "run" / ENDING)
    assert (ending["step"], ending["reason"], ending["kept"]) == (12, None, 12)


@pytest.mark.parametrize("lost_at", [3, 5, 7])
def test_a_resumed_run_ends_at_the_same_step(data, tmp_path, lost_at):
    setting = made(data, tmp_path / "a", stop=[TIRED | {"patience": 4}], checkpoint_every=3)
    whole, _ = setting.run("whole")
    with pytest.raises(Lost):
        setting.run("broken", lose_at(lost_at))
    resumed, start = setting.run("broken")
    assert 0 < start <= lost_at
    ending, undisturbed = (read_json(tmp_path / "a" / n / ENDING) for n in ("broken", "whole"))
    assert ending == undisturbed
    assert ending["step"] == 8
    assert same(weights(whole), weights(resumed))


def losses(run, metric="pairs"):
    return {v.step: v.losses[metric] for v in validations(run) if v.step}


@pytest.fixture
def rising(data, tmp_path):
    """A rate so high that the last step is not the best; which of them is, rounding decides."""
    for rate in (1.0, 0.7, 1.5, 2.0, 3.0):
        folder = tmp_path / str(rate)
        setting = made(data, folder, keep="best", learning_rate=rate, schedule="constant", steps=16)
        setting.run("run", keep=1)
        if best_of(folder / "run") < 14:
            return setting
    pytest.fail("the last step is the best at every rate: the tests would show nothing")


def best_of(run):
    return min(losses(run), key=losses(run).get)


def test_the_best_step_is_kept_and_is_the_model(rising):
    model, _ = rising.run("run", keep=1)
    run = rising.folder / "run"
    best = best_of(run)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [f"step-{s:08d}" for s in (best, 16)]
    assert same(weights(model), checkpoint(run, best))
    assert not same(weights(model), checkpoint(run, 16))
    assert read_json(run / ENDING)["kept"] == best
    with pytest.raises(Lost):
        rising.run("broken", lose_at(15), keep=1)
    resumed, _ = rising.run("broken", keep=1)
    assert same(weights(model), weights(resumed))


def test_a_torn_best_checkpoint_is_told_and_the_next_best_is_kept(rising):
    model, _ = rising.run("run", keep=1)
    run = rising.folder / "run"
    best = best_of(run)
    (run / "checkpoints" / f"step-{best:08d}" / "optimizer.pt").write_bytes(b"torn")
    model, start = rising.run("run", keep=1)
    assert start == 16
    assert same(weights(model), checkpoint(run, 16))
    told = f"the checkpoint of the best step {best} is torn or missing; the model is that of step 16"
    assert told in shown_warnings(run)


def test_where_every_step_forgets_the_last_one_is_kept(data, tmp_path):
    never = {"metric": "validation/pairs", "max_rise": 0.0}
    setting = made(data, tmp_path / "a", keep="best", stop=[never], learning_rate=3.0)
    setting.run("run")
    run = tmp_path / "a" / "run"
    assert read_json(run / ENDING)["kept"] == 2 == read_json(run / ENDING)["step"]
    assert "above the base's" in read_json(run / ENDING)["reason"]
    assert shown_warnings(run) == ["train.stop rules out every step; the model is that of step 2"]
