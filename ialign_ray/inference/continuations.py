"""Log-probability of each token of continuations, given their prompts, by a causal model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ialign_ray.errors import DataError
from ialign_ray.inference.batching import Tokens, check_prompts, device_of, padded, read_only, token_batches
from ialign_ray.inference.label_trees import refuse_empty
from ialign_ray.modeling.head import target_logits

Progress = Callable[[int], None]
Floats = NDArray[np.float64]


def score_tokens(
    model: nn.Module,
    prompts: Sequence[Tokens],
    continuations: Sequence[Tokens],
    *,
    max_batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> list[Floats]:
    """Log-probability of each token of each continuation given its prompt, in nats: one array per row.

    Arguments and errors are those of `score_continuations`; the model is causal.
    """
    check_pairs(prompts, continuations)
    refuse_empty([[continuation] for continuation in continuations])
    # the last token is predicted and never read, so it takes no position
    check_prompts(model, prompts, [len(continuation) - 1 for continuation in continuations])
    found: list[Floats] = [np.zeros(0)] * len(prompts)
    lengths = [len(p) + len(c) - 1 for p, c in zip(prompts, continuations)]
    done = 0
    with read_only(model):
        for rows in token_batches(lengths, max_batch_tokens):
            each = _continuation_batch(model, [prompts[i] for i in rows], [continuations[i] for i in rows])
            for i, values in zip(rows, each):
                found[i] = values
            done += len(rows)
            if progress:
                progress(done)
    return found


def check_pairs(prompts: Sequence[Tokens], continuations: Sequence[Tokens]) -> None:
    """Raise DataError for unequal numbers of prompts and continuations."""
    if len(prompts) != len(continuations):
        raise DataError(f"{len(prompts)} prompts have {len(continuations)} continuations; give one to each.")


def _continuation_batch(model: nn.Module, prompts: Sequence[Tokens], continuations: Sequence[Tokens]) -> list[Floats]:
    # Padded on the right, where no earlier position looks: the way that is right for every causal model, recurrent ones
    # too.
    whole = [[*p, *c[:-1]] for p, c in zip(prompts, continuations)]
    ids, mask = padded(whole, device_of(model))
    width = ids.shape[1]
    index = [b * width + len(prompts[b]) - 1 + k for b, c in enumerate(continuations) for k in range(len(c))]
    logits = target_logits(model, torch.tensor(index), input_ids=ids, attention_mask=mask)
    values = read_log_probs(logits, range(len(index)), [token for c in continuations for token in c])
    return np.split(values, np.cumsum([len(c) for c in continuations])[:-1])


def read_log_probs(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> Floats:
    """Return the log-probabilities [M] of `tokens` [M] under the logits [N, V] of `rows` [M]."""
    # 128 positions at a time: the whole fp32 copy would double the largest tensor of the pass.
    norms = torch.cat([part.float().logsumexp(-1) for part in torch.split(logits, 128)])
    at = torch.tensor(rows, device=logits.device)
    picked = logits[at, torch.tensor(tokens, device=logits.device)].float() - norms[at]
    return cast("Floats", picked.cpu().double().numpy())
