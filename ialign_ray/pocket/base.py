"""The tokenizer and the shape of the pocket base model: a Llama of a million parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaConfig, PreTrainedTokenizerFast

VOCABULARY = 1500
"""Entries at most: room for each word of the languages that the model reads, as texts of single words learn fastest."""
INITIALIZER_RANGE = 0.088
"""Deviation of the first weights, 1 / sqrt(128): with the usual 0.02 attention is so flat at first that sentiment is
still at chance after 700 steps."""
MAX_LENGTH = 512
"""Positions of the model, in tokens."""

_EOS = "</s>"
_PAD = "<pad>"


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE with `</s>` and `<pad>` and no chat template.

    It encodes any text without unknown tokens; words that are not in `texts` fall into small pieces.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_PAD, _EOS],
        # all 256 bytes, in one order: nothing is unknown, and ids do not depend on the texts' first bytes
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=_EOS,
        pad_token=_PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def base_config(tokenizer: PreTrainedTokenizerFast, initializer_range: float = INITIALIZER_RANGE) -> LlamaConfig:
    """A 4-layer Llama of width 128 with tied embeddings for the tokenizer's vocabulary."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
