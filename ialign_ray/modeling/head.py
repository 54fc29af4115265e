"""The output head on chosen positions only.

Logits of every position are the largest tensor of a step (tokens x vocabulary) and most of them are
never read: the loss reads the target's positions, scoring reads the label's. Here the hidden states
are gathered before the head, which works for any architecture that calls its head as a module.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ialign_ray.errors import ModelError


@dataclass
class HeadCalls:
    """Count of the head's calls inside `selected_positions`; 0 means that logits were computed at every position."""

    count: int = 0


def base_model(model: nn.Module) -> Any:
    """The transformers model inside data-parallel and peft wrappers; itself if there are no wrappers.

    Raises:
        ModelError: there is no transformers model inside, or the adapter adds virtual tokens, which
            shift every position.
    """
    inner: Any = model
    while not hasattr(inner, "get_base_model") and not hasattr(inner, "get_output_embeddings"):
        if not isinstance(getattr(inner, "module", None), nn.Module):
            raise ModelError(f"{type(model).__name__} has no output head; load it as a language model.")
        inner = inner.module
    if not hasattr(inner, "get_base_model"):
        return inner
    if inner.active_peft_config.is_prompt_learning:
        raise ModelError(f"{inner.active_peft_config.peft_type} adapters add virtual tokens; use LoRA or full.")
    return inner.get_base_model()


def output_head(model: nn.Module) -> nn.Module:
    """Return the module that turns hidden states into logits.

    Raises:
        ModelError: the model has no output embeddings, so it is not a language model; see `base_model` too.
    """
    inner = base_model(model)
    head = inner.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise ModelError(f"{type(inner).__name__} has no output head; load it as a language model.")
    return head


@contextmanager
def selected_positions(model: nn.Module, index: Tensor) -> Iterator[HeadCalls]:
    """Run the output head on the flat positions `index` only; logits then have shape [1, N, V].

    Args:
        model: a transformers model, or one wrapped by peft or by data parallelism.
        index: LongTensor [N] of positions in the flattened [B * T] batch (decoder side for encoder-decoders).

    Yields:
        a counter of the head's calls; while it is 0 the logits are still those of every position.
    """
    calls = HeadCalls()

    def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        calls.count += 1
        hidden: Tensor = args[0]
        # kept three-dimensional, as the model's code after its head expects
        flat = hidden.reshape(-1, hidden.shape[-1])
        return (flat[index.to(hidden.device)][None], *args[1:])

    handle = output_head(model).register_forward_pre_hook(select)
    try:
        yield calls
    finally:
        # also after an error: a leftover hook would cut every later batch
        handle.remove()


def target_logits(model: nn.Module, index: Tensor, **inputs: object) -> Tensor:
    """Logits [N, V] of the flat positions `index` [N] of a batch, differentiable.

    `inputs` are the keyword arguments of the model (`input_ids` [B, T], `attention_mask`, ...; `decoder_input_ids` for
    an encoder-decoder). No cache is kept. If an architecture computes its logits without calling its head as a module,
    they are selected afterwards: the same values without the saving.

    Raises:
        ModelError: `labels` were passed; the model's loss cannot be computed on selected positions.
    """
    if inputs.get("labels") is not None:
        raise ModelError("target_logits takes no labels; compute the loss from the logits it returns.")
    # keys and values of a pass that is not continued would only take memory
    inputs.setdefault("use_cache", False)
    with selected_positions(model, index) as calls:
        logits: Tensor = model(**inputs).logits
    flat = logits.reshape(-1, logits.shape[-1])
    return flat if calls.count else flat[index.to(flat.device)]
