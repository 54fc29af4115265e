"""The training loop: plain torch, one process or many, no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.journal import Journal
from ialign_ray.training.step import train_step

Stream = Callable[[int], Iterator[list[Encoded]]]
"""From a first step to an endless stream of this worker's share of each step's examples."""


@dataclass(frozen=True)
class Loop:
    """What one run needs beside its model."""

    settings: TrainConfig
    stream: Stream
    checkpoints: Checkpoints
    journal: Journal
    pad: int
    device: torch.device
    autocast: bool = False
    """Compute in bf16 over the weights' own precision."""
    on_step: Callable[[int], None] = lambda step: None
    """Called after every step with the number of steps done."""


def run_loop(model: nn.Module, loop: Loop) -> int:
    """Train from the newest checkpoint to the last step; returns the step it started from."""
    settings = loop.settings
    optimizer = make_optimizer(model, settings)
    start = loop.checkpoints.restore(model, optimizer)
    loop.journal.open(start)
    model.train()
    stream = loop.stream(start)
    for step in range(start, settings.steps):
        began = time.perf_counter()
        examples = next(stream)
        waited = time.perf_counter() - began
        rate = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(loop.device.type, torch.bfloat16, enabled=loop.autocast):
            stats = train_step(
                model,
                optimizer,
                examples,
                step=step,
                seed=settings.seed,
                micro_batch_tokens=settings.micro_batch_tokens,
                clip_norm=settings.clip_norm,
                pad=loop.pad,
                device=loop.device,
            )
        done = step + 1
        loop.journal.record(done, examples, stats, rate=rate, seconds=time.perf_counter() - began, waited=waited)
        if done == settings.steps or done % settings.checkpoint_every == 0:
            save(loop, model, optimizer, done)
        loop.on_step(done)
    model.eval()
    return start


def save(loop: Loop, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Every worker writes its part of the ledger, then the first one the checkpoint."""
    loop.journal.flush(step)
    _barrier()
    if not dist.is_initialized() or dist.get_rank() == 0:
        loop.checkpoints.save(step, model, optimizer)
    _barrier()


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


def learning_rate(step: int, settings: TrainConfig) -> float:
    """The rate of the step with this number (from 0): linear warm-up, then the schedule down to 0."""
    warmup = math.ceil(settings.warmup * settings.steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    return settings.learning_rate * factor[settings.schedule]


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
