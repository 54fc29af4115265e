"""Model FLOPs utilisation: the FLOPs that the useful tokens need, over those that the device could do in that time.

A matrix of n weights costs 2n FLOPs per token forward, 2n for the gradient of its input and 2n for that of its weights,
which a frozen matrix does not need: 6n trained (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), 4n frozen under an
adapter. Attention costs 12 x heads x head size per pair of a token and a token attended to, forward and backward (PaLM,
Chowdhery et al. 2022, arXiv 2204.02311, appendix B). Each example attends only to itself, without a discount for
causality, as there; the output head runs only on target tokens. Padding and recomputation do not count: so
`torch.utils.flop_counter` is not used, which counts both, and would need a run for every new shape.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.head import base_model, output_head
from ialign_ray.tokens.batch import Encoded

TRAINED, FROZEN, ATTENTION = 6, 4, 12
_CROSS = re.compile(
    r"(EncDecAttention|encoder_attn|cross_?attn|crossattention|cross_attention)\.(k|v)(\w*)(\.|$)", re.I
)
"""Keys and values of cross-attention: in the decoder, but computed from the encoder's tokens."""

PEAKS = {
    # an H100 PCIe or NVL must be found before the plain H100
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12, "A10G": 70e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Dense bf16 FLOP/s by whole words of the device's name, from NVIDIA's data sheets; the first that matches."""


@dataclass(frozen=True)
class Cost:
    """FLOPs of one forward and backward pass, by the numbers of tokens on each side."""

    prompt: float
    """FLOPs of a prompt token (of an encoder-decoder: in the encoder, with the cross-attention's keys and values)."""
    target: float
    """FLOPs of a target token, with the output head."""
    own: tuple[float, float]
    """FLOPs of attention between a pair of tokens within the first side, and within the second. A causal model has one
    side."""
    cross: float = 0.0
    """FLOPs of attention of a target token to a prompt token."""
    apart: bool = False

    def of(self, example: Encoded) -> float:
        """FLOPs that training on an example needs."""
        first, second = len(example.prompt), len(example.target)
        linear = self.prompt * first + self.target * second
        if not self.apart:
            return linear + self.own[0] * (first + second) ** 2
        return linear + self.own[0] * first**2 + self.own[1] * second**2 + self.cross * first * second


def training_cost(model: nn.Module) -> Cost:
    """Cost of an example, from the shapes of a model's layers and the set of trained ones.

    Only layers with a weight matrix of one layer count: not experts, of which a token uses few, nor the scans of
    state-space models. Attention windows are ignored.
    """
    head = {id(m) for m in output_head(model).modules()}
    apart = is_encoder_decoder(model)
    inside = {id(m) for m in base_model(model).get_encoder().modules()} if apart else set()
    prompt = target = 0.0
    for name, module, flops in _matrices(model):
        if id(module) in head:
            target += flops
        elif apart and (id(module) in inside or _CROSS.search(name)):
            prompt += flops
        else:
            target += flops
            # one side: prompt and target tokens pass through the same layers
            prompt += 0 if apart else flops
    first, second = (_attention(model, decoder=d) for d in (False, True))
    return Cost(prompt, target, (first, second), second if apart else 0.0, apart)


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module, float]]:
    """Every linear layer and its FLOPs per token; LoRA's matrices are such layers too."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor):
            continue
        if isinstance(module, nn.Linear):  # quantised ones too, whose weight has a different shape
            yield name, module, module.in_features * module.out_features * _factor(weight)
        elif type(module).__name__ == "Conv1D":
            yield name, module, weight.numel() * _factor(weight)


def _factor(weight: torch.Tensor) -> int:
    return TRAINED if weight.requires_grad else FROZEN


def _attention(model: nn.Module, *, decoder: bool) -> float:
    """FLOPs of one pair of tokens in all layers of a side; 0 if the config names no heads."""
    config: Any = base_model(model).config.get_text_config(**{"decoder" if decoder else "encoder": True})
    layers = getattr(config, "num_decoder_layers", None) if decoder else None
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return 0.0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return float(ATTENTION * (layers or config.num_hidden_layers) * heads * size)


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s of one device."""

    flops: float
    """FLOP/s."""
    source: str
    """`data sheet`, or `measured matmul peak`."""
    device: str


@lru_cache
def peak_of(device: torch.device, *, bf16: bool) -> Peak:
    """A known GPU's bf16 peak from its data sheet; otherwise the best of several matrix products, in a tenth of a
    second."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    # by whole words, otherwise an L40 would match L4 and an RTX A1000 would match A10
    known = next((peak for part, peak in PEAKS.items() if re.search(rf"\b{part}\b", name)), None)
    if bf16 and known:
        return Peak(known, "data sheet", name)
    return Peak(_measured(device, torch.bfloat16 if bf16 else torch.float32), "measured matmul peak", name)


def _measured(device: torch.device, dtype: torch.dtype, seconds: float = 0.1) -> float:
    size = 8192 if device.type == "cuda" else 512
    a = torch.ones(size, size, dtype=dtype, device=device)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of tensors on a GPU, of the process (resident) elsewhere; 0 if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
