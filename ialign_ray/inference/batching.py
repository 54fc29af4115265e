"""Length-sorted batches under a token budget, padding, and a context for evaluation without gradients."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ialign_ray.errors import DataError, ModelError
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.head import base_model

Tokens = Sequence[int]


def token_batches(lengths: Sequence[int], budget: int, *, same_length: bool = False) -> Iterator[list[int]]:
    """Row indices in batches of rows x longest <= budget (a longer row is a batch alone), longest first.

    Neighbours in length share a batch, so little of it is padding, and the largest batch comes first, so
    a budget that does not fit in memory fails at once. `same_length` never mixes two lengths.
    """
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        # rows come longest first, so that a batch's first row is its longest
        longest = lengths[batch[0]] if batch else 0
        if batch and ((len(batch) + 1) * longest > budget or (same_length and lengths[row] != longest)):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def padded(rows: Sequence[Tokens], device: torch.device, *, left: bool = False, fill: int = 0) -> tuple[Tensor, Tensor]:
    """Ids [B, T] padded with `fill`, and their attention mask [B, T], both LongTensors."""
    width = max(len(row) for row in rows)
    # filled on the CPU and moved at once: on a GPU each row would be a separate copy
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        part = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, part] = torch.tensor(row, dtype=torch.long)
        mask[i, part] = 1
    return ids.to(device), mask.to(device)


def device_of(model: nn.Module) -> torch.device:
    """The device for the model's inputs: that of its first parameter, the embeddings."""
    return next(model.parameters()).device


@contextmanager
def read_only(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the mode of every module is restored.

    `no_grad` and not `inference_mode`: a buffer that a forward pass renews (dynamic rotary frequencies)
    would stay an inference tensor and break the next training step.
    """
    # per module: `model.train(mode)` afterwards would change a part that the caller keeps in evaluation mode
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def cache_argument(model: nn.Module) -> str | None:
    """Name under which `forward` takes keys and values: `cache` since transformers 5.24; None if there is no such
    argument."""
    takes = inspect.signature(base_model(model).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in takes), None)


def takes_left_padding(model: nn.Module) -> bool:
    """Return True if a causal model gives a left-padded row, and rows continued from a cache, its true positions.

    Declared, not tested: the architecture takes `position_ids` or counts positions in the attention mask
    (BLOOM) or by distance (MPT), keeps no recurrent state, and all its layers keep plain or
    sliding-window keys and values of their layer.
    """
    inner = base_model(model)
    config = inner.config.get_text_config(decoder=True)
    takes = inspect.signature(inner.forward).parameters
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        cache_argument(model) is not None
        and ("position_ids" in takes or config.model_type in {"bloom", "mpt"})
        and not getattr(inner, "_is_stateful", False)
        and kinds <= {"full_attention", "sliding_attention"}
        and getattr(config, "kv_sharing_modes", None) is None
        and getattr(config, "attention_chunk_size", None) is None
    )


def check_prompts(model: nn.Module, prompts: Sequence[Tokens], extra: Sequence[int]) -> None:
    """Refuse input that the model cannot read: empty prompts, or prompt + `extra` tokens past its positions.

    For an encoder-decoder the prompt and the `extra` tokens are each compared with the limit.

    Raises:
        DataError: an empty prompt.
        ModelError: a row longer than the model's maximum positions.
    """
    limit = getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)
    apart = is_encoder_decoder(model)
    for i, (prompt, more) in enumerate(zip(prompts, extra, strict=True)):
        if not len(prompt):
            raise DataError(f"prompt {i} has no tokens; start it with the tokenizer's BOS or EOS token.")
        length = max(len(prompt), more) if apart else len(prompt) + more
        if limit is not None and length > limit:
            raise ModelError(
                f"prompt {i} needs {length} positions ({len(prompt)} of the prompt, {more} after it) and the "
                f"model has {limit}; shorten the text or choose a model with a longer context."
            )
