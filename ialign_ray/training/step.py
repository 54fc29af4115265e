"""One optimiser step: forward, backward, reduce, clip, update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn

from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.tokens.batch import BUCKETED, Encoded
from ialign_ray.training.collate import CPU, Pass, collate, lay_out
from ialign_ray.training.flops import peak_memory
from ialign_ray.training.loss import target_nats
from ialign_ray.training.sharding import FILLER, reduce_and_clip, rounds, sum_over_workers
from ialign_ray.training.spikes import Guard


@dataclass
class StepStats:
    """What one step saw, over all workers."""

    loss: float = 0.0
    """Nats per target token."""
    grad_norm: float = 0.0
    """Before clipping."""
    examples: int = 0
    replay: int = 0
    """Examples from the replay pool."""
    tokens: int = 0
    """Useful tokens, prompt and target."""
    padded: int = 0
    """Tokens computed, padding included."""
    target_tokens: int = 0
    sources: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Source -> (summed nats, target tokens)."""
    flops: float = 0.0
    """What the useful tokens need, forward and backward; 0 without `cost`."""
    memory: int = 0
    """Most bytes that a worker held so far, see `flops.peak_memory`."""
    skipped: bool = False
    """Whether the guard refused the update."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    examples: Sequence[Encoded],
    *,
    step: int,
    seed: int,
    micro_batch_tokens: int,
    clip_norm: float,
    pad: int,
    device: torch.device,
    passes: Sequence[Pass] | None = None,
    guard: Guard | None = None,
    cost: Callable[[Encoded], float] = lambda example: 0.0,
) -> StepStats:
    """Train on this worker's share of a global batch; the loss is the mean over the batch's target tokens.

    Dropout's randomness is set from (seed, step, rank), so a resumed run repeats it without stored state.
    Workers may have different numbers of passes, see `parallel.rounds`. `passes` are the examples laid out already;
    bucketed by length when left out.
    `guard` may refuse the update; it raises ModelError where the loss is no number. `cost` gives an example's FLOPs.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)
    total = sum_over_workers(torch.tensor(float(sum(len(e.target) for e in examples)), device=device))
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    seen: list[tuple[Encoded, float]] = []
    padded = 0
    start = decoder_start(model)
    if passes is None:
        passes = lay_out(examples, BUCKETED, micro_batch_tokens, pad, start)
    filler = Pass([FILLER], *collate([FILLER], pad, CPU, start))
    for part in (p.to(device) for p in rounds(model, passes, filler)):
        summed, nats = target_nats(model, part.positions, part.labels, **part.inputs)
        (summed / total).backward()  # type: ignore[no-untyped-call]
        padded += part.padded
        each = torch.split(nats, [len(e.target) for e in part.examples])
        for example, loss_of in zip(part.examples, torch.stack([n.sum() for n in each]).tolist(), strict=True):
            seen.append((example, loss_of))
            sums[example.source] += loss_of
            counts[example.source] += len(example.target)
    norm = reduce_and_clip(model, clip_norm)
    loss = float(sum_over_workers(torch.tensor(sum(sums.values()), device=device)) / total)
    updates = (guard or Guard()).allows(step + 1, loss, norm, seen, device)
    if updates:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _gather(StepStats(
        loss=loss, grad_norm=norm, examples=len(examples), replay=sum(e.task == "replay" for e in examples),
        tokens=sum(len(e) for e in examples), padded=padded, target_tokens=sum(counts.values()),
        sources={s: (sums[s], counts[s]) for s in sums if counts[s]}, flops=sum(map(cost, examples)),
        memory=peak_memory(device), skipped=not updates,
    ))  # fmt: skip


def _gather(own: StepStats) -> StepStats:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    every: list[StepStats | None] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    total = StepStats(loss=own.loss, grad_norm=own.grad_norm, skipped=own.skipped)
    for part in filter(None, every):
        for name in ("examples", "replay", "tokens", "padded", "target_tokens", "flops"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        total.memory = max(total.memory, part.memory)
        for source, (nats, tokens) in part.sources.items():
            before = total.sources.get(source, (0.0, 0))
            total.sources[source] = (before[0] + nats, before[1] + tokens)
    return total
