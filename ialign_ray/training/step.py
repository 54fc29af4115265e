"""One optimiser step: forward, backward, reduce, clip, update."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ialign_ray.errors import ModelError
from ialign_ray.modeling.kind import decoder_start
from ialign_ray.tokens.batch import BUCKETED, Encoded
from ialign_ray.training.collate import Pass, lay_out
from ialign_ray.training.loss import target_nats


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
) -> StepStats:
    """Train on this worker's share of a global batch; the loss is the mean over the batch's target tokens.

    Dropout's randomness is set from (seed, step, rank), so a resumed run repeats it without stored state.
    Workers may have different numbers of passes, since gradients are summed once at the end. `passes` are the examples
    laid out already; bucketed by length when left out.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = _sum_over_workers(torch.tensor(float(sum(len(e.target) for e in examples)), device=device))
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    padded = 0
    if passes is None:
        passes = lay_out(examples, BUCKETED, micro_batch_tokens, pad, decoder_start(model))
    for part in (p.to(device) for p in passes):
        summed, nats = target_nats(model, part.positions, part.labels, **part.inputs)
        (summed / total).backward()  # type: ignore[no-untyped-call]
        padded += part.padded
        each = torch.split(nats, [len(e.target) for e in part.examples])
        for example, loss_of in zip(part.examples, torch.stack([n.sum() for n in each]).tolist(), strict=True):
            sums[example.source] += loss_of
            counts[example.source] += len(example.target)
    _reduce_gradients(parameters)
    norm = float(nn.utils.clip_grad_norm_(parameters, clip_norm))
    loss = float(_sum_over_workers(torch.tensor(sum(sums.values()), device=device)) / total)
    if not (norm < float("inf") and loss < float("inf")):
        raise ModelError(
            f"step {step}: the loss is {loss} and the gradient norm {norm}; lower train.learning_rate or use fp32"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _gather(StepStats(
        loss=loss, grad_norm=norm, examples=len(examples), replay=sum(e.task == "replay" for e in examples),
        tokens=sum(len(e) for e in examples), padded=padded, target_tokens=sum(counts.values()),
        sources={s: (sums[s], counts[s]) for s in sums},
    ))  # fmt: skip


def _sum_over_workers(value: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def _reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


def _gather(own: StepStats) -> StepStats:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return own
    every: list[StepStats | None] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    total = StepStats(loss=own.loss, grad_norm=own.grad_norm)
    for part in filter(None, every):
        for name in ("examples", "replay", "tokens", "padded", "target_tokens"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
        for source, (nats, tokens) in part.sources.items():
            before = total.sources.get(source, (0.0, 0))
            total.sources[source] = (before[0] + nats, before[1] + tokens)
    return total
