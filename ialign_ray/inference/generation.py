"""Text generation in length-sorted batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.inference.batching import (
    Tokens,
    check_prompts,
    device_of,
    padded,
    read_only,
    takes_left_padding,
    token_batches,
)
from ialign_ray.modeling.architecture import FORCED, decoder_start
from ialign_ray.modeling.head import base_model


class TextDecoder(Protocol):
    """Interface of a tokenizer that generation uses."""

    eos_token_id: int | None
    pad_token_id: int | None

    def decode(self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Return the text of `ids`."""


@dataclass(frozen=True)
class Generation:
    """The answer generated after one prompt."""

    text: str
    tokens: int
    """Number of generated tokens, without the end-of-sequence token."""
    ended: bool
    """True if an end-of-sequence token ended it; False if it was cut at the limit."""


def generate(
    model: nn.Module,
    tokenizer: TextDecoder,
    prompts_ids: Sequence[Tokens],
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | None = None,
    ends: Collection[int] = (),
    max_batch_tokens: int = 8192,
    progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """The model's answer to each prompt, without the prompt, in the order of `prompts_ids`.

    Greedy by default, and then the same text whatever the batch size (fp32). Sampling depends on the seed,
    the prompts and `max_batch_tokens`; with a seed, torch's global random state is unchanged. Of the folder's
    generation_config only the ends of an answer are used, and the forced first and last token of an encoder-decoder,
    as in serving; `modeling.load.set_aside` names the others.

    Args:
        model: any causal or encoder-decoder model of transformers, wrapped by peft or not.
        tokenizer: decodes the answer; its end-of-sequence token ends one, as do the model's own.
        prompts_ids: token ids, n rows.
        max_new_tokens: the longest answer, in tokens.
        temperature: 0 is greedy; above 0 samples.
        top_p: the nucleus to sample from (Holtzman et al. 2020, arXiv 1904.09751); unused when greedy.
        seed: of the sampling; None draws from torch's global state.
        ends: further tokens that end an answer, such as that of a chat template's turn.
        max_batch_tokens: rows x (longest prompt + max_new_tokens) of a batch.
        progress: called with the number of prompts finished so far.

    Raises:
        ConfigError: max_new_tokens below 1, a temperature below 0 or a top_p outside (0, 1].
        DataError: an empty prompt.
        ModelError: prompt and answer do not fit the model's maximum positions, or the model computes NaN.
    """
    if max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ConfigError(
            f"max_new_tokens {max_new_tokens}, temperature {temperature}, top_p {top_p}: "
            "they must be at least 1, at least 0, and within (0, 1]."
        )
    check_prompts(model, prompts_ids, [max_new_tokens] * len(prompts_ids))
    inner, device, start = base_model(model), device_of(model), decoder_start(model)
    seq2seq = start is not None
    config = _config(
        inner, tokenizer, {*end_tokens(inner, tokenizer), *ends}, start, max_new_tokens, temperature, top_p
    )
    # If padding on the left would shift positions, rows of equal length share a batch without padding.
    alone = not seq2seq and not takes_left_padding(model)
    # keys and values of the answer are kept with those of the prompt, so the budget counts both
    lengths = [len(prompt) + max_new_tokens for prompt in prompts_ids]
    found = [Generation("", 0, False)] * len(prompts_ids)
    done = 0
    with _seeded(seed, device), read_only(model), _only(inner, config):
        for rows in token_batches(lengths, max_batch_tokens, same_length=alone):
            ids, mask = padded([prompts_ids[i] for i in rows], device, left=not seq2seq, fill=config.pad_token_id or 0)
            out = inner.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=[_check_finite]
            )
            # `generate` returns the prompt with the answer, or a decoder's start token
            new = out[:, 1 if seq2seq else ids.shape[1] :].tolist()
            for i, answer in zip(rows, new):
                kept = _until(answer, config.eos_token_id)
                # cleaning up would remove the space before a question mark, which French writes
                text = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                # the end token is cut off, so an answer that ended is shorter than the limit
                found[i] = Generation(text, len(kept), len(kept) < max_new_tokens)
            done += len(rows)
            if progress:
                progress(done)
    return found


def end_tokens(inner: Any, tokenizer: TextDecoder) -> set[int]:
    """Ids that end an answer: the end-of-sequence tokens of the model's folder and the tokenizer's."""
    own = inner.generation_config.eos_token_id
    every = {*(own if isinstance(own, list | tuple) else [own]), tokenizer.eos_token_id}
    return {int(token) for token in every if token is not None}


def _config(
    inner: Any,
    tokenizer: TextDecoder,
    ends: set[int],
    start: int | None,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> Any:
    own = inner.generation_config
    forced = {} if start is None else {name: getattr(own, name) for name in FORCED}
    pads = (tokenizer.pad_token_id, own.pad_token_id, *sorted(ends), 0)
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        # Unset values would come from the model's folder.
        temperature=temperature or 1.0,
        top_p=top_p if temperature else 1.0,
        top_k=0 if temperature else 50,
        num_beams=1,
        min_length=0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=sorted(ends) or None,
        pad_token_id=next(pad for pad in pads if pad is not None),
        decoder_start_token_id=start,
        **forced,
    )


def _check_finite(_: Tensor, scores: Tensor) -> Tensor:
    """Refuse NaN logits, whose argmax would look like any other answer."""
    if not scores.amax(-1).isfinite().all():  # a masked token may have -inf
        raise ModelError("the model computes NaN or infinity; its training diverged, so use an earlier checkpoint")
    return scores


def _until(ids: list[int], ends: list[int] | None) -> list[int]:
    """`ids` up to the first end-of-sequence token."""
    return ids[: next((i for i, token in enumerate(ids) if token in (ends or ())), len(ids))]


@contextmanager
def _only(inner: Any, config: GenerationConfig) -> Iterator[None]:
    """Keep `generate` from filling what the config leaves unset from the model's folder."""
    own, inner.generation_config = inner.generation_config, config
    try:
        yield
    finally:
        inner.generation_config = own


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch in the body and restore its global random state afterwards; do nothing if the seed is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
