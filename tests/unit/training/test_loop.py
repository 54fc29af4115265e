import json
import threading
from collections import Counter

import pytest
import torch

from ialign_ray.config import TrainConfig, build_experiment
from ialign_ray.errors import CheckpointError, ModelError
from ialign_ray.modeling.load import add_adapter, load_base
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.collate import collate
from ialign_ray.training.loop import Loop, learning_rate, make_optimizer, run_loop
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.run_log import RECORDS, WARNINGS, RunLog, ledger, records, shown_warnings
from ialign_ray.training.step import train_step

CPU = torch.device("cpu")


class Lost(Exception):
    pass


class Setting:
    """One experiment with its data folder; every run starts from freshly loaded weights."""

    def __init__(self, data, folder, tuning):
        data["model"] |= {"tuning": tuning, "lora": {"rank": 4, "dropout": 0.3}}
        self.experiment = build_experiment(data, "x")
        self.prepared = prepare(self.experiment)
        save_data(folder / "data", self.prepared.plan, self.prepared.encoder, self.prepared.held_out)
        self.source = ExampleSource(str(folder / "data"), self.experiment.train.batch_size, self.experiment.train.steps)
        self.folder = folder

    def model(self):
        model = load_base(self.experiment.model)
        if self.experiment.model.tuning == "lora":
            return add_adapter(model, self.experiment.model.lora, self.experiment.train.seed)
        return model

    def run(self, name, on_step=lambda step: None, fingerprint="f", keep=2, validator=None, **settings):
        model, run = self.model(), self.folder / name
        run.mkdir(exist_ok=True)
        loop = Loop(
            settings=self.experiment.train,
            stream=lambda start: local_stream(self.source, start),
            checkpoints=Checkpoints(run / "checkpoints", fingerprint, keep),
            run_log=RunLog(run),
            pad=self.prepared.encoder.tokenizer.pad_token_id,
            device=CPU,
            held_out=self.prepared.held_out,
            validator=validator,
            on_step=on_step,
            **settings,
        )
        return model, run_loop(model, loop)


@pytest.fixture(params=["lora", "full"])
def setting(request, experiment_data, tmp_path):
    return Setting(experiment_data, tmp_path, request.param)


@pytest.fixture
def full(experiment_data, tmp_path):
    return Setting(experiment_data, tmp_path, "full")


def lose_at(last):
    def on_step(step):
        if step == last:
            raise Lost

    return on_step


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def consumed(run):
    return sorted(zip(ledger(run)["step"].to_pylist(), ledger(run)["row_id"].to_pylist(), strict=True))


def planned(setting):
    size, plan = setting.source.batch_size, setting.prepared.plan
    return sorted((i // size + 1, plan.draw(i).row_id) for i in range(setting.source.steps * size))


def without_times(run):
    measured = ("seconds", "data_wait", "mfu", "memory")
    return [{k: v for k, v in r.items() if k not in measured} for r in records(run)]


@pytest.mark.parametrize("lost_at", [3, 5])
def test_a_resumed_run_ends_with_the_same_bits(setting, lost_at):
    undisturbed, start = setting.run("whole")
    assert start == 0
    assert not same(weights(undisturbed), weights(setting.model()))
    with pytest.raises(Lost):
        setting.run("broken", lose_at(lost_at))
    resumed, start = setting.run("broken")
    assert start == 3
    assert same(weights(undisturbed), weights(resumed))
    whole, broken = setting.folder / "whole", setting.folder / "broken"
    assert consumed(broken) == consumed(whole) == planned(setting)
    assert set(Counter(consumed(broken)).values()) == {1}
    assert without_times(broken) == without_times(whole)
    assert [r["step"] for r in records(broken)] == [1, 2, 3, 4, 5, 6]


def test_dropout_is_drawn_anew_in_each_step(experiment_data, tmp_path):
    """The bits above would agree without dropout too."""
    setting = Setting(experiment_data, tmp_path, "lora")
    model = setting.model().train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    [examples, *_] = local_stream(setting.source, 0)

    def loss(step, seed=0):
        return gradient(model, examples, step=step, seed=seed)[0].loss

    assert loss(1) == loss(1)
    assert len({loss(1), loss(2), loss(1, seed=1)}) == 3


def test_a_torn_newest_checkpoint_is_passed_over(setting):
    undisturbed, _ = setting.run("run")
    before = weights(undisturbed)
    torn = setting.folder / "run" / "checkpoints" / "step-00000006" / "trainable.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    again, start = setting.run("run")
    assert start == 3
    assert same(before, weights(again))
    assert consumed(setting.folder / "run") == planned(setting)
    finished, start = setting.run("run")
    assert start == 6
    assert same(before, weights(finished))


def test_only_the_newest_checkpoints_are_kept(full):
    full.run("run", keep=1)
    assert [p.name for p in (full.folder / "run" / "checkpoints").iterdir()] == ["step-00000006"]


def test_a_torn_newer_checkpoint_does_not_count_among_those_kept(full):
    model = full.model()
    optimizer = make_optimizer(model, full.experiment.train)
    checkpoints = Checkpoints(full.folder, "f", keep=1)
    torn = checkpoints.save(9, model, optimizer)
    (torn / "optimizer.pt").unlink()
    saved = checkpoints.save(6, model, optimizer)
    assert checkpoints.newest() == saved


def test_what_a_killed_attempt_left_half_written_is_swept(full):
    left = full.folder / "run" / "checkpoints" / ".step-00000003.abc"
    left.mkdir(parents=True)
    (left / "optimizer.pt").write_bytes(b"half")
    full.run("run")
    assert not left.exists()


def test_warnings_are_read_as_they_were_told(full):
    run = full.folder
    assert shown_warnings(run) == []
    run_log = RunLog(run)
    run_log.open(0)
    size = (run / WARNINGS).stat().st_size
    run_log.warn("first\nof two lines")
    run_log.warn("zweite: ä")
    RunLog(run, rank=1, world=2).warn("said by the first worker alone")
    RunLog(run).open(0)
    assert shown_warnings(run) == ["first of two lines", "zweite: ä"]
    assert (run / WARNINGS).stat().st_size == size  # in the room taken at the start


def test_a_foreign_checkpoint_is_refused(full):
    full.run("run", fingerprint="mine")
    with pytest.raises(CheckpointError, match="step-00000006 was made with other settings or data"):
        full.run("run", fingerprint="yours")


def test_the_fingerprint_follows_what_decides_the_weights(experiment_data):
    def fingerprint(**train):
        data = {**experiment_data, "train": {**experiment_data["train"], **train}}
        experiment = build_experiment(data, "x")
        return prepare(experiment).fingerprint(experiment)

    assert fingerprint() == fingerprint(checkpoint_every=1, keep_checkpoints=9, micro_batch_tokens=64)
    assert len({fingerprint(), fingerprint(seed=1), fingerprint(learning_rate=0.5), fingerprint(steps=7)}) == 4
    before = fingerprint()
    experiment_data["corpora"].pop()
    assert fingerprint() != before


def test_a_torn_record_is_passed_over(full):
    with pytest.raises(Lost):
        full.run("run", lose_at(4))
    path = full.folder / "run" / RECORDS
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line)["step"] for line in text.splitlines()] == [1, 2, 3, 4]
    path.write_text(text[:-30], encoding="utf-8")
    full.run("run")
    assert [r["step"] for r in records(full.folder / "run")] == [1, 2, 3, 4, 5, 6]
    assert consumed(full.folder / "run") == planned(full)


class Kept(torch.optim.Optimizer):
    """Keeps the gradients of a step and changes nothing."""

    def __init__(self, model):
        super().__init__([p for p in model.parameters() if p.requires_grad], {})
        self.gradients = None

    def step(self, closure=None):
        self.gradients = [p.grad.clone() for g in self.param_groups for p in g["params"]]


def gradient(model, examples, step=0, seed=0, tokens=4096, clip=1e9, pad=1):
    kept = Kept(model)
    stats = train_step(
        model,
        kept,
        examples,
        step=step,
        seed=seed,
        layout=PassLayout.of(model, tokens, pad),
        clip_norm=clip,
        device=CPU,
    )
    return stats, kept.gradients


def test_the_loss_is_the_cross_entropy_of_the_targets(full):
    model = full.model()
    [examples, *_] = local_stream(full.source, 0)
    width = max(map(len, examples))
    ids = torch.tensor([e.prompt + e.target + [1] * (width - len(e)) for e in examples])
    mask = torch.tensor([[1] * len(e) + [0] * (width - len(e)) for e in examples])
    labels = torch.tensor(
        [[-100] * len(e.prompt) + e.target + [-100] * (width - len(e)) for e in examples],
    )
    logits = model(input_ids=ids, attention_mask=mask).logits
    nats = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="none"
    )
    by_hand = nats.sum() / sum(len(e.target) for e in examples)
    by_hand.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    stats, gradients = gradient(model, examples)
    assert stats.loss == pytest.approx(by_hand.item(), abs=1e-5)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    norm = torch.cat([g.flatten() for g in expected]).norm().item()
    assert stats.grad_norm == pytest.approx(norm, rel=1e-4)
    per_row = nats.reshape(len(examples), -1).sum(1)
    for source in {e.source for e in examples}:
        own = [k for k, e in enumerate(examples) if e.source == source]
        total, tokens = stats.sources[source]
        assert total == pytest.approx(per_row[own].sum().item(), rel=1e-4)
        assert tokens == sum(len(examples[k].target) for k in own)
    assert stats.counts["examples"] == len(examples)
    assert stats.counts["tokens"] == sum(map(len, examples))
    assert stats.counts["replay"] == sum(e.task == "replay" for e in examples) == 1


def test_micro_batches_do_not_change_the_gradient(full):
    model = full.model()
    [examples, *_] = local_stream(full.source, 0)
    (whole, one), (parts, many) = (gradient(model, examples, tokens=t) for t in (100_000, 16))
    assert whole.counts["tokens"] < whole.counts["padded"] <= len(examples) * max(map(len, examples))
    assert parts.counts["padded"] == parts.counts["tokens"] == whole.counts["tokens"]
    assert parts.loss == pytest.approx(whole.loss, abs=1e-5)
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_gradients_are_clipped_to_the_norm(full):
    [examples, *_] = local_stream(full.source, 0)
    stats, gradients = gradient(full.model(), examples, clip=0.01)
    assert stats.grad_norm > 0.1
    assert torch.cat([g.flatten() for g in gradients]).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_collate_points_at_the_token_before_each_target_token(full):
    [examples, *_] = local_stream(full.source, 0)
    inputs, positions, labels = collate(examples, 1, CPU)
    flat = inputs["input_ids"].flatten()
    assert torch.equal(flat[positions + 1], labels)
    assert labels.tolist() == [t for e in examples for t in e.target]
    assert inputs["attention_mask"].sum(1).tolist() == [len(e) for e in examples]


def test_a_loss_that_is_no_number_is_told(full):
    model = full.model()
    [examples, *_] = local_stream(full.source, 0)
    before = weights(model)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    kept = Kept(model)
    with pytest.raises(ModelError, match=r"step 6: the loss is nan.*lower train\.learning_rate"):
        train_step(
            model, kept, examples, step=5, seed=0, layout=PassLayout.of(model, 512, 1), clip_norm=1.0, device=CPU
        )
    assert kept.gradients is None
    assert same({n: p for n, p in before.items() if n != "lm_head.weight"},
                {n: p for n, p in weights(model).items() if n != "lm_head.weight"})  # fmt: skip


def test_a_run_that_fails_leaves_no_thread_behind(full):
    with pytest.raises(Lost) as lost:
        full.run("broken", lose_at(3))
    assert lost.traceback  # which holds the loop's frame, and with it the stream
    assert [thread for thread in threading.enumerate() if thread.name.startswith("next-batch")] == []


def test_matrices_are_decayed_and_vectors_are_not():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    groups = make_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    decay = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert {name: decay[p] for name, p in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip


def test_the_rate_warms_up_and_falls_to_nothing():
    settings = TrainConfig(steps=100, learning_rate=0.5, warmup=0.1)
    assert learning_rate(0, settings) == pytest.approx(0.05)
    assert learning_rate(9, settings) == pytest.approx(0.5)
    assert learning_rate(10, settings) == pytest.approx(0.5)
    assert learning_rate(55, settings) == pytest.approx(0.25)
    assert learning_rate(100, settings) == pytest.approx(0)
    rates = [learning_rate(s, settings) for s in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_other_schedules():
    linear, constant = (TrainConfig(steps=10, learning_rate=1, warmup=0, schedule=s) for s in ("linear", "constant"))
    assert [learning_rate(s, linear) for s in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    assert {learning_rate(s, constant) for s in range(10)} == {1}


def test_the_rate_of_each_step_is_recorded(full):
    full.run("run")
    expected = [learning_rate(s, full.experiment.train) for s in range(6)]
    assert [r["learning_rate"] for r in records(full.folder / "run")] == pytest.approx(expected)


def test_training_lowers_the_loss(experiment_data, tmp_path):
    experiment_data["train"]["steps"] = 40
    setting = Setting(experiment_data, tmp_path, "full")
    setting.run("run")
    losses = [r["loss"] for r in records(tmp_path / "run")]
    assert sum(losses[-5:]) / 5 < 0.8 * sum(losses[:5]) / 5
