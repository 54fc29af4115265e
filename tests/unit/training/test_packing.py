"""Examples that share a row: the loss and gradients of each by itself, for every family and kernel that takes them."""

import pytest
import torch
import transformers
from tiny_models import CAUSAL, COMMON, seeded
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5Config

from ialign_ray.config import ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.modeling.attention import PACKABLE, attention_kernel, is_packable, reads_lengths
from ialign_ray.tokens.batch import Batching, Encoded
from ialign_ray.training.collate import collate_packed, lay_out
from ialign_ray.training.loss import target_nats
from ialign_ray.training.objective import PassLayout
from ialign_ray.training.step import train_step

GROUPED = COMMON | {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "cohere": transformers.CohereConfig(**COMMON),
    "gemma": transformers.GemmaConfig(**GROUPED),
    "gemma2": transformers.Gemma2Config(**GROUPED, final_logit_softcapping=3.0, sliding_window=5),
    "gemma3_text": transformers.Gemma3TextConfig(**GROUPED, sliding_window=5),
    "gpt2": CAUSAL["gpt2"],
    "gpt_neox": CAUSAL["neox"],
    "granite": transformers.GraniteConfig(**COMMON),
    "llama": CAUSAL["llama"],
    "mistral": transformers.MistralConfig(**COMMON, num_key_value_heads=2, sliding_window=5),
    "olmo2": transformers.Olmo2Config(**COMMON),
    "phi3": transformers.Phi3Config(**COMMON),
    "qwen2": CAUSAL["qwen2"],
    "qwen3": transformers.Qwen3Config(**GROUPED),
    "smollm3": transformers.SmolLM3Config(**COMMON, num_key_value_heads=2),
}


def examples():
    draw = torch.Generator().manual_seed(2)
    sizes = [(7, 5), (4, 3), (9, 2), (3, 4), (1, 1), (6, 6)]
    ids = [[torch.randint(2, 61, (n,), generator=draw).tolist() for n in size] for size in sizes]
    return [Encoded(f"r{k}", 0, "mt/jav", "mt", "t", *both) for k, both in enumerate(ids)]


def model_of(family, kernel="sdpa"):
    return seeded(FAMILIES[family], attn_implementation=kernel).double().eval()


def result(model, passes):
    model.zero_grad()
    nats = {}
    for part in passes:
        total, each = target_nats(model, part.positions, part.labels, **part.inputs)
        if total.requires_grad:
            total.backward()
        own = torch.split(each, [len(e.target) for e in part.examples])
        nats |= {e.row_id: n for e, n in zip(part.examples, own, strict=True)}
    return nats, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_packed_equals_apart(model, atol=1e-6):
    whole, packed = examples(), Batching(packed=True, width=16)
    apart = [one for e in whole for one in lay_out([e], Batching(), 4096, 0)]
    nats, gradients = result(model, apart)
    for passes in (lay_out(whole, packed, 4096, 0), lay_out(whole, packed, 32, 0)):
        assert any(len(p.examples) > len(p.inputs["input_ids"]) for p in passes)
        got, found = result(model, passes)
        assert got.keys() == nats.keys()
        for name in nats:
            torch.testing.assert_close(got[name], nats[name], atol=1e-6, rtol=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, atol=atol, rtol=1e-5)


def test_every_declared_family_is_tested():
    assert set(FAMILIES) == PACKABLE


KERNELS = [(f, k) for f in FAMILIES for k in ("sdpa", "eager") if (f, k) != ("gemma2", "sdpa")]
"""Gemma 2 caps its attention scores, which SDPA cannot."""


@pytest.mark.parametrize(("family", "kernel"), KERNELS)
def test_packed_equals_apart(family, kernel):
    model = model_of(family, kernel)
    assert is_packable(model)
    assert not reads_lengths(model)
    # eager attention takes its softmax in fp32, whatever the model is in
    assert_packed_equals_apart(model, atol=1e-6 if kernel == "sdpa" else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_flex_attention_keeps_examples_apart(family, monkeypatch):
    """Uncompiled, and the loss alone: it has no gradients on a CPU."""
    from transformers.integrations import flex_attention as integration

    monkeypatch.setattr(integration.WrappedFlexAttention, "__call__", lambda self: flex_attention)
    with torch.no_grad():
        assert_packed_equals_apart(model_of(family, "flex_attention"))


def test_a_model_that_ignores_restarting_positions_would_be_caught():
    """BLOOM takes no positions: its packed examples see each other, which is why it is not declared."""
    bloom = seeded(CAUSAL["bloom"]).double().eval()
    assert not is_packable(bloom)
    [part] = lay_out(examples(), Batching(packed=True, width=64), 4096, 0)
    part.inputs.pop("position_ids")
    apart, _ = result(bloom, [one for e in examples() for one in lay_out([e], Batching(), 4096, 0)])
    packed, _ = result(bloom, [part])
    assert any((packed[name] - apart[name]).abs().max() > 1e-3 for name in apart)


def test_an_encoder_decoder_and_an_unknown_architecture_are_not_packed():
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    assert not is_packable(AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=61, **shape)))
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 61}
    assert not is_packable(AutoModelForCausalLM.from_config(transformers.MambaConfig(**small, state_size=4)))


def test_a_step_is_the_same_packed_or_bucketed():
    from test_loop import CPU, Kept

    model, whole = model_of("llama"), examples()
    stats, gradients = [], []
    for batching in (Batching(), Batching(packed=True, width=24), Batching(pass_tokens=0)):
        kept, passes = Kept(model), lay_out(whole, batching, 64, 0)
        stats.append(train_step(model, kept, whole, step=0, seed=0, layout=PassLayout.of(model, 64, 0), clip_norm=1e9,
                                device=CPU, passes=passes))  # fmt: skip
        gradients.append(kept.gradients)
    for other, found in zip(stats[1:], gradients[1:], strict=True):
        assert other.loss == pytest.approx(stats[0].loss, abs=1e-9)
        assert other.sources["mt/jav"][0] == pytest.approx(stats[0].sources["mt/jav"][0])
        for a, b in zip(found, gradients[0], strict=True):
            torch.testing.assert_close(a, b)


def test_packed_inputs_restart_and_point_before_each_target():
    whole = examples()
    part = collate_packed([whole[:2], whole[2:5]], pad=0)
    assert part.inputs["input_ids"].shape == (2, 20)
    assert part.inputs["position_ids"][0].tolist() == [*range(12), *range(7), 0]
    assert part.inputs["position_ids"][1].tolist() == [*range(11), *range(7), 0, 1]
    flat = part.inputs["input_ids"].flatten()
    assert flat[part.positions + 1].tolist() == part.labels.tolist()
    assert part.labels.tolist() == [t for e in whole[:5] for t in e.target]
    assert part.padded == 40


def test_a_kernel_that_reads_lengths_gets_one_row_and_where_each_example_begins():
    whole = examples()
    [part] = lay_out(whole, Batching(packed=True, varlen=True), 4096, 0)
    lengths = [len(e) for e in part.examples]
    assert sorted(lengths) == sorted(map(len, whole))
    assert part.inputs["input_ids"].shape == (1, sum(lengths))
    assert part.inputs["cu_seq_lens_q"].dtype == torch.int32
    assert part.inputs["cu_seq_lens_q"].diff().tolist() == lengths
    assert part.inputs["max_length_k"] == max(lengths) == 12
    assert part.inputs["position_ids"].tolist() == [[k for n in lengths for k in range(n)]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_kernels_without_a_gpu():
    def of(**settings):
        return attention_kernel(ModelSettings(id="x", **settings))

    assert of() is None
    assert of(precision="bf16") is None
    assert of(attention="eager") == "eager"
    with pytest.raises(ModelError, match=r"flash-attn and model\.precision: bf16; set model\.attention: auto"):
        of(attention="flash_attention_2", precision="bf16")
    with pytest.raises(ModelError, match="no gradients on a CPU"):
        of(attention="flex_attention")


def test_flash_attention_is_taken_where_it_fits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)
    assert attention_kernel(ModelSettings(id="x", precision="bf16")) == "flash_attention_2"
    assert attention_kernel(ModelSettings(id="x")) is None
    assert attention_kernel(ModelSettings(id="x", attention="flex_attention")) == "flex_attention"
