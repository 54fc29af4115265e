"""The formula against torch's own count of every matrix product."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BartConfig, GPT2Config, LlamaConfig, T5Config

from ialign_ray.config.model import LoraSettings
from ialign_ray.modeling.architecture import decoder_start
from ialign_ray.modeling.head import target_logits
from ialign_ray.modeling.load import add_adapter
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training import flops
from ialign_ray.training.collate import collate
from ialign_ray.training.flops import PEAKS, peak_memory, peak_of, training_cost

CPU = torch.device("cpu")
IDS = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
CONFIGS = {
    "llama": LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=12, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_layer=12, n_head=4),
    "t5": T5Config(
        vocab_size=300, d_model=64, d_kv=24, d_ff=128, num_layers=8, num_decoder_layers=12, num_heads=4, **IDS,
    ),
    "bart": BartConfig(
        vocab_size=300, d_model=64, encoder_layers=12, decoder_layers=8, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, bos_token_id=0, **IDS,
    ),
}  # fmt: skip


def made(name, tuning):
    config = CONFIGS[name]
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager")  # whose products are all counted on a CPU
    if tuning == "lora":
        return add_adapter(model, LoraSettings(rank=4), 0)
    return model


def example(prompt, target):
    return Encoded("a", 0, "s", "mt", "t", list(range(2, prompt + 2)), list(range(2, target + 2)))


def counted(model, e):
    inputs, positions, _ = collate([e], 0, CPU, decoder_start(model))
    with FlopCounterMode(display=False) as counter:
        target_logits(model, positions, **inputs).sum().backward()
    return counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(60, 20), (20, 60), (5, 200)])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_formula_is_what_torch_counts(name, tuning, sides):
    model, e = made(name, tuning), example(*sides)
    # the first layer's input needs no gradient where nothing below it is trained: 1.3 % of these at most
    assert training_cost(model).of(e) == pytest.approx(counted(model, e), rel=0.02)


def test_an_adapter_costs_a_third_less_than_all_weights():
    full, lora = (training_cost(made("llama", tuning)).prompt for tuning in ("full", "lora"))
    assert 0.66 < lora / full < 0.8


def test_an_unknown_device_is_measured_and_says_so():
    peak = peak_of(CPU, bf16=False)
    assert peak.source == "measured matmul peak"
    assert 1e8 < peak.flops < 1e14


@pytest.fixture
def peak_named(monkeypatch):
    """The peak of a GPU of some name."""
    monkeypatch.setattr(flops, "_measured", lambda device, dtype: 1.0)

    def peak(name):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return peak_of.__wrapped__(torch.device("cuda"), bf16=True)

    return peak


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
    ],
)
def test_a_known_gpu_has_its_data_sheets_peak(peak_named, name, known):
    peak = peak_named(name)
    assert (peak.flops, peak.source, peak.device) == (PEAKS[known], "data sheet", name)


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA RTX A1000", "NVIDIA GH200 480GB"])
def test_a_gpu_whose_name_only_begins_like_a_known_one_is_measured(peak_named, name):
    """An L40 is no L4."""
    assert peak_named(name).source == "measured matmul peak"


def test_memory_is_of_this_process():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("no /proc")
    [line] = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
    assert peak_memory(CPU) == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)
