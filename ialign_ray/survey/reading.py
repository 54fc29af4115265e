"""One forward pass for both measures of a text: its likelihood, and the mean of its hidden states.

A text is conditioned on the start token alone (BOS, or EOS if the tokenizer lacks it), as `kind: perplexity` does.
Short texts share a row where the architecture keeps them apart (`modeling.attention.PACKABLE`): positions
restart, and no text attends to another, so the numbers are those of one text at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ialign_ray.errors import DataError, ModelError
from ialign_ray.inference.batching import Tokens, device_of, read_only
from ialign_ray.inference.embedding import Layer, layer_number
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.modeling.attention import is_packable
from ialign_ray.modeling.head import base_model, selected_positions
from ialign_ray.tokens.batch import Batching, Encoded
from ialign_ray.training.collate import Pass, lay_out

WIDTH: Final = 128
"""Fewest tokens of a packed row: attention's cost grows with it, and a unit has about 50 tokens."""


@dataclass(frozen=True)
class TextReadings:
    """Likelihood and vector of each of n texts."""

    nats: NDArray[np.float64]
    """Nats [n] of each text given the start token."""
    vectors: NDArray[np.float32]
    """Mean hidden state [n, H] over a text's tokens, without the start token, whose state is an outlier."""


def start_token(tokenizer: Any) -> int:
    """Id that precedes each text. Raises ModelError for a tokenizer with neither BOS nor EOS."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise ModelError(f"the tokenizer of {tokenizer.name_or_path!r} has neither BOS nor EOS; set one of them")
    return int(start)


def check_readable(model: nn.Module, texts: Sequence[Tokens]) -> None:
    """Refuse what cannot be measured.

    Raises:
        ModelError: an encoder-decoder, whose decoder gives a text no likelihood without a source, or too few positions.
        DataError: a text without tokens.
    """
    if is_encoder_decoder(model):
        raise ModelError(
            "the model is an encoder-decoder, which gives a text no likelihood without a source; survey a causal model,"
            " or use suites of `kind: translation` and `kind: retrieval`"
        )
    limit = getattr(base_model(model).config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, texts), default=0)
    # the last token is predicted and never read, but its state is part of the vector
    if limit is not None and longest + 1 > limit:
        raise ModelError(
            f"a unit needs {longest + 1} positions and the model has {limit}; leave out long units with --longest"
        )
    if not all(map(len, texts)):
        raise DataError("a unit has no tokens; remove empty texts")


def read_units(
    model: nn.Module, texts: Sequence[Tokens], start: int, *, layer: Layer = "middle", batch_tokens: int = 2048
) -> TextReadings:
    """Nats and mean hidden state of each text (token ids), in the order of `texts`; see the module.

    `batch_tokens` is rows x longest row of a pass. Raises as `check_readable`.
    """
    check_readable(model, texts)
    examples = [Encoded(f"{k:08d}", 0, "", "", "", [start], list(text)) for k, text in enumerate(texts)]
    nats, vectors = np.zeros(len(texts)), [np.zeros(0, np.float32)] * len(texts)
    with read_only(model):
        for one in lay_out(examples, Batching(packed=is_packable(model), width=WIDTH), batch_tokens, 0):
            losses, means = _read(model, one.to(device_of(model)), layer)
            for example, loss, mean in zip(one.examples, losses, means, strict=True):
                nats[int(example.row_id)], vectors[int(example.row_id)] = loss, mean
    return TextReadings(nats, np.stack(vectors) if vectors else np.zeros((0, 0), np.float32))


def _read(model: nn.Module, one: Pass, layer: Layer) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    with selected_positions(model, one.positions) as calls:
        output = model(**one.inputs, use_cache=False, output_hidden_states=True)
    logits: Tensor = output.logits.reshape(-1, output.logits.shape[-1])
    logits = logits if calls.count else logits[one.positions]
    # in parts: a whole fp32 copy would double the largest tensor of the pass
    chosen = zip(torch.split(logits, 128), torch.split(one.labels, 128), strict=True)
    each = torch.cat([nn.functional.cross_entropy(part.float(), labels, reduction="none") for part, labels in chosen])
    states = output.hidden_states[layer_number(layer, len(output.hidden_states) - 1)]
    # position p predicts the token at p + 1
    own = states.reshape(-1, states.shape[-1])[one.positions + 1].float()
    lengths = [len(example.target) for example in one.examples]
    sums = torch.stack([part.double().sum() for part in torch.split(each, lengths)])
    means = torch.stack([part.mean(0) for part in torch.split(own, lengths)])
    return sums.cpu().numpy(), means.cpu().numpy()
