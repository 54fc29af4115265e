"""Vectors of texts from a model's hidden states: the mean over a text's tokens, at one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ialign_ray.errors import ConfigError
from ialign_ray.inference.batching import Tokens, check_prompts, device_of, padded, read_only, token_batches
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.head import base_model

Layer = Literal["middle", "last"] | int


def layer_number(layer: Layer, layers: int) -> int:
    """Number of a layer of a model with `layers` blocks: 0 is the embeddings, `layers` the last block's output.

    Raises:
        ConfigError: a number that the model does not have.
    """
    if layer == "middle":
        return (layers + 1) // 2
    if layer == "last":
        return layers
    if not -layers - 1 <= layer <= layers:
        raise ConfigError(f"layer is {layer}, but the model has {layers}; choose 0 to {layers}, middle or last")
    return layer % (layers + 1)


def embed(
    model: nn.Module,
    texts: Sequence[Tokens],
    *,
    layer: Layer = "middle",
    max_batch_tokens: int = 4096,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Mean hidden state of each text's tokens, [n, H] in the order of `texts`; padding is ignored.

    Independent of the batch, up to rounding: texts are padded on the right, which no earlier position attends to. For
    an encoder-decoder, the encoder's states.

    Args:
        model: any causal or encoder-decoder model of transformers, wrapped by peft or not.
        texts: token ids, n rows.
        layer: see `layer_number`; the last is what the output head reads.
        max_batch_tokens: rows x longest row of a batch, padding included.
        progress: called with the number of texts finished so far.

    Raises:
        DataError: a text without tokens.
        ModelError: a text longer than the model's maximum positions.
        ConfigError: a layer that the model does not have.
    """
    check_prompts(model, texts, [0] * len(texts))
    body = _body(model)
    vectors: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(texts)
    done = 0
    with read_only(model):
        for rows in token_batches([len(text) for text in texts], max_batch_tokens):
            ids, mask = padded([texts[i] for i in rows], device_of(model))
            states = body(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
            means = _mean(states[layer_number(layer, len(states) - 1)], mask).cpu().numpy()
            for i, vector in zip(rows, means):
                vectors[i] = vector
            done += len(rows)
            if progress:
                progress(done)
    return np.stack(vectors) if vectors else np.zeros((0, 0), np.float32)


def _body(model: nn.Module) -> Any:
    """The part that computes hidden states; the output head, the largest matrix, is not needed."""
    inner = base_model(model)
    return inner.get_encoder() if is_encoder_decoder(model) else inner.base_model


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    # in fp32: a sum of many bf16 states would lose the small ones
    own = mask.unsqueeze(-1).float()
    return (states.float() * own).sum(1) / own.sum(1)
