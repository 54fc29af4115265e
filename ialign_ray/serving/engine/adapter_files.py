"""PEFT adapter folders read as low-rank matrices by layer, checked against the base."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ialign_ray.errors import ModelError
from ialign_ray.modeling.load import adapter_config
from ialign_ray.modeling.patterns import check_patterns

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
# Settings that change more than low-rank products add, and that no tensor of the file would reveal.
UNLIKE_LORA = ("use_dora", "alora_invocation_tokens", "layer_replication", "use_qalora", "arrow_config", "kasa_config")
# Ways to begin an adapter that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ do not.
ON_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST = 1e6
"""Largest norm of a layer's update (Frobenius, after scaling). The weights of trained layers have norms of a few
hundred; an update a thousand times theirs comes from a run that diverged, and overflows a few layers later."""
MERGE = "serve it as a separate model: `ialign export --merge`"


@dataclass(frozen=True)
class LowRank:
    """One layer's update, x -> x A^T B, with the scale multiplied into B."""

    down: Tensor
    """A, [rank, in]."""
    up: Tensor
    """B^T times the scale, [rank, out]."""


def read_adapter(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> dict[str, LowRank]:
    """Read the updates of an adapter, by layer name, on the CPU.

    Args:
        folder: `adapter_config.json` and `adapter_model.safetensors`, as PEFT writes them.
        shapes: (in, out) of the base's linear layers.

    Raises:
        ModelError: the folder is damaged, is not plain LoRA, or does not fit the base.
    """
    config, tensors = _config(folder, shapes), _tensors(folder)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            raise ModelError(f"adapter {folder} holds {key}, which is more than plain LoRA; {MERGE}.")
        if name not in shapes:
            raise ModelError(f"adapter {folder} is for a layer {name}, which is not a linear layer of the base.")
        found.setdefault(name, {})[kind[0]] = tensor
    if not found:
        raise ModelError(f"adapter {folder} holds no weights; train or export it again.")
    return {name: _low_rank(folder, name, pair, shapes[name], config) for name, pair in found.items()}


def _config(folder: Path, shapes: Mapping[str, tuple[int, int]]) -> Any:
    from peft import PeftConfig

    check_patterns(adapter_config(folder), list(shapes), folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"adapter_config.json of {folder} cannot be read: {error}") from error
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind != "LORA":
        raise ModelError(f"adapter {folder} is of type {kind}, and only LoRA shares a base; {MERGE}.")
    unlike = [name for name in UNLIKE_LORA if getattr(config, name, None)]
    if unlike:
        raise ModelError(f"adapter {folder} has {unlike[0]}, which is more than plain LoRA; {MERGE}.")
    if config.init_lora_weights not in ON_THE_BASE:
        raise ModelError(
            f"adapter {folder} was begun with init_lora_weights {config.init_lora_weights!r}, which takes its first "
            f"weights away from the base; {MERGE}."
        )
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        raise ModelError(
            f"{folder} holds {PICKLED}, a pickle, which may run code when it is read; save the adapter again with a "
            f"present PEFT, which writes {WEIGHTS}."
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{folder / WEIGHTS} is missing or torn: {error}") from error
    bad = next((key for key, t in tensors.items() if t.dtype not in FLOATS or not t.isfinite().all()), None)
    if bad is not None:
        raise ModelError(
            f"{folder / WEIGHTS}: {bad} does not hold finite 16, 32 or 64-bit floats; train or export it again."
        )
    return tensors


def _low_rank(folder: Path, name: str, pair: dict[str, Tensor], shape: tuple[int, int], config: Any) -> LowRank:
    if set(pair) != {"A", "B"}:
        raise ModelError(f"adapter {folder} holds half of layer {name}; it is damaged, export it again.")
    # PEFT computes half-precision adapters in single precision; equal answers need the same here
    down, up = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (pair["A"], pair["B"]))
    rank = len(down) if down.dim() else 0
    if not rank or down.shape != (rank, shape[0]) or up.shape != (shape[1], rank):
        raise ModelError(
            f"adapter {folder} does not fit the base: layer {name} is {shape[0]} x {shape[1]}, and the adapter's "
            f"matrices are {tuple(down.shape)} and {tuple(up.shape)}."
        )
    if rank > min(shape):
        raise ModelError(
            f"adapter {folder} has rank {rank} for layer {name}, which has a side of only {min(shape)}; {MERGE}."
        )
    made = LowRank(down, (up.T * _scale(folder, name, rank, config)).contiguous())
    if not (size := _norm(made)) <= LARGEST:  # NaN is not either
        raise ModelError(
            f"adapter {folder} changes layer {name} by a matrix of norm {size:.3g} after scaling, and at most "
            f"{LARGEST:.0e} is served; it has diverged or its lora_alpha is wrong, so train or export it again."
        )
    return made


def _norm(update: LowRank) -> float:
    """Return the largest of the Frobenius norms of A, of B times the scale, and of their product.

    The product's comes from two matrices [rank, rank]; the product itself would be as large as the layer.
    """
    down, up = update.down.double(), update.up.double()
    inside, outside = down @ down.T, up @ up.T
    squares = torch.stack([inside.trace(), outside.trace(), (inside * outside).sum()])
    return float(squares.abs().max().sqrt())  # the last one may be below 0 by a rounding


def _scale(folder: Path, name: str, rank: int, config: Any) -> float:
    from peft.utils.other import get_pattern_key

    try:
        alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), name), config.lora_alpha)
        scale = float(alpha / (math.sqrt(rank) if config.use_rslora else rank))
    except (TypeError, AttributeError, re.error) as error:
        raise ModelError(f"the alpha of {name} in adapter_config.json of {folder} cannot be read: {error}") from error
    if not math.isfinite(scale):
        raise ModelError(f"the alpha of {name} in adapter_config.json of {folder} is {alpha}; it must be finite.")
    return scale
