"""Many workers: what one step says to the others, and how its gradients come together.

Data parallelism (`ddp`) is one sum of the gradients after the step's last micro-batch. Torch's
`DistributedDataParallel` sums inside each backward pass, so all workers would need the same number of micro-batches;
here each has as many as its examples fill.

Fully sharded (`fsdp`), each forward and backward pass is a meeting of all workers. So all do as many as the worker
with the most, and those who have run out pass on a filler, from which nothing is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ialign_ray.tokens.batch import Encoded

BUCKET = 32 * 1024 * 1024
"""Gradients (elements) summed in one message: 128 MB beside the gradients themselves, whatever the model's size."""
T = TypeVar("T")
FILLER = Encoded("", 0, "", "", "", prompt=[0], target=[])
"""One token without a target: its forward and backward pass count nothing."""


def rounds(model: nn.Module, own: Iterable[T], filler: T) -> Iterator[T]:
    """This worker's forward passes of a step; if the model is sharded, then fillers until every worker is done."""
    if not isinstance(model, FSDPModule):
        yield from own
        return
    own = list(own)
    most = torch.tensor(len(own), device=next(model.parameters()).device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    yield from own
    yield from repeat(filler, int(most) - len(own))


def sum_over_workers(value: Tensor) -> Tensor:
    """The sum of every worker's value, in place; the value itself without other workers."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def reduce_and_clip(model: nn.Module, clip_norm: float) -> float:
    """Sum the gradients of all workers and scale them down to `clip_norm`; their norm before that.

    Called once a step, after the last backward pass; of a sharded model that pass has summed them already.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if dist.is_initialized() and dist.get_world_size() > 1 and not isinstance(model, FSDPModule):
        for bucket in buckets(parameters, BUCKET):
            _sum_bucket(bucket)
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def buckets(parameters: Iterable[nn.Parameter], elements: int) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, in groups of at most so many elements; a larger one stands alone."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and size + parameter.numel() > elements:
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _sum_bucket(parameters: Sequence[nn.Parameter]) -> None:
    """Sum in fp32, whatever the gradients' precision: 2^-8 of relative error a worker would add up in bf16."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1).float() for g in gradients])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
