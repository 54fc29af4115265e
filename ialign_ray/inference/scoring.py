"""Log-probabilities of continuations and of labels, given their prompts.

Only the continuation's tokens are scored, each given everything before it, and a score does not depend
on the batch: the reference averages over prompt, label and padding, which ranks labels by their length.

Callers pass token ids. A label's ids must be cut as training targets are (same leading space, same
end-of-sequence or none), and the prompt must end where training prompts end; the tokens of prompt and
label are never merged.

`score_labels` runs each prompt once and shares its keys and values among the labels: the first token of
every label is read from the prompt's last position, so one-token labels need no second pass, and labels
that begin alike share the pass over their common beginning.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from ialign_ray.inference.batching import (
    Tokens,
    cache_argument,
    check_prompts,
    device_of,
    padded,
    read_only,
    takes_left_padding,
    token_batches,
)
from ialign_ray.inference.continuations import Floats, Progress, check_pairs, read_log_probs, score_tokens
from ialign_ray.inference.label_trees import LabelSet, LabelTree, label_sets, label_trees
from ialign_ray.inference.shared_context import SharedContext, context_batches, shared_contexts
from ialign_ray.modeling.architecture import decoder_start, is_encoder_decoder
from ialign_ray.modeling.head import base_model, target_logits

# The pass over the labels keeps this many times the budget in cached tokens: they cost memory, not compute.
CACHED_TOKENS = 4
# Most prompts that share one context: each keeps a copy of its keys and values.
_ROWS = 32


@dataclass(frozen=True)
class ContinuationScores:
    """One score per row: summed log-probabilities in nats, float64 [n], and token counts, int64 [n]."""

    log_prob: Floats
    tokens: NDArray[np.int64]


@dataclass(frozen=True)
class LabelScores:
    """One score per prompt and label: summed log-probabilities in nats, float64 [n, L], and token counts."""

    log_prob: Floats
    tokens: NDArray[np.int64]


def score_continuations(
    model: nn.Module,
    prompts: Sequence[Tokens],
    continuations: Sequence[Tokens],
    *,
    max_batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> ContinuationScores:
    """Summed log-probability of each continuation given its prompt, in the order of `prompts`.

    Divide by ln 2 and by the continuation's bytes for bits per byte. An encoder-decoder reads the prompt
    in its encoder and scores the continuation as decoder target.

    Args:
        model: any causal or encoder-decoder model of transformers, wrapped by peft or not.
        prompts, continuations: token ids, n rows each.
        max_batch_tokens: rows x longest row of a batch, padding included.
        progress: called with the number of rows finished so far.

    Raises:
        DataError: an empty prompt or continuation, or unequal numbers of rows.
        ModelError: a row is longer than the model's maximum positions.
    """
    check_pairs(prompts, continuations)
    if is_encoder_decoder(model):
        sets = [[continuation] for continuation in continuations]
        each = score_labels(model, prompts, sets, max_batch_tokens=max_batch_tokens, progress=progress)
        return ContinuationScores(each.log_prob.reshape(-1), each.tokens.reshape(-1))
    found = score_tokens(model, prompts, continuations, max_batch_tokens=max_batch_tokens, progress=progress)
    sums, lengths = [each.sum() for each in found], [len(each) for each in found]
    return ContinuationScores(np.array(sums, np.float64), np.array(lengths, np.int64))


def score_labels(
    model: nn.Module,
    prompts: Sequence[Tokens],
    labels: LabelSet | Sequence[LabelSet],
    *,
    max_batch_tokens: int = 4096,
    progress: Progress | None = None,
) -> LabelScores:
    """Summed log-probability of every label given every prompt, [n, L] in the order of `prompts`.

    The same to 1e-4 (fp32) as one full forward pass per prompt and label, whatever the batch size.
    Models whose cache cannot be continued per label (`takes_left_padding`) get those full passes.

    Args:
        model: any causal or encoder-decoder model of transformers, wrapped by peft or not.
        prompts: token ids, n rows.
        labels: one set of L labels for all prompts, or n sets of L labels; each label is token ids.
        max_batch_tokens: rows x longest prompt of a batch, padding included.
        progress: called with the number of prompts finished so far.

    Raises:
        DataError: an empty prompt or label, or label sets of unequal size.
        ModelError: a prompt with its label is longer than the model's maximum positions.
    """
    sets = label_sets(labels, len(prompts))
    width = len(sets[0]) if sets else len(labels)
    tokens = np.array([[len(label) for label in each] for each in sets], dtype=np.int64)
    tokens = tokens.reshape(len(prompts), width)
    seq2seq = is_encoder_decoder(model)
    # a decoder reads its start token and all of a label but the last, a causal model only the latter
    longest = [max(len(label) for label in each) - (0 if seq2seq else 1) for each in sets]
    check_prompts(model, prompts, longest)
    if not seq2seq and not takes_left_padding(model):
        return LabelScores(_label_by_label(model, prompts, sets, max_batch_tokens, progress), tokens)
    score = _encoder_decoder_batch if seq2seq else _shared_prefix_batch
    sums = np.zeros((len(prompts), width))
    done = 0
    grouped = [] if seq2seq or not _takes_gaps(model) else shared_contexts(prompts, _ROWS)
    alone = sorted({*range(len(prompts))} - {row for group in grouped for row in group.rows})
    with read_only(model):
        for groups in context_batches(grouped, prompts, max_batch_tokens, CACHED_TOKENS):
            rows = [row for group in groups for row in group.rows]
            sums[rows] = _shared_context_batch(model, prompts, [sets[i] for i in rows], groups, max_batch_tokens)
            done += len(rows)
            if progress:
                progress(done)
        for places in token_batches([len(prompts[i]) for i in alone], max_batch_tokens):
            rows = [alone[k] for k in places]
            sums[rows] = score(model, [prompts[i] for i in rows], [sets[i] for i in rows], max_batch_tokens)
            done += len(rows)
            if progress:
                progress(done)
    return LabelScores(sums, tokens)


# --- one batch ----------------------------------------------------------------------------------------


def _label_by_label(
    model: nn.Module,
    prompts: Sequence[Tokens],
    sets: Sequence[LabelSet],
    budget: int,
    progress: Progress | None,
) -> Floats:
    width = len(sets[0]) if sets else 0
    rows = [(prompt, label) for prompt, one in zip(prompts, sets) for label in one]
    scores = score_continuations(
        model,
        [prompt for prompt, _ in rows],
        [label for _, label in rows],
        max_batch_tokens=budget,
        # rows of one prompt finish in different batches, so this counts whole prompts' worth of rows
        progress=(lambda done: progress(done // width)) if progress else None,
    )
    return scores.log_prob.reshape(len(prompts), width)


def _shared_prefix_batch(
    model: nn.Module, prompts: Sequence[Tokens], sets: Sequence[tuple[tuple[int, ...], ...]], budget: int
) -> Floats:
    # on the left, so that all prompts end in the last column, behind which the cache is continued
    ids, mask = padded(prompts, device_of(model), left=True)
    # one-token labels are read from the prompt's own logits: then no keys and values are kept
    branches = any(len(label) > 1 for one in sets for label in one)
    cache = DynamicCache(config=base_model(model).config) if branches else None
    last = torch.arange(1, len(prompts) + 1) * ids.shape[1] - 1
    # positions count the row's own tokens; those of the padding are hidden by the mask, and clamped to be valid
    places = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    logits = target_logits(
        model,
        last,
        input_ids=ids,
        attention_mask=mask,
        use_cache=cache is not None,
        **_cached(model, cache),
        **_accepted(model, places),
    )
    return _labels_after(model, logits, cache, mask, sets, budget)


def _shared_context_batch(
    model: nn.Module,
    prompts: Sequence[Tokens],
    sets: Sequence[tuple[tuple[int, ...], ...]],
    groups: Sequence[SharedContext],
    budget: int,
) -> Floats:
    """Sums [B, L] of the labels of the groups' prompts, group by group: each context is read once."""
    ids, before = padded([prompts[g.rows[0]][: g.length] for g in groups], device_of(model), left=True)
    cache = DynamicCache(config=base_model(model).config)
    places = {"position_ids": (before.cumsum(1) - 1).clamp(min=0)}
    kept = {"input_ids": ids, "attention_mask": before, "use_cache": True}
    target_logits(model, torch.tensor([0]), **kept, **_cached(model, cache), **_accepted(model, places))
    owner = torch.tensor([k for k, g in enumerate(groups) for _ in g.rows], device=ids.device)
    rest, own = padded([prompts[row][g.length :] for g in groups for row in g.rows], ids.device, left=True)
    mask = torch.cat([before[owner], own], dim=1)
    cache = _select(cache, owner)
    places = {"position_ids": before[owner].sum(1, keepdim=True) + (own.cumsum(1) - 1).clamp(min=0)}
    last = torch.arange(1, len(rest) + 1) * rest.shape[1] - 1
    kept = {"input_ids": rest, "attention_mask": mask, "use_cache": True}
    logits = target_logits(model, last, **kept, **_cached(model, cache), **_accepted(model, places))
    return _labels_after(model, logits, cache, mask, sets, budget)


def _labels_after(
    model: nn.Module,
    logits: Tensor,
    cache: DynamicCache | None,
    mask: Tensor,
    sets: Sequence[tuple[tuple[int, ...], ...]],
    budget: int,
) -> Floats:
    """Sums [B, L] of labels, from the logits [B, V] after their prompts and the prompts' cache with its mask [B, T]."""
    trees = label_trees(sets)
    owners = [b for b, one in enumerate(sets) for _ in one]
    sums = read_log_probs(logits, owners, [label[0] for one in sets for label in one]).reshape(len(sets), -1)
    if cache is not None:
        for pairs in _stem_batches(trees, mask.shape[1], budget):
            _add_stems(model, cache, mask, pairs, sets, trees, sums)
    return sums


def _takes_gaps(model: nn.Module) -> bool:
    """Return True if padding between two parts of a row is hidden by the mask: positions are given, and no layer counts
    columns as distances (sliding windows, MPT)."""
    inner = base_model(model)
    kinds = set(getattr(inner.config.get_text_config(decoder=True), "layer_types", None) or ["full_attention"])
    return "position_ids" in inspect.signature(inner.forward).parameters and kinds == {"full_attention"}


def _add_stems(
    model: nn.Module,
    cache: DynamicCache,
    mask: Tensor,
    pairs: list[tuple[int, int]],
    sets: Sequence[tuple[tuple[int, ...], ...]],
    trees: Sequence[LabelTree],
    sums: Floats,
) -> None:
    """Add to `sums` [B, L] what follows the first token, for (row, stem) `pairs` continued from the cache."""
    owner = torch.tensor([b for b, _ in pairs], device=mask.device)
    stems, stem_mask = padded([trees[b].stems[s] for b, s in pairs], mask.device)
    length = mask[owner].sum(1, keepdim=True)
    places = {"position_ids": length + (stem_mask.cumsum(1) - 1).clamp(min=0)}
    logits = target_logits(
        model,
        # the stems' own positions, row by row: the order in which `_collect` counts
        stem_mask.flatten().nonzero().flatten(),
        input_ids=stems,
        attention_mask=torch.cat([mask[owner], stem_mask], dim=1),
        use_cache=True,
        **_cached(model, _select(cache, owner)),
        **_accepted(model, places),
    )
    _collect(logits, pairs, sets, trees, sums, first=1)


def _cached(model: nn.Module, cache: DynamicCache | None) -> dict[str, DynamicCache | None]:
    return {cast("str", cache_argument(model)): cache}


def _select(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A cache of `rows` [P] of another, which stays as it is (layers replace their tensors, never write)."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


def _encoder_decoder_batch(
    model: nn.Module, prompts: Sequence[Tokens], sets: Sequence[tuple[tuple[int, ...], ...]], budget: int
) -> Floats:
    ids, mask = padded(prompts, device_of(model))
    trees = label_trees(sets)
    # Decoders need no cache here: the dear part that labels share is the encoder's states, computed once a prompt.
    start = cast("int", decoder_start(model))
    states = base_model(model).get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    sums = np.zeros((len(prompts), len(sets[0])))
    # empty stems too: even a one-token label needs the decoder's pass over its start token
    for pairs in _stem_batches(trees, ids.shape[1], budget, empty=True):
        owner = torch.tensor([b for b, _ in pairs], device=mask.device)
        decoder, decoder_mask = padded([(start, *trees[b].stems[s]) for b, s in pairs], mask.device)
        logits = target_logits(
            model,
            decoder_mask.flatten().nonzero().flatten(),
            encoder_outputs=BaseModelOutput(last_hidden_state=states[owner]),
            attention_mask=mask[owner],
            decoder_input_ids=decoder,
        )
        _collect(logits, pairs, sets, trees, sums, first=0)
    return sums


def _stem_batches(
    trees: Sequence[LabelTree], width: int, budget: int, *, empty: bool = False
) -> Iterator[list[tuple[int, int]]]:
    """(row, stem) pairs, longest stems first, in batches that fit the budget together with `width` cached tokens."""
    pairs = [(b, s) for b, tree in enumerate(trees) for s, stem in enumerate(tree.stems) if stem or empty]
    # One token of a stem counts for the cached tokens of its row, at CACHED_TOKENS to one.
    cost = [max(len(trees[b].stems[s]) + 1, -(-width // CACHED_TOKENS)) for b, s in pairs]
    for rows in token_batches(cost, budget):
        yield [pairs[i] for i in rows]


def _collect(
    logits: Tensor,
    pairs: list[tuple[int, int]],
    sets: Sequence[tuple[tuple[int, ...], ...]],
    trees: Sequence[LabelTree],
    sums: Floats,
    *,
    first: int,
) -> None:
    """Add to `sums` the log-probabilities of every label's tokens from number `first` on.

    The logits [N, V] hold, pair after pair, those that predict the tokens `first`, `first` + 1, ... of
    the labels at home in the pair's stem.
    """
    rows: list[int] = []
    tokens: list[int] = []
    cells: list[tuple[int, int]] = []
    offset = 0
    for b, s in pairs:
        for k, label in enumerate(sets[b]):
            if trees[b].home[k] == s and len(label) > first:
                rows += range(offset, offset + len(label) - first)
                tokens += label[first:]
                cells += [(b, k)] * (len(label) - first)
        offset += len(trees[b].stems[s]) + 1 - first
    # a label's tokens share one cell, so the sum needs `add.at`
    at = np.array(cells)
    np.add.at(sums, (at[:, 0], at[:, 1]), read_log_probs(logits, rows, tokens))


def _accepted(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of `inputs` that the model's forward names (BLOOM counts positions itself)."""
    names = inspect.signature(base_model(model).forward).parameters
    return {name: value for name, value in inputs.items() if name in names}
