"""A packed pass gives the numbers of one text at a time."""

import math

import numpy as np
import pytest
import torch
from tiny_models import CAUSAL, seeded

from ialign_ray.errors import DataError, ModelError
from ialign_ray.inference.embedding import embed
from ialign_ray.inference.scoring import score_continuations
from ialign_ray.modeling.attention import is_packable
from ialign_ray.survey.reading import read_units

TEXTS = [[5, 9, 11], [7], [8, 3, 22, 41, 17, 6, 2], [9, 9, 9, 30], [50, 13]]
START = 1


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2", "bloom"])
@pytest.mark.parametrize("batch_tokens", [4, 4096])
def test_a_row_of_many_texts_reads_each_as_if_alone(family, batch_tokens):
    model = seeded(CAUSAL[family]).eval()
    found = read_units(model, TEXTS, START, batch_tokens=batch_tokens)
    alone = [score_continuations(model, [[START]], [text]).log_prob[0] for text in TEXTS]
    bits, wanted = found.nats / math.log(2), -np.array(alone) / math.log(2)
    assert bits == pytest.approx(wanted, abs=1e-5)
    assert found.vectors.shape == (5, 32)


def test_the_vector_is_the_mean_state_of_the_text_without_the_start():
    model = seeded(CAUSAL["llama"]).eval()
    found = read_units(model, TEXTS, START, layer="last")
    with torch.no_grad():
        states = model(torch.tensor([[START, *TEXTS[2]]]), output_hidden_states=True).hidden_states[-1]
    assert found.vectors[2] == pytest.approx(states[0, 1:].mean(0).numpy(), abs=1e-5)
    assert not np.allclose(found.vectors[2], embed(model, [[START, *TEXTS[2]]], layer="last")[0], atol=1e-3)


def test_both_layouts_are_used():
    assert is_packable(seeded(CAUSAL["llama"]))
    assert not is_packable(seeded(CAUSAL["bloom"]))


def test_a_model_that_cannot_read_a_unit_is_refused():
    model = seeded(CAUSAL["gpt2"]).eval()
    assert len(read_units(model, [[5] * 1023], START).nats) == 1
    with pytest.raises(ModelError, match="--longest"):
        read_units(model, [[5] * 1024], START)
    with pytest.raises(DataError, match="no tokens"):
        read_units(model, [[]], START)
    assert read_units(model, [], START).nats.shape == (0,)


def test_an_encoder_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=61, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    with pytest.raises(ModelError, match="encoder-decoder"):
        read_units(T5ForConditionalGeneration(config), TEXTS, START)
