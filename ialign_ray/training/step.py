"""One optimiser step: forward, backward, reduce, clip, update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.config.train import LANGUAGE_MODELING
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.collate import CPU, Pass, collate
from ialign_ray.training.flops import peak_memory
from ialign_ray.training.objective import OBJECTIVES, Objective, PassLayout
from ialign_ray.training.sharding import FILLER, reduce_and_clip, rounds, sum_over_workers
from ialign_ray.training.spikes import SpikeDetector


@dataclass
class StepStats:
    """Loss, counts and memory of one step, over all workers."""

    loss: float = 0.0
    """Mean over the step, e.g. nats per target token."""
    grad_norm: float = 0.0
    """Norm of the gradient before clipping."""
    counts: dict[str, float] = field(default_factory=dict)
    """Sums over workers: `examples`, `replay` ones among them, useful `tokens` (prompt and target), `padded` ones that
    were computed, `target_tokens`, `flops` that the useful tokens need, and what the objective counts."""
    sources: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Source -> (summed loss, target tokens)."""
    memory: int = 0
    """Peak memory of any worker in bytes, see `flops.peak_memory`."""
    skipped: bool = False
    """True if the spike detector refused the update."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Encoded],
    *,
    step: int,
    seed: int,
    clip_norm: float,
    layout: PassLayout,
    device: torch.device,
    objective: Objective = OBJECTIVES[LANGUAGE_MODELING],
    passes: Sequence[Pass] | None = None,
    detector: SpikeDetector | None = None,
    cost: Callable[[Encoded], float] = lambda example: 0.0,
) -> StepStats:
    """Train on this worker's share of a global batch; the loss is the objective's mean over the whole batch.

    Dropout's randomness is set from (seed, step, rank), so a resumed run repeats it without stored state.
    Workers may have different numbers of passes, see `sharding.rounds`. `passes` are the examples laid out already.
    `detector` may refuse the update; it raises ModelError if the loss is NaN or infinite. `cost` is an example's FLOPs.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    # distinct for every step below 1,000,003 and rank below 4,099
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)
    total = sum_over_workers(torch.tensor(objective.size(examples), device=device))
    sums: dict[str, float] = defaultdict(float)
    weighted: dict[str, float] = defaultdict(float)
    targets: dict[str, int] = defaultdict(int)
    seen: list[tuple[Encoded, float]] = []
    padded = 0
    if passes is None:
        passes = objective.collate(examples, layout)
    # workers without passes left still take part in sharded forward passes
    filler = Pass([FILLER], *collate([FILLER], layout.pad, CPU, layout.start))
    for part in (p.to(device) for p in rounds(model, passes, filler)):
        summed, each = objective.loss(model, part)
        # divided by the size of all workers' shares: the gradient does not depend on the division into passes
        (summed / total).backward()  # type: ignore[no-untyped-call]
        padded += part.padded
        for example, own in zip(part.examples, each.tolist(), strict=True):
            seen.append((example, own))
            sums[example.source] += own
            weighted[example.source] += own * objective.weight(example)
            targets[example.source] += example.learned
    norm = reduce_and_clip(model, clip_norm)
    loss = float(sum_over_workers(torch.tensor(sum(weighted.values()), device=device)) / total)
    updates = (detector or SpikeDetector()).allows(step + 1, loss, norm, seen, device)
    if updates:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    counts = {
        "examples": len(examples),
        "replay": sum(e.task == "replay" for e in examples),
        "tokens": sum(len(e) for e in examples),
        "padded": padded,
        "target_tokens": sum(targets.values()),
        "flops": sum(map(cost, examples)),
    }
    sources = {s: (sums[s], targets[s]) for s in sums if targets[s]}
    own_stats = StepStats(loss, norm, counts | objective.counts(examples), sources, peak_memory(device), not updates)
    return _gather(own_stats)


def _gather(own: StepStats) -> StepStats:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    every: list[StepStats | None] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    total = StepStats(loss=own.loss, grad_norm=own.grad_norm, skipped=own.skipped)
    for part in filter(None, every):
        for name, number in part.counts.items():
            total.counts[name] = total.counts.get(name, 0) + number
        total.memory = max(total.memory, part.memory)
        for source, (nats, tokens) in part.sources.items():
            before = total.sources.get(source, (0.0, 0))
            total.sources[source] = (before[0] + nats, before[1] + tokens)
    return total
