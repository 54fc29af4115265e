"""Placement of a model's weights: replicated on each worker (`ddp`), or sharded (`fsdp`, torch's FSDP2).

Zhao et al. 2023, arXiv 2304.11277, after ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): every weight with its
gradient and optimiser state is sharded over the workers; a block of layers is gathered when it is needed and freed
afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ialign_ray.config import Experiment
from ialign_ray.modeling.architecture import blocks, checkpoint_activations, compile_blocks
from ialign_ray.tokens.batch import Encoded

SHARE = 0.6
"""Share of a GPU's memory for weights, gradients and optimiser state; the rest is for activations."""
Strategy = Literal["auto", "ddp", "fsdp"]


def place(model: nn.Module, experiment: Experiment, device: torch.device) -> None:
    """Place a model with its adapter on this worker's device, sharded or not, in the state that the loop needs.

    Every worker calls this. Raises ModelError if the architecture has no gradient checkpointing.
    """
    # both before sharding, whose hooks must enclose recomputed and compiled blocks
    if experiment.train.gradient_checkpointing:
        checkpoint_activations(model)
    if experiment.train.compile:
        compile_blocks(model)
    if experiment.model.quantization is not None:
        return  # it was loaded on its device, and its packed weights cannot be sharded
    if is_sharded(experiment.scaling.strategy, model, device):
        shard(model, device, half=experiment.model.precision == "bf16")
    model.to(device)  # buffers of a sharded model


def is_sharded(wanted: Strategy, model: nn.Module, device: torch.device) -> bool:
    """Return True if the model is to be sharded: as configured, or (`auto`) if it is too large for some worker's GPU.

    Every worker calls this; a single one has nothing to shard.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1 or wanted == "ddp":
        return False
    if wanted == "fsdp":
        return True
    if device.type != "cuda":  # on CPUs all workers of a node use the same memory
        return False
    memory = torch.cuda.get_device_properties(device).total_memory
    # GPUs may differ between hosts, but either all workers shard or no worker does
    crowded = torch.tensor(int(training_bytes(model) > SHARE * memory), device=device)
    dist.all_reduce(crowded, dist.ReduceOp.MAX)
    return bool(crowded)


def training_bytes(model: nn.Module) -> int:
    """Memory of weights, gradients and AdamW's two moments (fp32), in bytes, without activations."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return weights + sum(3 * 4 * p.numel() for p in model.parameters() if p.requires_grad)


def shard(model: nn.Module, device: torch.device, *, half: bool = False) -> None:
    """Shard the weights over all workers, in place, and move each part to its worker's device.

    Gradients are summed, not averaged, in fp32. With `half`, blocks are gathered and computed in bf16; the shards,
    which the optimiser updates, keep their precision.
    """
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # blocks first: the model itself then shards the remaining parameters
    for module in [*blocks(model), model]:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            # a step divides by its own number of targets; FSDP's mean over workers would divide once more
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo supports no other


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name; of a sharded model, this worker's parts of them."""
    _let_go(model)
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """Gather the weights of a sharded model that are saved (adapter, or all) on the first worker's CPU.

    None for an unsharded model. Every worker calls this; the others gather only one weight at a time.
    """
    if not isinstance(model, FSDPModule):
        return None
    _let_go(model)
    chosen: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not hasattr(model, "peft_config"):
        tied = {n for n, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {n: b for n, b in model.state_dict().items() if n not in tied}
        chosen = dict(model.named_parameters()) | buffers
    whole = {}
    for name, part in chosen.items():
        value = part.full_tensor() if isinstance(part, DTensor) else part
        if dist.get_rank() == 0:
            whole[name] = value.detach().cpu()
    return whole


def _let_go(model: nn.Module) -> None:
    """Reshard the outermost weights, which a forward pass without a backward one leaves gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def cut_like(value: Any, parameter: Tensor) -> Any:
    """This worker's part of a full value if its parameter is sharded, otherwise the value."""
    # AdamW's step count is a scalar, and the same on every worker
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    on_device = value.to(parameter.device)
    # every worker has read the same value, so nothing needs to be sent
    return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)


BUCKET = 32 * 1024 * 1024
"""Number of gradient elements summed in one message: 128 MB in addition to the gradients, whatever the model's size."""
T = TypeVar("T")
FILLER = Encoded("", 0, "", "", "", prompt=[0], target=[])
"""One token without a target: its forward and backward pass add nothing."""


def rounds(model: nn.Module, own: Iterable[T], filler: T) -> Iterator[T]:
    """This worker's forward passes of a step; for a sharded model, followed by fillers until every worker is done."""
    if not isinstance(model, FSDPModule):
        yield from own
        return
    own = list(own)
    # a sharded forward pass waits for every worker, so all must run the same number
    most = torch.tensor(len(own), device=next(model.parameters()).device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    yield from own
    yield from repeat(filler, int(most) - len(own))


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum the values of all workers in place; without other workers, return the value."""
    if dist.is_initialized():
        dist.all_reduce(value)
    return value


def reduce_and_clip(model: nn.Module, clip_norm: float) -> float:
    """Sum the gradients of all workers and scale them down to `clip_norm`; return their norm before clipping.

    Called once per step, after the last backward pass; for a sharded model that pass has summed them already.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if dist.is_initialized() and dist.get_world_size() > 1 and not isinstance(model, FSDPModule):
        # after the last pass and not during it: workers have different numbers of passes
        for bucket in buckets(parameters, BUCKET):
            _sum_bucket(bucket)
    norm = nn.utils.clip_grad_norm_(parameters, clip_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def buckets(parameters: Iterable[nn.Parameter], elements: int) -> Iterator[list[nn.Parameter]]:
    """Parameters in order, in groups of at most this many elements; a larger one is a separate group."""
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
    """Sum in fp32, whatever the gradients' precision: in bf16, 2^-8 of relative error per worker would add up."""
    # a worker may have no gradient in a step, but has to take part in the sum
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1).float() for g in gradients])
    dist.all_reduce(flat)
    for parameter, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)
