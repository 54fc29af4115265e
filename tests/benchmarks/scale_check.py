"""The parts of the scale model that one machine can check, against 1, 2, 4 and 8 small workers of Ray Train.

    python tests/benchmarks/scale_check.py

The pocket experiment is run by `train` as a user runs it, on one Ray cluster that is told to have CPUs for all. The
predictions are the functions of scale_model.py with this machine's constants in place of a GPU's. n workers share its
cores, so each counts as min(n, cores) / n of one, in what it computes and in what it sends over loopback.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measuring import RESULTS, keep
from pipeline import POCKET, QUIET, bare
from scale_model import Constants, Hardware, Run, data_bytes, flops_a_token, meeting, sending, step_of, traffic_of

from ialign_ray.cluster.join import SETTINGS
from ialign_ray.config import Experiment, load_experiment, override
from ialign_ray.streaming.examples import ExampleSource, cached_stream, fill_block, open_cache
from ialign_ray.tokens import cache as blocks
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.prepare import prepare, save_data
from ialign_ray.training.run_log import records
from ialign_ray.training.runs import untrained_model
from ialign_ray.training.trainer import cores, train

WORKERS = (1, 2, 4, 8)
SIZES = (4, 1 << 20, 16 << 20, 64 << 20)
"""Bytes that are summed over n processes."""
STEPS, BATCH = 20, 32
IMPORTS = "import ray.train.torch, torch, transformers, peft, ialign_ray.training.loop, ialign_ray.modeling.load"
"""What a worker imports before it trains."""
Rows = list[dict[str, Any]]


def row(part: str, workers: int, predicted: float, measured: float, unit: str) -> dict[str, Any]:
    ratio = measured / predicted
    return {
        "part": part,
        "workers": workers,
        "predicted": predicted,
        "measured": measured,
        "unit": unit,
        "ratio": ratio,
    }


def share(workers: int) -> float:
    """Of a core, for each of n processes."""
    return min(workers, cores()) / workers


def sums(world: int) -> list[float]:
    """Seconds of a sum of each size over so many processes of this machine."""
    script, sizes = Path(__file__).with_name("loopback_sums.py"), [str(size) for size in SIZES]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as folder:
        every = [
            subprocess.Popen(
                [sys.executable, str(script), str(rank), str(world), f"{folder}/meet", *sizes],
                stdout=subprocess.PIPE, text=True, env=environment,
            )
            for rank in range(world)
        ]  # fmt: skip
        said = [process.communicate(timeout=240)[0] for process in every]
    found: list[float] = json.loads(said[0])
    return found


def network() -> tuple[Hardware, Rows]:
    """Loopback by two processes, a core each: its latency and bandwidth; then what that says of more and of others."""
    found = {n: sums(n) for n in WORKERS[1:]}
    bare_sum = replace(Hardware(), latency=found[2][0])
    largest = Run("", 0, SIZES[-1] / 4, "ddp")
    loopback = replace(bare_sum, within=traffic_of(largest, 2, 1) / (found[2][-1] - meeting(2, bare_sum)))
    rows = []
    for n, seconds in found.items():
        told = slowed(loopback, n)
        for size, measured in zip(SIZES, seconds, strict=True):
            if n > 2 or size not in (SIZES[0], SIZES[-1]):  # those two are the constants
                predicted = sending(traffic_of(Run("", 0, size / 4, "ddp"), n, 1), n, told) + meeting(n, told)
                rows.append(row(f"sum of {words(size)}", n, 1e3 * predicted, 1e3 * measured, "ms"))
    return loopback, rows


def slowed(told: Hardware, workers: int) -> Hardware:
    """What one of n workers has of it; the constants are of one core a process. A message waits more than it works."""
    return replace(told, peak=told.peak * share(workers), within=told.within * share(workers))


def words(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size} bytes"


def reading(folder: str, known: Constants, steps: int = 160) -> Rows:
    """Bytes of blocks that the first of n workers opens: the reader that it runs, here in this process."""
    experiment = pocket(folder, {"train.steps": steps})
    prepared = prepare(experiment, QUIET)
    data = Path(folder) / "reading"
    save_data(data, prepared.plan, prepared.encoder, prepared.held_out, Path(folder) / "encoded")
    source = ExampleSource(str(data), BATCH, steps)
    cache = open_cache(str(data))
    assert cache is not None
    for block in cache.needed(0, BATCH * steps):
        fill_block(source, cache, block)
    rows = []
    for n in WORKERS:
        with opened() as sizes:
            for _ in cached_stream(source, cache, 0, 0, n):
                pass
        predicted = steps * data_bytes(Run("", 0, 0, "ddp", BATCH), known)
        rows.append(row("encoded data a worker reads", n, predicted / 1e6, sum(sizes) / 1e6, "MB"))
    return rows


@contextmanager
def opened() -> Iterator[list[int]]:
    """Bytes of each block that is read."""
    sizes: list[int] = []
    real = blocks.read_block

    def counted(path: Path) -> Any:
        sizes.append(path.stat().st_size)
        return real(path)

    blocks.read_block = counted
    try:
        yield sizes
    finally:
        blocks.read_block = real


def pocket(folder: str, more: dict[str, Any]) -> Experiment:
    """The pocket experiment as it is checked: training alone, on small workers."""
    common = {
        "storage.runs": folder, "train.steps": STEPS, "train.batch_size": BATCH, "train.checkpoint_every": STEPS,
        "train.validation": None, "search": None, "scaling.cpus_per_worker": 0.25,
        "tracking.mlflow": False, "tracking.tensorboard": False,
    }  # fmt: skip
    return override(load_experiment(POCKET), common | more)


def trained(folder: str, workers: int, name: str) -> tuple[Path, float]:
    """The run of so many workers, and the seconds until its group began to write, without what the driver prepares."""
    experiment = pocket(folder, {"scaling.workers": workers})
    run = Path(folder) / experiment.name / name
    began: dict[str, float] = {}
    stop = threading.Event()

    def watch() -> None:
        waits = {"record": run / "record.json", "warnings": run / "warnings.txt"}  # the driver's last, a worker's first
        while not stop.wait(0.02):
            for what, path in waits.items():
                if what not in began and path.exists():
                    began[what] = time.perf_counter()

    thread = threading.Thread(target=watch)
    thread.start()
    train(experiment, name, console=QUIET)
    stop.set()
    thread.join()
    return run, began["warnings"] - began["record"]


def importing() -> float:
    """CPU seconds of a process that imports what a worker does."""
    before = os.times()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def training(folder: str, known: Constants, loopback: Hardware) -> tuple[Hardware, Rows]:
    """Runs of 1, 2, 4 and 8 workers; what one core computes is measured in this process, on the passes of the first."""
    trained(folder, 1, "first")  # whose data is encoded from here on
    found = {n: trained(folder, n, f"of-{n}") for n in WORKERS}
    experiment, run = pocket(folder, {}), found[1][0]
    model, _ = untrained_model(experiment, run)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    steps = records(run)[1:]
    shape = Run("pocket", sum(n for n, _ in sizes), sum(n for n, own in sizes if own), "ddp", BATCH)
    known = replace(known, tokens_an_example=sum(r["tokens"] for r in steps) / sum(r["examples"] for r in steps))
    core = replace(loopback, peak=bare(experiment, run) * flops_a_token(shape), utilisation=1.0)
    imports, first = importing(), found[1][1]
    rows: Rows = []
    for n, (run, started) in found.items():
        told = slowed(core, n)
        measured = statistics.median(r["seconds"] for r in records(run)[1:])
        rows.append(row("step", n, 1e3 * step_of(shape, n, known, told)["seconds"], 1e3 * measured, "ms"))
        if n > 1:  # of one it is the constant
            rows.append(row("start of the group", n, first + imports * (1 / share(n) - 1), started, "s"))
        [checkpoint] = (run / "checkpoints").glob("step-*")
        size = sum(f.stat().st_size for f in checkpoint.rglob("*") if f.is_file())
        rows.append(row("checkpoint", n, known.checkpoint_bytes * shape.trained / 1e6, size / 1e6, "MB"))
        [part] = (run / "ledger").iterdir()
        rows.append(row("ledger files a checkpoint", n, n, len(list(part.iterdir())), ""))
    return core, sorted(rows, key=lambda r: str(r["part"]))


@contextmanager
def ray_of(cpus: int) -> Iterator[None]:
    """A cluster that is told to have so many CPUs, settings as of the project's own."""
    os.environ.update(SETTINGS | {"RAY_AUTH_MODE": "disabled"})
    import ray

    environment = {"env_vars": dict(SETTINGS)}
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    torch.set_num_threads(1)
    known = Constants(**json.loads((RESULTS / "scale_model.json").read_text(encoding="utf-8"))["constants"])
    with tempfile.TemporaryDirectory() as folder:
        ensure_model(pocket(folder, {}), QUIET)
        loopback, rows = network()
        rows += reading(folder, known)
        with ray_of(max(WORKERS) + 2):
            core, more = training(folder, known, loopback)
    told = {"FLOP/s a core": core.peak, "bytes/s": core.within, "seconds a message": core.latency}
    load = os.getloadavg()
    keep("scale_check", {"cores": cores(), "load": load, "steps": STEPS, "constants": told, "rows": [*rows, *more]})


if __name__ == "__main__":
    main()
