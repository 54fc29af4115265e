"""The main job under Ray: stream, train, lose a worker, resume, and load the result with other tools."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from ialign_ray.config import build_experiment, dump_yaml, override
from ialign_ray.errors import CheckpointError, ClusterError, ConfigError, ModelError
from ialign_ray.storage import is_intact, read_json
from ialign_ray.tasks.plan import Plan
from ialign_ray.training.run_log import ledger, records, validations
from ialign_ray.training.runs import MODEL
from ialign_ray.training.trainer import train
from ialign_ray.training.validation import load_held_out

pytestmark = [pytest.mark.ray, pytest.mark.slow]
QUIET = Console(quiet=True)


@pytest.fixture
def experiment(experiment_data):
    data = experiment_data | {
        "train": {
            "steps": 12,
            "batch_size": 6,
            "checkpoint_every": 4,
            "learning_rate": 1e-3,
            "max_prompt_tokens": 96,
            "max_target_tokens": 48,
        },
        "scaling": {"workers": 2, "cpus_per_worker": 0.5},
        "replay": experiment_data["replay"] | {"ratio": 0.5},
    }
    return build_experiment(data, "test")


def expected_rows(run: Path, total: int) -> Counter:
    plan = Plan.load(run / "data" / "plan")
    return Counter((d.epoch, d.row_id) for d in map(plan.draw, range(total)))


def consumed_rows(run: Path) -> Counter:
    rows = ledger(run).to_pydict()
    return Counter(zip(rows["epoch"], rows["row_id"], strict=True))


def test_two_workers_train_an_adapter_that_peft_loads(ray_cluster, experiment):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = train(experiment, "two", console=QUIET)

    assert is_intact(run / MODEL)
    base = AutoModelForCausalLM.from_pretrained(experiment.model.id, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / MODEL)
    ids = tokenizer("a b c", return_tensors="pt")
    plain = base(**ids).logits
    adapted = PeftModel.from_pretrained(base, run / MODEL).eval()(**ids).logits
    assert not torch.allclose(plain, adapted)  # it was trained
    assert consumed_rows(run) == expected_rows(run, 12 * 6)
    record = read_json(run / "record.json")
    assert record["drawn"]["examples"] == 72
    assert record["drawn"]["replay_share"] == 0.5
    seen = records(run)
    assert [r["step"] for r in seen] == list(range(1, 13))
    assert all(r["examples"] == 6 and r["replay"] == 3 for r in seen)
    assert "replay" in seen[-1]["sources"]
    card = (run / MODEL / "README.md").read_text()
    assert experiment.model.id in card


def test_an_encoder_decoder_trains_an_adapter_that_peft_loads(ray_cluster, experiment, tiny_tokenizer, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config

    ids = {"pad_token_id": tiny_tokenizer.pad_token_id, "decoder_start_token_id": tiny_tokenizer.pad_token_id}
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(tiny_tokenizer), eos_token_id=tiny_tokenizer.eos_token_id, **shape, **ids)
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / "t5")
    tiny_tokenizer.save_pretrained(tmp_path / "t5")
    changes = {"model.id": str(tmp_path / "t5"), "train.steps": 3, "scaling.workers": 1}

    run = train(override(experiment, changes), "t5", console=QUIET)

    assert consumed_rows(run) == expected_rows(run, 3 * 6)
    inputs = AutoTokenizer.from_pretrained(run / MODEL)("a b c", return_tensors="pt")
    inputs = {"input_ids": inputs["input_ids"], "decoder_input_ids": torch.tensor([[1, 5]])}
    base = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t5").eval()
    plain = base(**inputs).logits
    assert not torch.allclose(plain, PeftModel.from_pretrained(base, run / MODEL).eval()(**inputs).logits)
    assert "AutoModelForSeq2SeqLM" in (run / MODEL / "README.md").read_text()


def test_one_and_two_workers_learn_the_same(ray_cluster, experiment):
    one = train(override(experiment, {"scaling.workers": 1}), "one", console=QUIET)
    two = train(experiment, "again", console=QUIET)
    a, b = (load_file(r / MODEL / "adapter_model.safetensors") for r in (one, two))
    for name in a:
        # the sum over workers is added in another order: equal but for rounding
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_a_watched_run_ends_early_and_its_best_step_is_the_model(ray_cluster, experiment):
    rule = {"metric": "validation/pairs", "patience": 2, "min_delta": 100.0}
    validation = {"every": 2, "pairs": 12, "instructions": 3}
    changes = {"train.validation": validation, "train.stop": [rule], "train.keep": "best", "train.learning_rate": 1.0}
    said = io.StringIO()

    run = train(override(experiment, changes), "watched", console=Console(file=said, width=200))

    ending = read_json(run / MODEL / "record.json")["ending"]
    assert (ending["step"], ending["steps"]) == (4, 12)
    losses = {v.step: v.losses["pairs"] for v in validations(run)}
    assert sorted(losses) == [0, 2, 4]
    assert ending["kept"] == min((2, 4), key=losses.get)
    assert consumed_rows(run) == expected_rows(run, 4 * 6)
    held = {e.row_id for e in load_held_out(run / "data")}
    assert held
    assert not held & set(ledger(run)["row_id"].to_pylist())
    saved = load_file(run / "checkpoints" / f"step-{ending['kept']:08d}" / "trainable.safetensors")
    model = load_file(run / MODEL / "adapter_model.safetensors")
    assert {n.replace(".default", ""): w.sum().item() for n, w in saved.items()} == {
        n: w.sum().item() for n, w in model.items()
    }
    assert "watched: ended early after step 4 of 12: validation/pairs has not fallen below" in said.getvalue()
    assert "watched: step 4: held out, nats per token: pairs " in said.getvalue()


@pytest.mark.nightly
def test_a_run_is_validated_by_tasks_of_ray(ray_cluster, experiment):
    """Beside two workers; the losses are theirs."""
    changes = {
        "train.validation": {"every": 3, "pairs": 12, "instructions": 3},
        "train.keep_checkpoints": 9,
    }
    waits = train(override(experiment, changes), "waits", console=QUIET)
    said = io.StringIO()
    changes["train.validation"] |= {"asynchronous": True}
    goes_on = train(override(experiment, changes), "goes-on", console=Console(file=said, width=200))

    assert "warning" not in said.getvalue()
    one, other = (validations(run) for run in (waits, goes_on))
    assert [v.step for v in one] == [v.step for v in other] == [0, 3, 6, 9, 12]
    for a, b in zip(one, other, strict=True):
        assert a.losses == pytest.approx(b.losses, abs=1e-5)
    a, b = (load_file(r / MODEL / "adapter_model.safetensors") for r in (waits, goes_on))
    assert all(torch.equal(a[name], b[name]) for name in a)
    kept = [[int(p.name[-2:]) for p in sorted((r / "checkpoints").iterdir())] for r in (waits, goes_on)]
    assert kept == [[4, 8, 12], [3, 4, 6, 8, 9, 12]]  # what the tasks read


def test_killed_worker_resumes_and_ends_as_undisturbed(ray_cluster, experiment):
    single = override(experiment, {"scaling.workers": 1, "train.steps": 60, "train.checkpoint_every": 5})
    undisturbed = train(single, "whole", console=QUIET)
    run = undisturbed.parent / "killed"
    killed: list[int] = []

    def kill_once() -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if any(r["step"] >= 8 for r in records(run)):
                for pid in worker_pids():
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_once)
    thread.start()
    train(single, "killed", console=QUIET)
    thread.join()

    assert killed
    a, b = (load_file(r / MODEL / "adapter_model.safetensors") for r in (undisturbed, run))
    assert all(torch.equal(a[name], b[name]) for name in a)  # bit for bit
    assert consumed_rows(run) == expected_rows(run, 60 * 6)
    assert [r["step"] for r in records(run)] == list(range(1, 61))


def worker_pids() -> list[int]:
    """Training workers of this session's cluster: descendants of its raylet, so of this process."""
    found = []
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            name = (path / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if name.startswith(b"ray::RayTrainWorker") and descends(int(path.name), os.getpid()):
            found.append(int(path.name))
    return found


def descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def test_finished_checkpoints_need_resume(ray_cluster, experiment):
    short = override(experiment, {"train.steps": 4})
    train(short, "twice", console=QUIET)
    with pytest.raises(ConfigError, match="--resume"):
        train(short, "twice", console=QUIET)
    train(short, "twice", resume=True, console=QUIET)
    other = override(short, {"train.learning_rate": 5e-4})
    with pytest.raises(CheckpointError, match="other settings"):
        train(other, "twice", resume=True, console=QUIET)


def test_a_users_error_in_a_worker_is_told_once(ray_cluster, experiment):
    wild = override(experiment, {"train.learning_rate": 1e30, "train.warmup": 0.0, "model.tuning": "full"})
    with pytest.raises(ModelError, match=r"learning_rate"):
        train(wild, "wild", console=QUIET)


def test_more_workers_than_cpus_is_refused(ray_cluster, experiment):
    many = override(experiment, {"scaling.workers": 6})
    with pytest.raises(ClusterError, match="scaling.workers is 6"):
        train(many, "many", console=QUIET)


def test_evaluation_and_export_of_a_run(ray_cluster, experiment):
    from transformers import AutoModelForCausalLM

    from ialign_ray.workflows.compare import compare
    from ialign_ray.workflows.export import export_model
    from ialign_ray.workflows.predict import answer

    small = override(
        experiment,
        {
            "train.steps": 4,
            "compare.arms": {"control": {"replay.ratio": 1.0}, "ratio-0.5": {}},
            "compare.seeds": [0],
            "evaluate.resamples": 100,
            "tracking.mlflow": True,
            "tracking.tensorboard": True,
        },
    )
    statements = compare(small, QUIET)
    folder = Path(small.storage.runs) / small.name
    text = (folder / "RESULTS.md").read_text()
    assert statements
    for run in ("random", "majority", "length", "base", "control", "ratio-0.5"):
        assert f"| {run} |" in text
    frame = ledger(folder / "control-s0").to_pydict()
    assert set(frame["task"]) == {"replay"}
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("predictions/*.parquet")}
    compare(small, QUIET)  # finished runs and predictions are not computed again
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("predictions/*.parquet")}
    assert list((folder / "control-s0" / "tensorboard").iterdir())
    assert logged_losses(Path(small.storage.runs) / "mlflow.db") >= {"loss/replay", "loss/task/mt"}

    run = folder / "ratio-0.5-s0"
    assert isinstance(answer("hello", run, None, 4, 0.0), str)
    merged = export_model(run, None, merged=True)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    from ialign_ray.workflows.predict import open_model

    adapted, tokenizer, _ = open_model(run, None)
    ids = tokenizer("a b c d", return_tensors="pt")
    with torch.no_grad():
        np.testing.assert_allclose(model(**ids).logits, adapted(**ids).logits, atol=1e-4)
    with pytest.raises(ConfigError, match="exists already"):
        export_model(run, None, merged=True)
    (run / MODEL / "record.json").write_text(json.dumps({}))
    with pytest.raises(ModelError, match="hashes"):
        open_model(run, None)


def logged_losses(database: Path) -> set[str]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    found: set[str] = set()
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            found |= set(run.data.metrics)
    return found


def test_interrupt_leaves_checkpoints_and_one_sentence(experiment, tmp_path):
    long = override(experiment, {"train.steps": 5000, "scaling.workers": 1})
    file = tmp_path / "long.yaml"
    file.write_text(dump_yaml(long))
    run = Path(long.storage.runs) / long.name / "align"
    command = [sys.executable, "-c", "from ialign_ray.cli.main import main; main()", "align", str(file)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        # a shell without job control has its background jobs, and so this test, ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob("step-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.strip().splitlines()[-1].startswith("ialign: interrupted")
    assert "Traceback" not in errors
    assert any(is_intact(p) for p in (run / "checkpoints").glob("step-*"))


def test_new_pieces_are_learned_trained_and_saved(ray_cluster, experiment):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ialign_ray.workflows.predict import answer

    strange = Path(experiment.storage.data) / "second.jsonl"
    strange.write_text(strange.read_text().replace("omah", "qwxzqwxz"))
    longer = override(
        experiment,
        {"train.steps": 3, "scaling.workers": 1, "model.vocabulary": {"pieces": 20, "min_frequency": 2}},
    )
    run = train(longer, "pieces", console=QUIET)
    old, new = (AutoTokenizer.from_pretrained(p) for p in (experiment.model.id, run / MODEL))
    assert len(old) < len(new) <= len(old) + 20
    base = AutoModelForCausalLM.from_pretrained(experiment.model.id, dtype=torch.float32)
    base.resize_token_embeddings(len(new))
    before = base.get_input_embeddings().weight.detach().clone()
    adapted = PeftModel.from_pretrained(base, run / MODEL).merge_and_unload()
    after = adapted.get_input_embeddings().weight
    assert torch.equal(before[: len(old)], after[: len(old)])
    assert not torch.equal(before[len(old) :], after[len(old) :])
    assert isinstance(answer("Sang kucing", run, None, 4, 0.0), str)
