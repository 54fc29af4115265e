"""The training loop: plain torch, one process or many, no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.errors import CheckpointError, StoppedError
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.tokens.batch import BUCKETED, Batching, Encoded
from ialign_ray.training.checkpoint import CURE, Checkpoints, first_says, first_worker
from ialign_ray.training.collate import Pass, ahead, lay_out
from ialign_ray.training.flops import peak_of, training_cost
from ialign_ray.training.progress import Course
from ialign_ray.training.run_log import Journal
from ialign_ray.training.spikes import Guard
from ialign_ray.training.step import train_step
from ialign_ray.training.stop_requests import StopRequest
from ialign_ray.training.validation import Validator

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
    held_out: Sequence[Encoded] = ()
    """What `train.validation` looks at."""
    on_step: Callable[[int], None] = lambda step: None
    """Called after every step with the number of steps done."""
    validator: Validator | None = None
    """Validates checkpoints elsewhere, if `train.validation` is asynchronous."""
    wish: Callable[[], StopRequest] = lambda: StopRequest.GO_ON
    """Asked before every step what this worker wishes to happen after it."""

    def lay_out(self, model: nn.Module) -> Callable[[list[Encoded]], list[Pass]]:
        """From a step's examples to its passes, in memory that the device reads fastest."""
        start, tokens = decoder_start(model), self.settings.micro_batch_tokens

        def passes(examples: list[Encoded]) -> list[Pass]:
            made = lay_out(examples, self.batching, tokens, self.pad, start)
            return [p.pinned() for p in made] if self.device.type == "cuda" else made

        return passes


def run_loop(model: nn.Module, loop: Loop) -> int:
    """Train from the newest checkpoint to the last step, or to where a rule of `train.stop` holds; returns the step it
    started from.

    Raises StoppedError after the step at which a worker wished to stop, with a checkpoint made, and CheckpointError
    when the disk does not take the last one.
    """
    settings, device = loop.settings, loop.device
    optimizer = make_optimizer(model, settings)
    guard = Guard(settings, loop.journal.run, loop.journal.warn)
    course = Course(settings, loop.held_out, loop.journal, guard, loop.checkpoints, loop.validator)
    start = restore(loop, course, model, optimizer)
    cost, peak = training_cost(model), peak_of(device, bf16=loop.autocast)
    model.train()
    stream = ahead(loop.stream(start), loop.lay_out(model))
    done, reason = start, look(loop, course, model, start)  # the base, or what a killed attempt did not come to
    while done < settings.steps and reason is None:
        wished = _Strongest(loop.wish(), course.arrived(), device)
        began = time.perf_counter()
        examples, passes = next(stream)
        waited = time.perf_counter() - began
        rate = learning_rate(done, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=loop.autocast):
            stats = train_step(
                model,
                optimizer,
                examples,
                step=done,
                seed=settings.seed,
                micro_batch_tokens=settings.micro_batch_tokens,
                clip_norm=settings.clip_norm,
                pad=loop.pad,
                device=device,
                passes=passes,
                guard=guard,
                cost=cost.of,
            )
        done += 1
        seconds = time.perf_counter() - began
        loop.journal.record(
            done, examples, stats, rate=rate, seconds=seconds, waited=waited, peak=peak.flops * _workers()
        )
        wish, arrived = wished.wait()
        if arrived:
            course.collect()
        reason = look(loop, course, model, done)
        last, elsewhere = done == settings.steps or reason is not None, course.elsewhere(done)
        if last or wish or elsewhere or done % settings.checkpoint_every == 0 or done in course.best()[:1]:
            saved = save(loop, course, model, optimizer, done, must=last or wish is StopRequest.STOP)
            if elsewhere and saved and not last and wish is not StopRequest.STOP:
                course.ask(done)
        loop.on_step(done)
        if wish is StopRequest.STOP and not last:
            raise StoppedError(f"stopped by SIGTERM after step {done} of {settings.steps}; go on with --resume")
    stream.close()
    finish(loop, course, model, optimizer, step=done, reason=reason, device=vars(peak))
    model.eval()
    return start


def look(loop: Loop, course: Course, model: nn.Module, step: int) -> str | None:
    """Validate where that is due; why the run ends early after this step, or None."""
    with torch.autocast(loop.device.type, torch.bfloat16, enabled=loop.autocast):
        return course.look(model, step, loop.pad, loop.device)


def restore(loop: Loop, course: Course, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Go back to the newest intact checkpoint, the first worker's choice; returns its step."""
    checkpoints = loop.checkpoints
    chosen = first_says(checkpoints.newest)
    start = checkpoints.restore(model, optimizer, chosen)
    loop.journal.open(start)
    course.resume(start)
    if first_worker():
        checkpoints.sweep(chosen, course.spare(start))
        for torn in [p for p in checkpoints.found() if chosen is None or p > chosen]:
            cause = "a file is missing or differs from its hash"
            loop.journal.warn(f"{torn} is torn ({cause}); going on from step {start}")
    return start


def finish(
    loop: Loop, course: Course, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, **ending: object
) -> None:
    """Leave the model as it is to be kept, of the last step or of the best, and write down how the run ended."""
    course.settle()
    chosen = course.choose(step)
    kept = loop.checkpoints.restore(model, optimizer, chosen) if chosen else step
    loop.journal.end(step=step, steps=loop.settings.steps, kept=kept, **ending)


def save(
    loop: Loop, course: Course, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, must: bool
) -> bool:
    """Every worker writes its part of the ledger, then the first one, or all of them, the checkpoint; whether it is
    there.

    Where the disk takes no more, the run goes on with a warning, or ends with CheckpointError if it `must` be saved.
    """
    failure = _told(lambda: loop.journal.flush(step))
    if failure is None:  # a checkpoint ahead of its ledger would prove nothing
        spare = course.spare(step)
        failure = _told(lambda: loop.checkpoints.save(step, model, optimizer, spare))
    if failure is None:
        return True
    if must:
        raise CheckpointError(f"{failure}; {CURE}")
    every, steps = loop.settings.checkpoint_every, loop.settings.steps
    following = min(steps, (step // every + 1) * every)
    loop.journal.warn(f"{failure}; training goes on and tries again after step {following}")
    return False


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
    """The strongest wish of all workers, and whether one has heard of a validation, found while they compute: 1.3 ms
    between two busy CPUs, were it waited for."""

    def __init__(self, wish: StopRequest, arrived: bool, device: torch.device) -> None:
        self._own = wish, arrived
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._shared = torch.tensor([int(wish), int(arrived)], device=device)
            self._work = dist.all_reduce(self._shared, dist.ReduceOp.MAX, async_op=True)
        else:
            self._work = None

    def wait(self) -> tuple[StopRequest, bool]:
        if self._work is None:
            return self._own
        self._work.wait()
        wish, arrived = self._shared.tolist()
        return StopRequest(wish), bool(arrived)


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


def _workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
