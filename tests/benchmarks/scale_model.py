"""What a run costs on 1 to 512 GPUs: a model on paper, whose constants are measured here.

    python tests/benchmarks/scale_model.py

Measured: what a CPU encodes a second, how large an encoded example and a checkpoint are, how fast a checkpoint is
written and hashed. Told, and no measurement of ours: the GPU's peak (NVIDIA's data sheet), the utilisation, the
network, the price.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
from measuring import keep, random_model
from rich.console import Console

from ialign_ray.config import load_experiment, override
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.tokens.cache import ENCODED
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.flops import FROZEN, PEAKS, TRAINED
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.prepare import prepare, save_data

POCKET = Path(__file__).parents[2] / "jobs" / "experiments" / "pocket.yaml"


@dataclass(frozen=True)
class Constants:
    """Measured on the machine that this ran on."""

    tokens_encoded: float
    """A second of a CPU: drawn, rendered, noised, tokenised."""
    bytes_an_example: float
    tokens_an_example: float
    checkpoint_bytes: float
    """For each trained weight: the weight and AdamW's two moments."""
    checkpoint_speed: float
    """Bytes a second, written and hashed by one process."""


@dataclass(frozen=True)
class Hardware:
    """Told, not measured."""

    peak: float = PEAKS["H100"]
    memory: float = 80e9
    utilisation: float = 0.35
    within: float = 300e9
    """Bytes a second between the GPUs of a host."""
    between: float = 40e9
    """Bytes a second and host, of a 400 Gbit/s network."""
    latency: float = 30e-6
    """Seconds of a message."""
    gpus_a_host: int = 8
    price: float = 2.5
    """US dollars a GPU and hour."""


@dataclass(frozen=True)
class Run:
    """One aligned run."""

    name: str
    weights: float
    trained: float
    strategy: str
    examples_a_step: int = 512
    examples: float = 1e7
    checkpoint_every: int = 200


def encoding(folder: str, steps: int) -> tuple[float, float, float]:
    """(tokens a second and CPU, bytes and tokens an example) of the pocket experiment's stream."""
    experiment = override(load_experiment(POCKET), {"storage.runs": folder, "train.steps": steps})
    ensure_model(experiment, Console(quiet=True))
    prepared = prepare(experiment, Console(quiet=True))
    save_data(Path(folder) / "data", prepared.plan, prepared.encoder, prepared.held_out, None)
    source = ExampleSource(f"{folder}/data", experiment.train.batch_size, steps)
    stream = local_stream(source, 0)
    next(stream)  # the first reads plan and tokenizer
    began = time.process_time()  # whatever else the machine does meanwhile
    examples = [e for batch in stream for e in batch]
    seconds = time.process_time() - began
    table = pa.Table.from_pylist([vars(e) for e in examples], schema=ENCODED)
    tokens = sum(map(len, examples))
    return tokens / seconds, table.nbytes / len(examples), tokens / len(examples)


def checkpointing(folder: str) -> tuple[float, float]:
    """(bytes a trained weight, bytes a second) of checkpoints of a model of 8 M weights."""
    model = random_model(width=320, layers=6)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    weights = sum(p.numel() for p in model.parameters())
    checkpoints, seconds = Checkpoints(Path(folder) / "checkpoints", "scale"), []
    for step in range(1, 6):
        began = time.perf_counter()
        kept = checkpoints.save(step, model, optimizer)
        seconds.append(time.perf_counter() - began)
    size = sum(f.stat().st_size for f in kept.rglob("*") if f.is_file())
    return size / weights, size / statistics.median(seconds)


MEETINGS = 6
"""Collective messages of a step that nothing hides: target tokens, gradients, loss, the detector's word, and two of the
statistics. The wishes travel while the workers compute."""


def flops_a_token(run: Run) -> float:
    """Forward and backward, of weights that are trained and of those that are not."""
    return FROZEN * (run.weights - run.trained) + TRAINED * run.trained


def traffic_of(run: Run, gpus: int, passes: int) -> float:
    """Bytes that each GPU sends in a step, on a ring."""
    if run.strategy == "ddp":
        return 2 * (gpus - 1) / gpus * 4 * run.trained
    # each pass gathers bf16 weights twice; gradients go back once, in fp32
    return (gpus - 1) / gpus * (passes * 2 * 2 * run.weights + 4 * run.trained)


def sending(traffic: float, gpus: int, told: Hardware) -> float:
    """Seconds: a ring over all GPUs crosses from host to host once, so the slowest link carries the whole."""
    return traffic / (told.within if gpus <= told.gpus_a_host else told.between)


def meeting(gpus: int, told: Hardware) -> float:
    """Seconds of a collective message without content."""
    return told.latency * math.ceil(math.log2(gpus))


def data_bytes(run: Run, known: Constants) -> float:
    """Of encoded examples that a worker maps for a step: those of all workers, since a block of 256 consecutive ones
    holds some of each worker's."""
    return run.examples_a_step * known.bytes_an_example


def step_of(run: Run, gpus: int, known: Constants, told: Hardware) -> dict[str, float]:
    """Seconds of one step, by part, and what it asks of network, storage and CPUs."""
    tokens = run.examples_a_step * known.tokens_an_example
    used = min(gpus, run.examples_a_step)  # a worker without an example waits
    compute = flops_a_token(run) * tokens / (used * told.peak * told.utilisation)
    traffic = traffic_of(run, gpus, max(1, math.ceil(tokens / used / 16_384)))
    network, meetings = sending(traffic, gpus, told), MEETINGS * meeting(gpus, told)
    seconds = compute + network + meetings
    hosts = math.ceil(gpus / told.gpus_a_host)
    state = 4 * (run.weights - run.trained) + 16 * run.trained  # docs/operation.md, "Many workers"
    writers = gpus if run.strategy == "fsdp" else 1
    saved = known.checkpoint_bytes * run.trained
    checkpoint = saved / (known.checkpoint_speed * min(writers, 16))
    return {
        "compute": compute,
        "network": network,
        "meetings": meetings,
        "seconds": seconds,
        "checkpoint": checkpoint,
        "efficiency": compute * used / gpus / (seconds + checkpoint / run.checkpoint_every),
        "state GB": state / (gpus if run.strategy == "fsdp" else 1) / 1e9,
        "encoding CPUs": tokens / seconds / known.tokens_encoded,
        # the workers of a host share what its page cache holds
        "data MB/s": hosts * data_bytes(run, known) / seconds / 1e6,
        "gradient GB": traffic / 1e9,
        "checkpoint GB": saved / 1e9,
    }


def whole(run: Run, gpus: int, known: Constants, told: Hardware) -> dict[str, float]:
    """Hours and dollars of a run, with its checkpoints and without its start."""
    step = step_of(run, gpus, known, told)
    steps = run.examples / run.examples_a_step
    hosts = math.ceil(gpus / told.gpus_a_host)
    hours = steps * (step["seconds"] + step["checkpoint"] / run.checkpoint_every) / 3600
    return step | {"hours": hours, "dollars": hours * gpus * told.price, "hosts": hosts}


RUNS = (
    Run("135M, full, ddp", 135e6, 135e6, "ddp"),
    Run("7B, LoRA 16, ddp", 7e9, 40e6, "ddp"),
    Run("7B, full, fsdp", 7e9, 7e9, "fsdp"),
    Run("7B, full, fsdp, steps of 8,192", 7e9, 7e9, "fsdp", examples_a_step=8_192),
)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        known, told = Constants(*encoding(folder, 60), *checkpointing(folder)), Hardware()
    table = {r.name: {g: whole(r, g, known, told) for g in (1, 8, 64, 512)} for r in RUNS}
    keep("scale_model", {"constants": asdict(known), "told": asdict(told), "runs": table})


if __name__ == "__main__":
    main()
