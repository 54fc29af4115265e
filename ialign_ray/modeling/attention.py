"""Attention kernel of a model, and its ability to separate examples that share a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ialign_ray.config import ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.modeling.head import base_model

PACKABLE = frozenset({
    "cohere", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3",
    "qwen2", "qwen3", "smollm3",
})  # fmt: skip
"""Model types that build a block-diagonal mask if position ids restart; each is tested against unpacked rows.

Excluded are BLOOM and MPT, which count positions in the attention mask (ALiBi), T5 and related models, which have an
encoder and relative positions, and models with recurrent layers, which carry a state over.
"""
_KERNELS = frozenset({"eager", "sdpa", "flex_attention", "flash_attention_2"})


def attention_kernel(settings: ModelSettings) -> str | None:
    """The kernel to load a model with; None leaves the choice to transformers, which uses SDPA if the model supports
    it.

    FlashAttention reads rows of any length without padding, only in half precision on CUDA.

    Raises:
        ModelError: the requested kernel needs a GPU or a package that this machine lacks.
    """
    from transformers.utils import is_flash_attn_2_available

    wanted = settings.attention
    half = settings.precision == "bf16"
    flash = half and torch.cuda.is_available() and is_flash_attn_2_available()
    if wanted == "auto":
        return "flash_attention_2" if flash else None
    if wanted == "flash_attention_2" and not flash:
        raise ModelError(
            "model.attention is 'flash_attention_2', which needs a CUDA GPU, the package flash-attn and "
            "model.precision: bf16; set model.attention: auto"
        )
    if wanted == "flex_attention" and not torch.cuda.is_available():
        raise ModelError(
            "model.attention is 'flex_attention', which computes no gradients on a CPU; set model.attention: auto"
        )
    return wanted


def kernel_of(model: nn.Module) -> str:
    """The kernel that a loaded model uses."""
    return str(getattr(base_model(model).config, "_attn_implementation", "eager"))


def is_packable(model: nn.Module) -> bool:
    """Return True if examples may share a row: declared for the architecture and the kernel, not tested."""
    config: Any = base_model(model).config
    return (
        config.model_type in PACKABLE
        and not getattr(config, "is_encoder_decoder", False)
        and kernel_of(model) in _KERNELS
    )


def reads_lengths(model: nn.Module) -> bool:
    """Return True if the kernel takes the lengths of the examples in a row, so that long rows cost no more."""
    return kernel_of(model).startswith("flash")
