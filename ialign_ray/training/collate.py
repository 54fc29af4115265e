"""Encoded examples as a model's inputs, with the positions whose next token is a target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ialign_ray.inference.batching import padded
from ialign_ray.tokens.batch import Encoded


def collate(
    batch: Sequence[Encoded], pad: int, device: torch.device, start: int | None = None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Right-padded inputs, flat positions [N] whose next token is a target, and those tokens [N].

    A causal model (`start` is None) reads prompt and target as one row [B, T]. An encoder-decoder reads the
    prompts [B, S] in its encoder, and in its decoder [B, T] `start` and the target up to its last token.
    """
    labels = torch.tensor([token for e in batch for token in e.target], dtype=torch.long, device=device)
    if start is None:
        ids, mask = padded([[*e.prompt, *e.target] for e in batch], device, fill=pad)
        inputs = {"input_ids": ids, "attention_mask": mask}
        return inputs, _positions(batch, ids.shape[1], [len(e.prompt) - 1 for e in batch]).to(device), labels
    ids, mask = padded([e.prompt for e in batch], device, fill=pad)
    decoder, _ = padded([[start, *e.target[:-1]] for e in batch], device, fill=pad)
    # no decoder mask: padding stands on the right, where no position that counts can see it
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}
    return inputs, _positions(batch, decoder.shape[1], [0] * len(batch)).to(device), labels


def _positions(batch: Sequence[Encoded], width: int, first: Sequence[int]) -> Tensor:
    """As many positions of each row as it has target tokens, from `first` of the row on."""
    return torch.cat([torch.arange(len(e.target)) + r * width + first[r] for r, e in enumerate(batch)])
