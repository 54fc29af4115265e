"""The loss in parts against the plain one, in float64."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_head import batch, causal
from tiny_models import CAUSAL, COMMON, seeded
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, CohereConfig, GraniteConfig, LlamaConfig, T5Config

from ialign_ray.modeling.head import output_head
from ialign_ray.training import loss
from ialign_ray.training.loss import logits_finish, target_nats

MODELS = CAUSAL | {
    "cohere": CohereConfig(**COMMON, logit_scale=0.3),
    "granite": GraniteConfig(**COMMON, logits_scaling=7.0),
    "untied": LlamaConfig(**COMMON, tie_word_embeddings=False),
    "tied": LlamaConfig(**COMMON, tie_word_embeddings=True),
}


def made(name):
    return seeded(MODELS[name]).double()


def with_bias():
    model = made("untied")
    model.lm_head = nn.Linear(32, 61, bias=True).double()
    return model


def adapted(**extra):
    settings = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    config = LoraConfig(**settings | extra)
    return get_peft_model(causal("llama"), config).double()


OTHERS = {
    "bias": with_bias,
    "lora": adapted,
    "lora on the head": lambda: adapted(target_modules=["q_proj", "lm_head"]),
    "a trained copy of the head": lambda: adapted(modules_to_save=["lm_head"]),
    "new pieces": lambda: adapted(trainable_token_indices={"embed_tokens": [5, 9], "lm_head": [5, 9]}),
}
LABELS = torch.tensor([3, 5, 8, 13, 21])


def gradients(model, total):
    model.zero_grad()
    (total / 7).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_equal(model, inputs, index):
    logits = model(**inputs).logits.flatten(0, 1)[index]
    nats = nn.functional.cross_entropy(logits, LABELS, reduction="none")
    expected = gradients(model, nats.sum())
    total, own = target_nats(model, index, LABELS, **inputs)
    got = gradients(model, total)
    torch.testing.assert_close(own.double(), nats.detach(), atol=1e-6, rtol=1e-6)
    assert total.item() == pytest.approx(nats.sum().item(), rel=1e-6)
    assert not own.requires_grad
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("part", [1, 130, 10**9])
@pytest.mark.parametrize("name", [*MODELS, *OTHERS])
def test_loss_and_gradients_are_those_of_whole_logits(name, part, monkeypatch):
    """One, two and all positions at a time; after the head a soft cap, a scale, a bias; tied, adapted, extended."""
    monkeypatch.setattr(loss, "PART", part)
    model = (OTHERS[name] if name in OTHERS else lambda: made(name))().eval()
    assert_equal(model, *batch())
    assert logits_finish(model) is not None


def test_encoder_decoders(monkeypatch):
    monkeypatch.setattr(loss, "PART", 130)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    model = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=61, dropout_rate=0.0, **shape)).double()
    inputs, _ = batch()
    decoder = torch.tensor([[0, 5, 6, 7], [0, 8, 9, 0], [0, 4, 0, 0]])
    assert_equal(model, inputs | {"decoder_input_ids": decoder}, torch.tensor([0, 1, 5, 9, 10]))
    assert logits_finish(model) is not None


def test_an_unknown_way_from_head_to_logits_takes_the_logits_at_once():
    class Squared(type(made("untied"))):
        def forward(self, **inputs):
            out = super().forward(**inputs)
            out.logits = out.logits**2
            return out

    torch.manual_seed(0)
    model = Squared(MODELS["untied"]).double()
    assert logits_finish(model) is None
    assert_equal(model, *batch())


def test_the_trial_leaves_no_trace():
    model = made("gemma2").train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert logits_finish(model) is not None
    assert torch.equal(torch.get_rng_state(), before)
    assert "forward" not in vars(output_head(model))
    assert all(p.grad is None for p in model.parameters())


def test_a_cap_that_does_not_bite_yet_is_found():
    """Small logits pass a soft cap unchanged but for rounding; after some training they would not."""
    model = made("gemma2").float()
    with torch.no_grad():
        output_head(model).weight.mul_(1e-6)
    assert logits_finish(model)(torch.tensor([1000.0])).item() == pytest.approx(3.0)


def test_the_heads_own_forward_comes_back_after_an_error():
    model, (inputs, _) = made("untied"), batch()
    with pytest.raises(IndexError):
        target_nats(model, torch.tensor([10_000]), torch.tensor([1]), **inputs)
    assert "forward" not in vars(model.lm_head)


def test_a_vocabulary_is_never_whole():
    """Largest tensor that head and loss allocate: a part, not positions x vocabulary."""
    config = LlamaConfig(**COMMON | {"vocab_size": 20_000})
    model = AutoModelForCausalLM.from_config(config)
    ids = torch.arange(2, 302)[None].repeat(4, 1)
    index, labels = torch.arange(1100), torch.arange(1100)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            out = function(*arguments, **(keywords or {}))
            sizes.append(max((t.numel() for t in (out if isinstance(out, tuple) else [out]) if torch.is_tensor(t)),
                             default=0))  # fmt: skip
            return out

    with Watch():
        total, _ = target_nats(model, index, labels, input_ids=ids)
        total.backward()
    assert max(sizes) <= loss.PART < 1100 * 20_000
