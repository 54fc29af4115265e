"""The training loop: plain torch, one process or many, no Ray."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.config.train import LANGUAGE_MODELING
from ialign_ray.errors import CheckpointError, StoppedError
from ialign_ray.tokens.batch import BUCKETED, Batching, Encoded
from ialign_ray.training.checkpoint import Checkpoints, first_says, first_worker
from ialign_ray.training.collate import Pass, ahead
from ialign_ray.training.flops import peak_of, training_cost
from ialign_ray.training.full_disk import CURE
from ialign_ray.training.objective import OBJECTIVES, Objective, PassLayout
from ialign_ray.training.progress import RunProgress
from ialign_ray.training.run_log import RunLog
from ialign_ray.training.spikes import SpikeDetector
from ialign_ray.training.step import train_step
from ialign_ray.training.stop_requests import StopRequest
from ialign_ray.training.validation import Validator

Stream = Callable[[int], Iterator[list[Encoded]]]
"""Function that maps a first step to an endless stream of this worker's share of each step's examples."""


@dataclass(frozen=True)
class Loop:
    """Everything that a run needs in addition to its model."""

    settings: TrainConfig
    stream: Stream
    checkpoints: Checkpoints
    run_log: RunLog
    pad: int
    device: torch.device
    autocast: bool = False
    """Compute in bf16, with weights in their original precision."""
    batching: Batching = BUCKETED
    """Layout of a step's examples in passes; it must not change within a run."""
    objective: Objective = OBJECTIVES[LANGUAGE_MODELING]
    """The loss to minimise."""
    held_out: Sequence[Encoded] = ()
    """Examples that `train.validation` measures the loss on."""
    on_step: Callable[[int], None] = lambda step: None
    """Called after every step with the number of steps done."""
    validator: Validator | None = None
    """Validates checkpoints in another process, if `train.validation` is asynchronous."""
    stop_request: Callable[[], StopRequest] = lambda: StopRequest.GO_ON
    """Called before every step; returns this worker's stop request for the end of the step."""

    def collate(self, examples: list[Encoded], layout: PassLayout) -> list[Pass]:
        """A step's passes, in memory that the device reads fastest."""
        made = self.objective.collate(examples, layout)
        return [p.pinned() for p in made] if self.device.type == "cuda" else made


def run_loop(model: nn.Module, loop: Loop) -> int:
    """Train from the newest checkpoint to the last step, or until a rule of `train.stop` applies; return the first
    step.

    Raises StoppedError after the step at which a worker asked to stop, once a checkpoint is written, and
    CheckpointError if the last one cannot be written.
    """
    settings, device = loop.settings, loop.device
    optimizer = make_optimizer(model, settings)
    detector = SpikeDetector(settings, loop.run_log.run, loop.run_log.warn)
    progress = RunProgress(settings, loop.held_out, loop.run_log, detector, loop.checkpoints, loop.validator)
    start = restore(loop, progress, model, optimizer)
    cost, peak = training_cost(model), peak_of(device, bf16=loop.autocast)
    model.train()
    layout = PassLayout.of(model, settings.micro_batch_tokens, loop.pad, loop.batching)
    # closed however the loop ends: a thread prepares the next batches
    with closing(ahead(loop.stream(start), partial(loop.collate, layout=layout))) as stream:
        done = start
        reason = validate_due(
            loop, progress, model, start
        )  # the base, or validations that a killed attempt did not reach
        while done < settings.steps and reason is None:
            # starts before the step and is read after it, so that the exchange adds no waiting
            strongest = _Strongest(loop.stop_request(), progress.arrived(), device)
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
                    clip_norm=settings.clip_norm,
                    layout=layout,
                    device=device,
                    objective=loop.objective,
                    passes=passes,
                    detector=detector,
                    cost=cost.of,
                )
            done += 1
            seconds = time.perf_counter() - began
            loop.run_log.record(
                done, examples, stats, rate=rate, seconds=seconds, waited=waited, peak=peak.flops * _workers()
            )
            stop_request, arrived = strongest.wait()
            if arrived:
                progress.collect()
            reason = validate_due(loop, progress, model, done)
            # a step that became the best needs its checkpoint now: the next update changes its weights
            last, elsewhere = done == settings.steps or reason is not None, progress.elsewhere(done)
            due = done % settings.checkpoint_every == 0 or done in progress.best()[:1]
            if last or stop_request or elsewhere or due:
                saved = save(loop, progress, model, optimizer, done, must=last or stop_request is StopRequest.STOP)
                if elsewhere and saved and not last and stop_request is not StopRequest.STOP:
                    progress.ask(done)
            loop.on_step(done)
            if stop_request is StopRequest.STOP and not last:
                raise StoppedError(f"stopped by SIGTERM after step {done} of {settings.steps}; continue with --resume")
    finish(loop, progress, model, optimizer, step=done, reason=reason, device=vars(peak))
    model.eval()
    return start


def validate_due(loop: Loop, progress: RunProgress, model: nn.Module, step: int) -> str | None:
    """Validate if due; return the reason why the run ends early after this step, or None."""
    with torch.autocast(loop.device.type, torch.bfloat16, enabled=loop.autocast):
        return progress.validate_due(model, step, loop.pad, loop.device)


def restore(loop: Loop, progress: RunProgress, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return to the newest intact checkpoint, chosen by the first worker; return its step."""
    checkpoints = loop.checkpoints
    chosen = first_says(checkpoints.newest)
    start = checkpoints.restore(model, optimizer, chosen)
    # records are cut to the checkpoint first, since progress is read from them
    loop.run_log.open(start)
    progress.resume(start)
    if first_worker():
        checkpoints.sweep(chosen, progress.spare(start))
        for torn in [p for p in checkpoints.found() if chosen is None or p > chosen]:
            cause = "a file is missing or differs from its hash"
            loop.run_log.warn(f"{torn} is torn ({cause}); resuming from step {start}")
    return start


def finish(
    loop: Loop, progress: RunProgress, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, **ending: object
) -> None:
    """Leave the model with the weights to keep, of the last or the best step, and record how the run ended."""
    progress.settle()
    chosen = progress.choose(step)
    kept = loop.checkpoints.restore(model, optimizer, chosen) if chosen else step
    loop.run_log.end(step=step, steps=loop.settings.steps, kept=kept, **ending)


def save(
    loop: Loop, progress: RunProgress, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, *, must: bool
) -> bool:
    """Save the ledger (every worker its part), then the checkpoint (the first one, or all); return True if it exists.

    If the disk is full, the run continues with a warning, or ends with CheckpointError if it `must` be saved.
    """
    failure = _failure(lambda: loop.run_log.flush(step))
    if failure is None:  # a checkpoint ahead of its ledger would be without evidence
        spare = progress.spare(step)
        failure = _failure(lambda: loop.checkpoints.save(step, model, optimizer, spare))
    if failure is None:
        return True
    if must:
        raise CheckpointError(f"{failure}; {CURE}")
    every, steps = loop.settings.checkpoint_every, loop.settings.steps
    following = min(steps, (step // every + 1) * every)
    loop.run_log.warn(f"{failure}; training continues and tries again after step {following}")
    return False


def _failure(work: Callable[[], object]) -> str | None:
    """Run one part of saving; return the CheckpointError of any worker as text, the same on all of them."""
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
    """The strongest stop request of all workers, and True if a validation has arrived at one of them.

    Reduced during computation: synchronously it would take 1.3 ms between two busy CPUs.
    """

    def __init__(self, stop_request: StopRequest, arrived: bool, device: torch.device) -> None:
        self._own = stop_request, arrived
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._shared = torch.tensor([int(stop_request), int(arrived)], device=device)
            self._work = dist.all_reduce(self._shared, dist.ReduceOp.MAX, async_op=True)
        else:
            self._work = None

    def wait(self) -> tuple[StopRequest, bool]:
        if self._work is None:
            return self._own
        self._work.wait()
        stop_request, arrived = self._shared.tolist()
        return StopRequest(stop_request), bool(arrived)


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (norms, biases) are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.learning_rate)


def learning_rate(step: int, settings: TrainConfig) -> float:
    """The learning rate of a step (from 0): linear warm-up, then decay to 0."""
    warmup = math.ceil(settings.warmup * settings.steps)
    if step < warmup:
        # from 1 / warmup, not 0: the first step trains too
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, settings.steps - warmup)
    factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}
    return settings.learning_rate * factor[settings.schedule]


def _workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
