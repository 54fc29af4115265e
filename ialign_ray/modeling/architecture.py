"""Causal or encoder-decoder: a model's kind, always found from its config, never set by the user."""

from __future__ import annotations

from typing import Any

from torch import nn

from ialign_ray.errors import ModelError
from ialign_ray.modeling.head import base_model

FORCED = ("forced_bos_token_id", "forced_eos_token_id")
"""Settings of a generation config that are part of how an encoder-decoder writes (BART, mBART, NLLB)."""


def is_encoder_decoder(model: nn.Module) -> bool:
    """Return True if prompts go to an encoder and answers to a decoder."""
    return bool(getattr(base_model(model).config, "is_encoder_decoder", False))


def decoder_start(model: nn.Module) -> int | None:
    """The id before an answer's first token on the decoder's side; None for a causal model.

    Raises:
        ModelError: an encoder-decoder that names none.
    """
    if not is_encoder_decoder(model):
        return None
    inner = base_model(model)
    for config in (inner.config, inner.generation_config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise ModelError("the model names no decoder_start_token_id; set it in the model folder's config.json.")


def auto_class(config: Any, name: str) -> Any:
    """The auto class of transformers that loads a language model of this config.

    Raises:
        ModelError: the model is neither causal nor encoder-decoder. BERT and its kin are refused although
            AutoModelForCausalLM takes them: without `is_decoder` a token sees what it should predict.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
    )

    apart = bool(getattr(config, "is_encoder_decoder", False))
    loader = AutoModelForSeq2SeqLM if apart else AutoModelForCausalLM
    known = MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if apart else MODEL_FOR_CAUSAL_LM_MAPPING
    own_code = loader.__name__ in (getattr(config, "auto_map", None) or {})
    both_ways = not apart and type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if own_code or (type(config) in known and not both_ways):
        return loader
    raise ModelError(
        f"model.id {name!r} is a {type(config).__name__}, which is neither a causal nor an encoder-decoder language "
        "model; name one that transformers' AutoModelForCausalLM or AutoModelForSeq2SeqLM loads"
    )


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks that the architecture declares for splitting over devices.

    Without such a declaration, the members of its longest list of modules.
    """
    inner = base_model(model)
    names = set(getattr(inner, "_no_split_modules", None) or ())
    if named := [m for m in inner.modules() if type(m).__name__ in names]:
        return named
    lists = [list(m) for m in inner.modules() if isinstance(m, nn.ModuleList)]
    return max(lists, key=len, default=[])


def checkpoint_activations(model: nn.Module) -> None:
    """Store only each block's input for the backward pass, which recomputes the rest (arXiv 1604.06174).

    Raises:
        ModelError: the architecture's code does not support it.
    """
    inner = base_model(model)
    if not inner.supports_gradient_checkpointing:
        raise ModelError(
            f"train.gradient_checkpointing: {type(inner).__name__} is not supported by it; set it to false"
        )
    inner.activation_checkpointing_enable({"use_reentrant": False})


def compile_blocks(model: nn.Module) -> None:
    """Compile each block with torch.compile at its first use, for all lengths of a batch.

    Block by block, since equal ones are compiled once, and since embeddings and head must not be compiled: a graph of
    the whole model would not know which positions the head computes. Names of weights do not change.
    """
    for block in blocks(model):
        block.compile(dynamic=True)
