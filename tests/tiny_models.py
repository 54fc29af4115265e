"""Random causal models of a few thousand parameters, by family."""

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen2Config,
)

COMMON = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "eos_token_id": 1,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
CAUSAL = {
    "llama": LlamaConfig(**COMMON),
    "neox": GPTNeoXConfig(**COMMON),
    "qwen2": Qwen2Config(**COMMON, num_key_value_heads=2),
    "gemma2": Gemma2Config(**COMMON, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
    "bloom": BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, pad_token_id=0),
    "gpt2": GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, pad_token_id=0),
}


def seeded(config, **settings):
    """A model of seed 0. Of a copy: transformers writes the attention kernel into the configuration it is given,
    and the next model of that configuration, in whatever test, would be made with it."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), **settings)
