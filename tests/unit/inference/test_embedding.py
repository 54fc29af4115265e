"""Mean hidden states against a plain forward pass a text at a time, padding and batches left out of them."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, BloomForCausalLM, T5Config, T5ForConditionalGeneration

from ialign_ray.errors import ConfigError, DataError, ModelError
from ialign_ray.inference.embedding import embed, layer_number

TEXTS = [[5, 6, 7, 8, 9], [11], [5, 6, 7], [20, 21, 22, 23, 24, 25, 26, 27], [7, 6, 5]]


def llama(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def bloom(folder):
    torch.manual_seed(0)
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=3, n_head=2)
    return BloomForCausalLM(config).eval()


def t5(folder):
    torch.manual_seed(0)
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("make", [llama, bloom, t5])
@pytest.mark.parametrize("layer", ["middle", "last", 0])
def test_the_mean_of_a_text_alone_whatever_the_batch(tiny_model_folder, make, layer):
    model = make(tiny_model_folder)
    body = model.get_encoder() if make is t5 else model.base_model
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            states = body(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
        chosen = {"middle": len(states) // 2, "last": len(states) - 1, 0: 0}[layer]
        expected.append(states[chosen][0].mean(0).numpy())
    for budget in (1, 12, 4096):
        found = embed(model, TEXTS, layer=layer, max_batch_tokens=budget)
        np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    assert not np.allclose(expected[2], expected[4], atol=1e-3) or layer == 0  # order counts, but in the embeddings


def test_an_adapter_counts(tiny_model_folder):
    from peft import LoraConfig, get_peft_model

    plain = embed(llama(tiny_model_folder), TEXTS)
    adapted = get_peft_model(
        llama(tiny_model_folder), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    assert not np.allclose(embed(adapted, TEXTS), plain, atol=1e-3)


def test_layers_and_their_names():
    assert [layer_number(x, 30) for x in ("middle", "last", 0, 7, 30, -1)] == [15, 30, 0, 7, 30, 30]
    assert layer_number("middle", 2) == 1
    with pytest.raises(ConfigError, match="layer is 31, but the model has 30"):
        layer_number(31, 30)


def test_refusals_and_nothing_at_all(tiny_model_folder):
    model = llama(tiny_model_folder)
    assert embed(model, []).shape[0] == 0
    with pytest.raises(DataError, match="no tokens"):
        embed(model, [[1], []])
    with pytest.raises(ModelError, match="has 512"):
        embed(model, [[1] * 513])
