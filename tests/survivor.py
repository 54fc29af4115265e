"""A training process that can be killed: forked from a warm server, so that one attempt costs tenths of a second."""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from beside import Beside
from safetensors.torch import save_file

from ialign_ray.config import Experiment, TrainConfig
from ialign_ray.config.model import LoraSettings
from ialign_ray.errors import IalignError
from ialign_ray.modeling.head import target_logits
from ialign_ray.modeling.load import add_adapter, load_base, save_model
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.loop import Loop, make_optimizer, run_loop
from ialign_ray.training.run_log import RunLog
from ialign_ray.training.sharding import place, trained, whole_weights
from ialign_ray.training.stop_requests import StopRequest, on_sigterm
from ialign_ray.training.validation import load_held_out

torch.set_num_threads(1)
FINAL, START, SENTENCE, DEATHS, MODEL = "final.safetensors", "start.txt", "sentence.txt", "deaths.txt", "model"
OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.chmod", "os.listdir", "os.rmdir", "shutil.rmtree"}


def warm() -> None:
    """Import what transformers, peft, torch and pyarrow import late: 7 s that each forked process is spared."""
    import pandas  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    from transformers import AutoModelForCausalLM, LlamaConfig

    size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    model = add_adapter(AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=8, **size)), LoraSettings(rank=1), 0)
    make_optimizer(model, TrainConfig())
    target_logits(model, torch.tensor([0]), input_ids=torch.ones(1, 2, dtype=torch.long))


@dataclass(frozen=True)
class Job:
    experiment: Experiment
    data: Path
    run: Path
    pad: int
    rank: int = 0
    world: int = 1
    meeting: Path | None = None
    """The file through which the workers of one attempt find each other."""
    die_at: int | None = None
    """Die of SIGKILL right before this many-th file operation below the run's folder."""
    stop_after: int | None = None
    """Wish to stop after the step that follows this one."""
    disk: str | None = None
    """How the disk fills up: `tmpfs`, `tmpfs but for 64 KiB`, `rlimit` (100 kB a file), `little` (20 kB a file) or
    `nothing` (no byte more)."""
    full: tuple[int, int] = (0, 0)
    """It is full from after the first of these steps until after the second."""


def attempt(job: Job) -> None:
    """One process's attempt to finish the run; exits with 0, or with an error's code and its sentence in a file."""
    wanted = job.experiment.train.validation
    validator = Beside(job.experiment, job.data.parent, 1) if wanted and wanted.asynchronous else None
    if job.meeting:
        dist.init_process_group(
            "gloo", f"file://{job.meeting}", timedelta(seconds=300), world_size=job.world, rank=job.rank
        )
    if job.die_at:
        die_at(job)
    try:
        train(job, validator)
    except IalignError as error:
        (job.run / "ballast").unlink(missing_ok=True)
        (job.run / f"{job.rank}-{SENTENCE}").write_text(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)


def train(job: Job, validator: Beside | None) -> None:
    settings = job.experiment.train
    model = load_base(job.experiment.model)
    if job.experiment.model.tuning == "lora":
        model = add_adapter(model, job.experiment.model.lora, settings.seed)
    place(model, job.experiment, torch.device("cpu"))
    source = ExampleSource(str(job.data), settings.batch_size, settings.steps)
    wishes = [StopRequest.GO_ON]

    def on_step(step: int) -> None:
        fill_disk(job, step)
        if step == job.stop_after:
            wishes.append(StopRequest.STOP)

    loop = Loop(
        settings=settings,
        stream=lambda start: local_stream(source, start, job.rank, job.world),
        checkpoints=Checkpoints(job.run / "checkpoints", "f", settings.keep_checkpoints),
        run_log=RunLog(job.run, job.rank, job.world),
        pad=job.pad,
        device=torch.device("cpu"),
        held_out=load_held_out(job.data),
        validator=validator,
        on_step=on_step,
        stop_request=lambda: wishes[-1],
    )
    with on_sigterm(lambda: wishes.append(StopRequest.STOP)):
        start = run_loop(model, loop)
    whole = whole_weights(model)
    if job.rank == 0:
        (job.run / START).write_text(str(start))
        if job.experiment.scaling.strategy == "fsdp":
            save_model(model, job.run / MODEL, whole)
        save_file(whole or {n: p.detach() for n, p in trained(model).items()}, job.run / FINAL)


def die_at(job: Job) -> None:
    left, below = job.die_at, str(job.run)
    log = os.open(job.run / DEATHS, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in OPERATIONS and any(below in str(a) for a in arguments if isinstance(a, (str, os.PathLike))):
            left -= 1
            if left == 0:
                os.write(log, f"{event} {arguments}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def fill_disk(job: Job, step: int) -> None:
    ballast = job.run / "ballast"
    room = {"rlimit": 100_000, "little": 20_000, "nothing": 0}
    if job.disk and step == job.full[0]:
        if job.disk in room:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room[job.disk], resource.RLIM_INFINITY))
        else:
            subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], stderr=subprocess.DEVNULL)
            if job.disk != "tmpfs":
                os.truncate(ballast, ballast.stat().st_size - 65536)
    if job.disk and step == job.full[1]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ballast.unlink(missing_ok=True)


def attempt_on_a_small_disk(job: Job, size: str) -> None:
    """An attempt whose run folder is a file system of its own, seen by this process alone; copied to the real one."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x00020000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    small = job.run.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", small], check=True)
    try:
        attempt(replace(job, run=small))
    finally:
        shutil.copytree(small, job.run, dirs_exist_ok=True)
