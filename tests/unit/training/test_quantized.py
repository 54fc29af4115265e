"""QLoRA for real: bitsandbytes' CPU code packs the weights, trains over them and is asked again."""

import pytest
import torch
from peft import PeftModel
from test_families import logits
from test_loop import Lost, Setting, consumed, lose_at, planned, same, weights
from test_seq2seq import finished
from transformers import AutoModelForCausalLM, AutoTokenizer

from ialign_ray.config import LoraSettings, ModelSettings, build_experiment
from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.modeling import load
from ialign_ray.training.prepare import make_encoder
from ialign_ray.training.runs import MODEL
from ialign_ray.workflows.export import export_model
from ialign_ray.workflows.predict import open_model

pytestmark = pytest.mark.slow

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture(params=["nf4", "int8"])
def bits(request):
    return request.param


@pytest.fixture
def setting(bits, experiment_data, tmp_path):
    experiment_data["model"]["quantization"] = bits
    return Setting(experiment_data, tmp_path, "lora")


def test_it_trains_resumes_exports_and_reloads(setting, bits):
    run, model = finished(setting)
    kinds = {type(m) for n, m in model.named_modules() if n.endswith("proj.base_layer")}
    assert kinds == {bitsandbytes.nn.Linear4bit if bits == "nf4" else bitsandbytes.nn.Linear8bitLt}
    assert all("lora_" in name for name in weights(model))
    assert not same(weights(model), weights(setting.model()))
    with pytest.raises(Lost):
        setting.run("broken", lose_at(5))
    resumed, start = setting.run("broken")
    assert start == 3
    assert same(weights(model), weights(resumed))
    assert consumed(setting.folder / "broken") == consumed(run) == planned(setting)

    tokenizer = AutoTokenizer.from_pretrained(run / MODEL)
    expected = logits(model, tokenizer)
    torch.testing.assert_close(logits(open_model(run, None)[0], tokenizer), expected)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(setting.experiment.model.id), run / MODEL)
    over_whole = logits(whole.eval(), tokenizer)
    assert not torch.equal(over_whole, expected)  # something was rounded
    torch.testing.assert_close(over_whole, expected, atol=0.3, rtol=0.3)
    merged = AutoModelForCausalLM.from_pretrained(export_model(run, None, merged=True)).eval()
    assert not getattr(merged, "is_quantized", False)
    torch.testing.assert_close(logits(merged, tokenizer), over_whole, atol=1e-4, rtol=1e-4)


def test_an_evaluation_leaves_the_gradients_as_they_were(setting, monkeypatch):
    """bitsandbytes would repack 4-bit weights on a CPU with AVX512-BF16, as every one seems here."""
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    model = setting.model().eval()
    packed = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert not any(m.support_avx512bf16_for_cpu for m in packed)

    def gradients():
        model.zero_grad()
        model.train()
        torch.manual_seed(0)
        model(input_ids=torch.arange(3, 12)[None]).logits.logsumexp(-1).sum().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=torch.arange(3, 12)[None])
    after = gradients()
    assert any(g.any() for g in before.values())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_ranks_are_those_of_the_layers_not_of_their_packing(setting):
    settings = setting.experiment.model
    base = load.load_base(settings)
    whole = load.load_base(settings.model_copy(update={"quantization": None}))
    assert load.lora_targets(base, LoraSettings()) == load.lora_targets(whole, LoraSettings())
    with pytest.raises(ModelError, match="at most 32"):
        load.add_adapter(base, LoraSettings(rank=33), 0)


def test_quantized_weights_are_neither_trained_nor_cut(experiment_data, bits):
    for section, change, words in (
        ("model", {"tuning": "full"}, "quantised weights cannot be trained; set model.tuning to lora"),
        ("scaling", {"strategy": "fsdp"}, "cannot be sharded over workers; set strategy to ddp"),
    ):
        data = {**experiment_data, "model": experiment_data["model"] | {"quantization": bits}}
        data[section] = data.get(section, {}) | change
        with pytest.raises(ConfigError, match=words):
            build_experiment(data, "x")


def test_a_missing_package_is_told_before_anything_is_loaded(experiment_data, bits, monkeypatch):
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    experiment_data["model"]["quantization"] = bits
    experiment = build_experiment(experiment_data, "x")
    for ask in (lambda: make_encoder(experiment), lambda: load.load_base(experiment.model)):
        with pytest.raises(
            ModelError, match=rf"model\.quantization {bits} needs bitsandbytes; install it with"
        ) as told:
            ask()
        assert "\n" not in str(told.value)
    assert load.load_base(ModelSettings(id=experiment.model.id))
