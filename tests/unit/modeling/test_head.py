import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import CAUSAL, seeded
from torch import nn
from transformers import LlamaModel, T5Config, T5ForConditionalGeneration

from ialign_ray.errors import ModelError
from ialign_ray.modeling.head import selected_positions, target_logits

torch.set_num_threads(1)


def causal(name):
    return seeded(CAUSAL[name]).eval()


def batch():
    ids = torch.randint(2, 61, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}, torch.tensor([2, 5, 9, 17, 26])


@pytest.mark.parametrize("name", CAUSAL)
def test_equals_full_logits_selected(name):
    model, (inputs, index) = causal(name), batch()
    whole = model(**inputs).logits.flatten(0, 1)[index]
    got = target_logits(model, index, **inputs)
    assert got.shape == (5, 61)
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


def test_the_head_sees_only_the_selected_positions():
    model, (inputs, index) = causal("llama"), batch()
    with selected_positions(model, index) as calls:
        assert model(**inputs).logits.shape == (1, 5, 61)
    assert calls.count == 1
    assert model(**inputs).logits.shape == (3, 9, 61)


def test_the_hook_goes_when_the_forward_fails():
    model, (inputs, _) = causal("llama"), batch()
    with pytest.raises(IndexError):
        target_logits(model, torch.tensor([10_000]), **inputs)
    assert not model.lm_head._forward_pre_hooks


def test_encoder_decoder():
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    ).eval()
    inputs, _ = batch()
    decoder, index = torch.tensor([[0, 5, 6, 7], [0, 8, 9, 0], [0, 4, 0, 0]]), torch.tensor([0, 1, 5, 9])
    whole = model(**inputs, decoder_input_ids=decoder).logits.flatten(0, 1)[index]
    got = target_logits(model, index, **inputs, decoder_input_ids=decoder)
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


def gradients(model, logits):
    model.zero_grad()
    nn.functional.cross_entropy(logits, torch.arange(5)).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_gradients_equal_the_full_forward():
    model, (inputs, index) = causal("gemma2").train(), batch()
    whole = gradients(model, model(**inputs).logits.flatten(0, 1)[index])
    got = gradients(model, target_logits(model, index, **inputs))
    assert whole.keys() == got.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(got[name], grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("extra", [{}, {"modules_to_save": ["lm_head"]}])
def test_through_peft(extra):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **extra)
    model, (inputs, index) = get_peft_model(causal("llama"), config).eval(), batch()
    whole = model(**inputs).logits.flatten(0, 1)[index]
    with selected_positions(model, index) as calls:
        got = model(**inputs).logits[0]
    assert calls.count == 1
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


def test_through_a_wrapper_that_has_only_module():
    model, (inputs, index) = causal("llama"), batch()
    whole = model(**inputs).logits.flatten(0, 1)[index]
    torch.testing.assert_close(target_logits(nn.DataParallel(model, device_ids=[]), index, **inputs), whole)


def test_a_head_that_is_not_called_as_a_module():
    model, (inputs, index) = causal("llama"), batch()
    whole = model(**inputs).logits.flatten(0, 1)[index]
    model.get_output_embeddings = lambda: nn.Linear(1, 1)
    torch.testing.assert_close(target_logits(model, index, **inputs), whole)


def test_no_head_and_labels_are_refused():
    with pytest.raises(ModelError, match="no output head"):
        target_logits(LlamaModel(CAUSAL["llama"]), torch.tensor([0]), input_ids=torch.tensor([[1]]))
    with pytest.raises(ModelError, match="no output head"):
        target_logits(nn.Linear(2, 2), torch.tensor([0]), input_ids=torch.tensor([[1]]))
    with pytest.raises(ModelError, match="labels"):
        target_logits(causal("llama"), torch.tensor([0]), labels=torch.tensor([[1]]))
