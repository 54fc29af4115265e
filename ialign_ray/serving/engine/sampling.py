"""Choice of each row's next token, with separate settings and generators, so that the batch has no effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ialign_ray.errors import ConfigError
from ialign_ray.serving.protocol import NotANumberError, Sampling, TokenScore

LIKELIEST = 256
"""Tokens searched for a nucleus before the whole vocabulary is sorted."""


class SampledRow(Protocol):
    """The part of a row that `choose` needs."""

    sampling: Sampling
    generator: torch.Generator | None

    def seen(self) -> Sequence[int]:
        """Return the tokens to which a repetition penalty applies: the decoder's tokens so far."""

    def must(self) -> int | None:
        """Return the next token if it is forced, else None."""


def check_sampling(sampling: Sampling) -> None:
    """Raise ConfigError for a setting outside its range."""
    limits = {
        "max_new_tokens must be at least 1": sampling.max_new_tokens >= 1,
        "temperature must be at least 0": sampling.temperature >= 0,
        "top_p must be within (0, 1]": 0 < sampling.top_p <= 1,
        "top_k must be at least 0 (0: all tokens)": sampling.top_k >= 0,
        "repetition_penalty must be above 0": sampling.repetition_penalty > 0,
        "stop must not contain an empty text": all(sampling.stop),
        "top_log_probs must be at least 0": (sampling.top_log_probs or 0) >= 0,
    }
    for rule, holds in limits.items():
        if not holds:
            raise ConfigError(f"{rule}, but is {getattr(sampling, rule.split()[0])!r}.")


def row_generator(sampling: Sampling) -> torch.Generator | None:
    """Create the generator of a row; None if it is greedy. Without a seed it is seeded from the system's entropy."""
    if not sampling.temperature:
        return None
    generator = torch.Generator()
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed % 2**63)
    return generator


def choose(logits: Tensor, rows: Sequence[SampledRow]) -> list[TokenScore | NotANumberError]:
    """Choose the next token of each row from logits [B, V], with log-probabilities if the row needs them.

    Log-probabilities are the model's own: before penalty, temperature and nucleus. A row whose logits contain NaN, or
    no finite maximum, gets an error instead of a token; other rows are not affected.
    """
    logits = logits.float()
    changed = _penalised(logits, rows)
    best = changed.max(-1)  # the maximum of a row with NaN is NaN
    finite, greedy = best.values.isfinite().tolist(), best.indices.tolist()
    return [
        _chosen(logits[i], changed[i], greedy[i], row) if finite[i] else NotANumberError(NO_NUMBER)
        for i, row in enumerate(rows)
    ]


NO_NUMBER = (
    "the model computed NaN or infinity for this request; its weights are damaged or too large, so ask "
    "another model or version."
)


def _chosen(logits: Tensor, changed: Tensor, greedy: int, row: SampledRow) -> TokenScore:
    free = greedy if row.generator is None else draw(changed, row.sampling, row.generator)
    return _with_log_prob(logits, free if (must := row.must()) is None else must, row)


def _with_log_prob(logits: Tensor, token: int, row: SampledRow) -> TokenScore:
    top = row.sampling.top_log_probs
    return TokenScore(token, None) if top is None else token_scores(logits[None].log_softmax(-1), [token], top)[0]


def token_scores(log_probs: Tensor, tokens: Sequence[int], top: int) -> list[TokenScore]:
    """Return n tokens with their log-probabilities and `top` alternatives, from log-probabilities [at least n, V]."""
    own = log_probs[: len(tokens)]
    values = own.gather(1, torch.tensor(tokens, device=own.device).long()[:, None])[:, 0].tolist()
    best = own.topk(min(top, own.shape[1]))
    return [
        TokenScore(token, value, tuple(zip(index, height)))
        for token, value, index, height in zip(tokens, values, best.indices.tolist(), best.values.tolist())
    ]


def draw(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Draw one token from logits [V]: temperature, then the `top_k` likeliest, then the nucleus of `top_p`.

    The draw inverts the cumulative distribution at one number of the row's generator. The nucleus is that of
    Holtzman et al. 2020 (arXiv 1904.09751), as transformers has it.
    """
    # below the likeliest and in double precision, so that no temperature, however small, gives infinity minus infinity
    scaled = (logits - logits.max()).double() / sampling.temperature
    point = float(torch.rand((), generator=generator, dtype=torch.float64))
    if sampling.top_k:
        scaled, index = scaled.topk(min(sampling.top_k, len(scaled)))
    elif sampling.top_p < 1:
        scaled, index = _nucleus(scaled, sampling.top_p)
    else:
        index = None
    share = scaled.softmax(-1)
    if sampling.top_k and sampling.top_p < 1:
        share = share * (share.cumsum(-1) - share < sampling.top_p)
    total = share.cumsum(-1)
    # rounding may push the point beyond the last token that has any probability
    last = int((share > 0).nonzero()[-1])
    at = min(int((total <= point * total[-1]).sum()), last)
    return at if index is None else int(index[at])


def _nucleus(scaled: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    norm = scaled.logsumexp(-1)
    best, index = scaled.topk(min(LIKELIEST, len(scaled)))
    if (best - norm).exp().sum() < top_p:
        best, index = scaled.sort(descending=True)
    share = (best - norm).exp()
    count = int((share.cumsum(-1) - share < top_p).sum())
    return best[:count], index[:count]


def _penalised(logits: Tensor, rows: Sequence[SampledRow]) -> Tensor:
    """Apply each row's repetition penalty (Keskar et al. 2019, arXiv 1909.05858) to the tokens it contains."""
    if all(row.sampling.repetition_penalty == 1 for row in rows):
        return logits
    logits = logits.clone()
    for i, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted(set(row.seen())), device=logits.device)
            held = logits[i, seen]
            penalty = row.sampling.repetition_penalty
            logits[i, seen] = torch.where(held < 0, held * penalty, held / penalty)
    return logits
