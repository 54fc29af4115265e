"""What is chosen for a model on a machine, and that it is chosen once."""

import pytest
import torch
from tiny_models import CAUSAL, seeded

from ialign_ray.config import TrainConfig
from ialign_ray.storage import read_json
from ialign_ray.tokens.batch import BUCKETED, Encoded
from ialign_ray.training import batch_size
from ialign_ray.training.batch_size import choose_batching, measure, pass_tokens

CPU = torch.device("cpu")


def sample():
    return [Encoded(f"r{k}", 0, "mt/jav", "mt", "t", [5] * (k % 7 + 1), [6, 1]) for k in range(12)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IALIGN_CACHE", str(tmp_path / "cache"))


def model_of(name="llama"):
    return seeded(CAUSAL[name])


def chosen(run, model=None, sampled=sample, **settings):
    settings = TrainConfig(**settings)
    return choose_batching(model or model_of(), settings, sampled, run, pad=0, device=CPU)


def times(monkeypatch, packed, bucketed):
    """Seconds by what a pass reads; 16 tokens cost 2 s and 512 tokens 10 s."""

    def timed(model, passes, device):
        examples = passes[0].examples
        if examples[0].source == "":
            return 2.0 if len(examples) == 1 else 10.0
        return packed if "position_ids" in passes[0].inputs else bucketed

    monkeypatch.setattr(batch_size, "_timed", timed)


@pytest.mark.parametrize(
    ("name", "wanted", "packed", "expected"),
    [
        ("llama", "auto", 9.0, True),
        ("llama", "auto", 9.9, False),  # within the noise
        ("llama", "auto", 11.0, False),
        ("llama", "packed", 11.0, True),
        ("llama", "bucketed", 1.0, False),
        ("bloom", "auto", 1.0, False),
        ("bloom", "packed", 1.0, False),
    ],
)
def test_the_faster_way_that_the_model_takes(tmp_path, monkeypatch, name, wanted, packed, expected):
    times(monkeypatch, packed, bucketed=10.0)
    got = measure(model_of(name), TrainConfig(batching=wanted), sample(), 0, CPU)
    assert got.packed is expected
    assert got.pass_tokens == 128  # 1.74 s by itself, 0.016 s a token


def test_a_choice_holds_for_the_run_and_for_others_like_it(tmp_path, monkeypatch):
    first, second = tmp_path / "x" / "first", tmp_path / "x" / "second"
    times(monkeypatch, packed=1.0, bucketed=10.0)
    before = chosen(first)
    assert before.packed
    assert read_json(first / "batching.json") == vars(before)
    times(monkeypatch, packed=10.0, bucketed=1.0)
    assert chosen(first) == before
    assert chosen(second) == before
    assert chosen(tmp_path / "elsewhere" / "y" / "run") == before
    [shared] = (tmp_path / "cache" / "batching").iterdir()
    shared.unlink()
    assert chosen(second) == before  # the run's own record is enough
    shared.unlink()
    assert not chosen(tmp_path / "x" / "third").packed
    assert chosen(tmp_path / "x" / "third", batching="packed").packed is False  # nor does a run change its mind


def test_other_settings_are_measured_by_themselves(tmp_path, monkeypatch):
    times(monkeypatch, packed=1.0, bucketed=10.0)
    chosen(tmp_path / "x" / "a")
    times(monkeypatch, packed=10.0, bucketed=1.0)
    assert not chosen(tmp_path / "x" / "b", batch_size=7).packed
    assert not chosen(tmp_path / "x" / "c", model=model_of("qwen2")).packed
    assert not chosen(tmp_path / "x" / "e", gradient_checkpointing=True).packed
    with torch.autocast("cpu", torch.bfloat16):
        assert not chosen(tmp_path / "x" / "f").packed
    assert chosen(tmp_path / "x" / "d", learning_rate=0.5).packed  # decides no speed
    assert len(list((tmp_path / "cache" / "batching").iterdir())) == 5


def test_measuring_leaves_no_trace(tmp_path):
    model = model_of().eval()
    weights = {n: p.clone() for n, p in model.named_parameters()}
    got = chosen(tmp_path / "x" / "run", model)
    assert got.width == BUCKETED.width
    assert not model.training
    assert all(torch.equal(p, weights[n]) and p.grad is None for n, p in model.named_parameters())


def test_the_fixed_part_of_a_pass():
    assert pass_tokens(0.0, 496.0) == 8  # none
    assert pass_tokens(16 + 64.0, 512 + 64.0) == 128
    assert pass_tokens(16 + 60.0, 512 + 60.0) == 64
    assert pass_tokens(1.0, 1.0) == 4096  # all of it
    assert pass_tokens(2.0, 1.0) == 4096
