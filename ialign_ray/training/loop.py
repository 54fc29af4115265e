"""The training loop: plain torch, one process or many, no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.errors import CheckpointError, StoppedError
from ialign_ray.modeling.kind import decoder_start
from ialign_ray.tokens.batch import BUCKETED, Batching, Encoded
from ialign_ray.training.checkpoint import CURE, Checkpoints
from ialign_ray.training.collate import Pass, lay_out
from ialign_ray.training.journal import Journal
from ialign_ray.training.prefetch import ahead
from ialign_ray.training.signals import Wish
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
    batching: Batching = BUCKETED
    """How a step's examples are laid out in passes; it may not change within a run."""
    on_step: Callable[[int], None] = lambda step: None
    """Called after every step with the number of steps done."""
    wish: Callable[[], Wish] = lambda: Wish.GO_ON
    """Asked before every step what this worker wishes to happen after it."""

    def lay_out(self, model: nn.Module) -> Callable[[list[Encoded]], list[Pass]]:
        """From a step's examples to its passes, in memory that the device reads fastest."""
        start, tokens = decoder_start(model), self.settings.micro_batch_tokens

        def passes(examples: list[Encoded]) -> list[Pass]:
            made = lay_out(examples, self.batching, tokens, self.pad, start)
            return [p.pinned() for p in made] if self.device.type == "cuda" else made

        return passes


def run_loop(model: nn.Module, loop: Loop) -> int:
    """Train from the newest checkpoint to the last step; returns the step it started from.

    Raises StoppedError after the step at which a worker wished to stop, with a checkpoint made, and CheckpointError
    when the disk does not take the last one.
    """
    settings = loop.settings
    optimizer = make_optimizer(model, settings)
    start = restore(loop, model, optimizer)
    model.train()
    stream = ahead(loop.stream(start), loop.lay_out(model))
    for step in range(start, settings.steps):
        wished = _Strongest(loop.wish(), loop.device)
        began = time.perf_counter()
        examples, passes = next(stream)
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
                passes=passes,
            )
        done = step + 1
        loop.journal.record(done, examples, stats, rate=rate, seconds=time.perf_counter() - began, waited=waited)
        last, wish = done == settings.steps, wished.wait()
        if last or wish or done % settings.checkpoint_every == 0:
            save(loop, model, optimizer, done, must=last or wish is Wish.STOP)
        loop.on_step(done)
        if wish is Wish.STOP and not last:
            raise StoppedError(f"stopped by SIGTERM after step {done} of {settings.steps}; go on with --resume")
    stream.close()
    model.eval()
    return start


def restore(loop: Loop, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Go back to the newest intact checkpoint, the first worker's choice; returns its step."""
    checkpoints = loop.checkpoints
    chosen: list[Path | None] = [None]
    passed: list[Path] = []
    if _first():
        chosen = [checkpoints.newest()]
        checkpoints.sweep(chosen[0])
        passed = [p for p in checkpoints.found() if chosen[0] is None or p > chosen[0]]
    if dist.is_initialized():
        dist.broadcast_object_list(chosen)
    start = checkpoints.restore(model, optimizer, chosen[0])
    loop.journal.open(start)
    for torn in passed:
        loop.journal.warn(f"{torn} is torn (a file is missing or differs from its hash); going on from step {start}")
    return start


def save(loop: Loop, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, must: bool) -> None:
    """Every worker writes its part of the ledger, then the first one the checkpoint.

    Where the disk takes no more, the run goes on with a warning, or ends with CheckpointError if it `must` be saved.
    """
    failure = _told(lambda: loop.journal.flush(step))
    if failure is None:  # a checkpoint ahead of its ledger would prove nothing
        failure = _told(lambda: loop.checkpoints.save(step, model, optimizer) if _first() else None)
    if failure is None:
        return
    if must:
        raise CheckpointError(f"{failure}; {CURE}")
    every, steps = loop.settings.checkpoint_every, loop.settings.steps
    following = min(steps, (step // every + 1) * every)
    loop.journal.warn(f"{failure}; training goes on and tries again after step {following}")


def _told(work: Callable[[], object]) -> str | None:
    """Do a part of saving; the first worker's or any other's CheckpointError as text, the same on all of them."""
    own: str | None = None
    try:
        work()
    except CheckpointError as error:
        own = str(error)
    every = [own]
    if dist.is_initialized():
        every = [None] * dist.get_world_size()
        dist.all_gather_object(every, own)
    return next((text for text in every if text), None)


class _Strongest:
    """The strongest wish of all workers, found while they compute: 1.3 ms between two busy CPUs, were it waited for."""

    def __init__(self, own: Wish, device: torch.device) -> None:
        self._own = own
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._shared = torch.tensor(int(own), device=device)
            self._work = dist.all_reduce(self._shared, dist.ReduceOp.MAX, async_op=True)
        else:
            self._work = None

    def wait(self) -> Wish:
        if self._work is None:
            return self._own
        self._work.wait()
        return Wish(int(self._shared))


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


def _first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0
