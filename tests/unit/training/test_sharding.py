"""Sharded models: real processes joined by gloo do what one process does, and leave what any number of them reads."""

import json
import random
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from survivor import FINAL, MODEL, SENTENCE, START
from test_families import family_folders  # noqa: F401
from test_survival import (
    assert_whole,
    finish,
    flip,
    group,
    job,  # noqa: F401 - a fixture
    records,
    run_of,
    shown_warnings,
    start,
    wait_for_one,
    warm_server,  # noqa: F401
)
from transformers import AutoModelForCausalLM

from ialign_ray.config import dump_yaml
from ialign_ray.errors import ModelError
from ialign_ray.modeling.load import load_adapted, load_base
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.workflows.export import export_model

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(request, job):  # noqa: F811
    """One process's run."""
    alone = without_chance(job, getattr(request, "param", "lora"))
    assert finish(start(alone)) == 0
    return alone


def without_chance(job, tuning, **train):  # noqa: F811
    """Without dropout, whose draws depend on the number of workers, and with so few tokens a micro-batch that one of
    two workers has more of them than the other."""
    experiment = job.experiment
    lora = experiment.model.lora.model_copy(update={"dropout": 0.0})
    changed = {
        "model": experiment.model.model_copy(update={"tuning": tuning, "lora": lora}),
        "scaling": experiment.scaling.model_copy(update={"strategy": "fsdp"}),
        "train": experiment.train.model_copy(update={"learning_rate": 1e-3, "micro_batch_tokens": 100} | train),
    }
    return replace(job, experiment=experiment.model_copy(update=changed))


both = pytest.mark.parametrize("alone", ["lora", "full"], indirect=True)


def attempt(job, world, victim=0, *, strategy="fsdp", **trouble):  # noqa: F811
    """Exit codes of that many workers; their number and the way they share the model may differ each time."""
    scaling = job.experiment.scaling.model_copy(update={"strategy": strategy})
    job = replace(job, experiment=job.experiment.model_copy(update={"scaling": scaling}))
    meeting = job.run / f"meeting-{len(list(job.run.glob('meeting-*')))}"
    workers = group(job, world, meeting, victim, **trouble)
    wait_for_one(workers)
    return [p.exitcode for p in workers]


def assert_close(one, other):
    """The same weights, records and ledger, but for the order in which numbers are added."""
    a, b = load_file(one.run / FINAL), load_file(other.run / FINAL)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-5)
    for a, b in zip(records(one.run), records(other.run), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
        assert (a["sources"].keys(), a["tokens"]) == (b["sources"].keys(), b["tokens"])
    assert_whole(other)


@both
def test_two_workers_with_a_part_each_do_what_one_does(alone):
    two = run_of(alone, "broken")
    assert attempt(two, 2) == [0, 0]
    assert_close(alone, two)
    newest = two.run / "checkpoints" / "step-00000012"
    assert sorted(p.name for p in newest.glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    [whole, merged] = [{p.name: p for p in (j.run / MODEL).iterdir()} for j in (alone, two)]
    assert whole.keys() == merged.keys()
    for name, file in whole.items():
        if name.endswith(".safetensors"):
            a, b = load_file(file), load_file(merged[name])
            assert a.keys() == b.keys()
            assert all(torch.allclose(a[n], b[n], atol=1e-5) for n in a)
        else:
            assert file.read_text() == merged[name].read_text()
    # one worker had more micro-batches, or nothing would be told of fillers
    assert any(a["padded"] != b["padded"] for a, b in zip(records(alone.run), records(two.run), strict=True))


@both
def test_one_process_exports_what_several_wrote(alone):
    """Of a run that was stopped: the parts of two workers become a model folder, or a merged one."""
    two = run_of(alone, "broken")
    assert attempt(two, 2, stop_after=5) == [143, 143]
    (two.run / "experiment.yaml").write_text(dump_yaml(two.experiment))
    shutil.copytree(two.data, two.run / "data")
    plain = export_model(two.run, None, merged=False, checkpoint="step-00000006")
    merged = AutoModelForCausalLM.from_pretrained(export_model(two.run, None, True, "step-00000006"))
    loaded, _ = load_adapted(two.experiment.model, plain)
    ids = torch.arange(3, 20)[None]
    torch.testing.assert_close(loaded(ids).logits, merged(ids).logits, atol=1e-5, rtol=1e-5)
    base = load_base(two.experiment.model)
    assert not torch.allclose(loaded(ids).logits, base(ids).logits, atol=1e-4)
    assert attempt(two, 1, stop_after=7) == [143]  # whole now
    again, _ = load_adapted(two.experiment.model, export_model(two.run, None, False, "step-00000008"))
    assert not torch.equal(again(ids).logits, loaded(ids).logits)
    with pytest.raises(ModelError, match=r"step-9 is not an intact checkpoint.*: step-00000006, step-00000008$"):
        export_model(two.run, None, False, "step-9")


@pytest.mark.parametrize("family", ["t5-full", "gemma2-lora", "bloom-full"])
def test_other_families_are_cut_too(job, family_folders, family):  # noqa: F811
    """Encoder and decoder that share their embeddings; tied heads; with activations computed again.

    Losses are compared, not weights: a key's bias has no gradient but rounding, which Adam makes a step of.
    """
    name, tuning = family.split("-")
    folder = shutil.copytree(family_folders(name), job.run.parent / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"dropout_rate": 0.0} if name == "t5" else {})))
    model = job.experiment.model.model_copy(update={"id": str(folder)})
    job = replace(job, experiment=job.experiment.model_copy(update={"model": model}))
    prepared = prepare(job.experiment)
    save_data(job.data, prepared.plan, prepared.encoder)
    plain = without_chance(job, tuning, steps=4)
    assert finish(start(plain)) == 0
    two = run_of(without_chance(job, tuning, steps=4, gradient_checkpointing=True), "broken")
    assert attempt(two, 2) == [0, 0]
    assert load_file(plain.run / FINAL).keys() == load_file(two.run / FINAL).keys()
    for a, b in zip(records(plain.run), records(two.run), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


@both
def test_any_number_of_workers_reads_what_sharded_ones_wrote(alone):
    """2 (cut) -> 1 (whole) -> 3 (cut) -> 2 (whole) -> 2 (cut), each stopped after a checkpoint of its own."""
    broken = run_of(alone, "broken")
    ways = [(2, "fsdp", 1), (1, "fsdp", 3), (3, "fsdp", 5), (2, "ddp", 8), (2, "fsdp", None)]
    for world, strategy, last in ways:
        assert set(attempt(broken, world, strategy=strategy, stop_after=last)) == {143 if last else 0}
        newest = max((broken.run / "checkpoints").iterdir())
        assert len(list(newest.glob("*.distcp"))) == (world if strategy == "fsdp" and world > 1 else 0)
    assert_close(alone, broken)


def test_sharded_workers_killed_at_any_file_operation_go_on(alone):
    """A worker dies, the others with it; the next attempt has another number of them."""
    broken, dice, kills = run_of(alone, "broken"), random.Random(0), 0
    for number, world in enumerate([2, 3, 1, 2, 3, 2, 1, 2]):
        victim = dice.randrange(world)
        # the first worker touches many more files than the others
        operation = dice.randint(15, 60) if victim == 0 else dice.randint(2, 9)
        codes = attempt(broken, world, victim, **({"die_at": operation} if number < 7 else {}))
        kills += codes[victim] == -signal.SIGKILL
        if not any(codes):
            break
    assert kills >= 3
    assert_close(alone, broken)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_disk_full_for_one_sharded_worker_is_told_and_outlived(alone, victim):
    broken = run_of(alone, "broken")
    assert attempt(broken, 2, victim, disk="little", full=(4, 7)) == [0, 0]
    assert_close(alone, broken)
    [told] = shown_warnings(broken.run)
    assert "checkpoints/step-00000006 could not be written (File too large); training continues" in told
    assert "after step 9" in told


def test_a_disk_full_to_the_end_ends_all_sharded_workers_with_the_sentence(alone):
    broken = run_of(alone, "broken")
    assert attempt(broken, 2, 1, disk="little", full=(4, 99)) == [2, 2]
    said = [(broken.run / f"{rank}-{SENTENCE}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "step-00000012 could not be written (File too large); free space" in said[0]
    assert [p.name for p in (broken.run / "checkpoints").iterdir()] == ["step-00000003"]
    assert attempt(broken, 2) == [0, 0]
    assert_close(alone, broken)


@pytest.mark.parametrize("file", ["__1_0.distcp", ".metadata"])
def test_a_spoiled_part_spoils_the_checkpoint(alone, file):
    broken = run_of(alone, "broken")
    assert attempt(broken, 2) == [0, 0]
    flip(broken.run / "checkpoints" / "step-00000012" / file)
    assert attempt(broken, 2) == [0, 0]
    assert (broken.run / START).read_text() == "9"
    assert_close(alone, broken)
