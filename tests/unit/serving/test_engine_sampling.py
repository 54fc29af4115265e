from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ialign_ray.errors import ConfigError
from ialign_ray.serving.engine import sampling as module
from ialign_ray.serving.engine.sampling import check_sampling, choose, draw, row_generator
from ialign_ray.serving.protocol import Sampling


@dataclass
class Row:
    sampling: Sampling
    held: list = field(default_factory=list)
    forced: int | None = None

    def __post_init__(self):
        self.generator = row_generator(self.sampling)

    def seen(self):
        return self.held

    def must(self):
        return self.forced


def some_logits(rows=1, size=40, seed=0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 3


def transformers_probabilities(logits, sampling):
    steps = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    return steps(None, logits[None])[0].softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("likeliest", [4, 256])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 0.8), (2.0, 5, 1.0), (1.5, 12, 0.7), (1.0, 0, 0.99)]
)
def test_drawn_as_transformers_would(monkeypatch, temperature, top_k, top_p, likeliest):
    """The very tokens, and as often: within five standard errors of 4,000 draws."""
    monkeypatch.setattr(module, "LIKELIEST", likeliest)
    logits, how = some_logits()[0], Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=0)
    expected, generator, n = transformers_probabilities(logits, how), row_generator(how), 4_000
    counts = torch.bincount(torch.tensor([draw(logits, how, generator) for _ in range(n)]), minlength=40) / n
    assert not counts[expected == 0].any()
    error = (expected * (1 - expected) / n).sqrt()
    assert ((counts - expected).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("also", [{}, {"top_k": 5}, {"top_p": 0.9}])
@pytest.mark.parametrize("temperature", [1e-30, 1e-38, 1e-46, 5e-324])
def test_next_to_no_temperature_is_greedy(temperature, also):
    logits, how = some_logits()[0], Sampling(temperature=temperature, seed=0, **also)
    assert draw(logits, how, row_generator(how)) == int(logits.argmax())


@settings(deadline=None)
@given(st.integers(0, 2**64), st.floats(0.1, 5), st.floats(0.01, 1), st.integers(0, 50), st.integers(1, 6))
def test_a_row_does_not_see_its_mates(seed, temperature, top_p, top_k, mates):
    logits = some_logits(mates + 1)
    how = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
    others = [Row(Sampling(temperature=1.0, seed=k) if k % 2 else Sampling()) for k in range(mates)]
    alone = choose(logits[:1], [Row(how)])[0]
    assert choose(logits, [Row(how), *others])[0] == alone


def test_seeds():
    logits = torch.zeros(1, 1000)

    def first(seed):
        return choose(logits, [Row(Sampling(temperature=1, seed=seed))])[0].token

    assert first(1) == first(1) != first(2)
    assert first(None) != first(None)


def test_repetition_penalty_is_transformers():
    logits = some_logits(2)
    row = Row(Sampling(repetition_penalty=1.7), [3, 5, 5, int(logits[0].argmax())])
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([row.held]), logits[:1].clone())
    before = logits.clone()
    found = choose(logits, [row, Row(Sampling())])
    assert found[0].token == int(expected.argmax()) != int(logits[0].argmax())
    assert found[1].token == int(logits[1].argmax())
    assert torch.equal(logits, before)


def test_log_probabilities_are_the_models_own():
    logits = some_logits(2)
    rows = [Row(Sampling(temperature=4, seed=0, top_k=2, top_log_probs=3)), Row(Sampling())]
    asked, plain = choose(logits, rows)
    own = logits[0].log_softmax(-1)
    assert asked.log_prob == pytest.approx(float(own[asked.token]))
    assert [token for token, _ in asked.top] == own.argsort(descending=True)[:3].tolist()
    assert [value for _, value in asked.top] == pytest.approx(own.sort(descending=True).values[:3].tolist())
    assert plain.log_prob is None
    assert plain.top == ()
    assert len(choose(logits, [Row(Sampling(top_log_probs=99)), Row(Sampling())])[0].top) == 40


def test_a_token_without_a_choice():
    assert choose(some_logits(), [Row(Sampling(), forced=7)])[0].token == 7


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
        {"top_log_probs": -1},
    ],
)
def test_settings_out_of_range(bad):
    check_sampling(Sampling())
    with pytest.raises(ConfigError, match=next(iter(bad))):
        check_sampling(Sampling(**bad))
