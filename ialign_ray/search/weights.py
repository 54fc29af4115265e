"""The base model's weights once a node: arrays in Ray's object store, read in place by all trials of the node.

Frozen weights are never written, so LoRA trials compute straight from the shared memory; full tuning copies them once
a trial. Ray by itself would copy a torch module into each process.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


@dataclass(frozen=True)
class SharedModel:
    """A model in two parts: its modules and buffers, and its weights as arrays that travel without a copy."""

    skeleton: nn.Module
    """Every parameter empty; tied ones are one object, as in the model."""
    arrays: dict[str, npt.NDArray[Any]]
    """Parameter name -> its bytes."""
    forms: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    """Parameter name -> type and shape, since numpy has no bf16."""


def share(model: nn.Module) -> SharedModel:
    """Take a model on the CPU apart."""
    parameters = dict(model.named_parameters())
    empty: dict[int, Any] = {id(p): nn.Parameter(p.new_empty(0), requires_grad=False) for p in parameters.values()}
    skeleton = copy.deepcopy(model, empty)
    # new memory, page-aligned by the object store
    arrays = {n: p.detach().contiguous().reshape(-1).view(torch.uint8).numpy() for n, p in parameters.items()}
    return SharedModel(skeleton, arrays, {n: (p.dtype, tuple(p.shape)) for n, p in parameters.items()})


def base_model(shared: SharedModel, device: torch.device) -> nn.Module:
    """The model with its weights in the shared memory (CPU) or on the device; frozen, and not to be written to."""
    model = copy.deepcopy(shared.skeleton)
    for name, parameter in model.named_parameters():
        kind, shape = shared.forms[name]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of memory that is read-only, as it is meant to be
            parameter.data = torch.from_numpy(shared.arrays[name]).view(kind).view(shape)
    return model.to(device).eval()


def fresh(base: nn.Module, *, writable: bool) -> nn.Module:
    """A model for one trial: new modules over the base's own weights, or, to train them all, over a copy."""
    if writable:
        return copy.deepcopy(base).requires_grad_(True)
    return copy.deepcopy(base, {id(p): p for p in base.parameters()})


def bytes_of(shared: SharedModel) -> int:
    """What the weights take once a node."""
    return int(sum(np.asarray(a).nbytes for a in shared.arrays.values()))
