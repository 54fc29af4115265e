"""What the benchmarks have in common: a model, examples of given lengths, ways that take turns, a JSON file."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from ialign_ray.tokens.batch import Encoded

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "bench"
PAD, EOS = 0, 1


def random_model(vocabulary: int = 4_096, width: int = 128, layers: int = 4) -> torch.nn.Module:
    """A Llama of 1.4 M parameters with tied embeddings, the same at every call."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    return AutoModelForCausalLM.from_config(config)


def any_tokenizer(vocabulary: int = 4_096) -> Any:
    """TRL and lm-eval ask for one, though the examples are tokens already."""
    words = {"<pad>": 0, "</s>": 1} | {f"w{k}": k for k in range(2, vocabulary)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="</s>")), eos_token="</s>", pad_token="<pad>"
    )


KINDS = {
    # mean tokens, shape of the gamma distribution, share of the prompt
    "bare sentences": (48, 2.0, 0.5),
    "instructions": (99, 60.0, 0.7),
}
"""Lengths whose batches of 32, padded to the longest, are useful to about .38 and .77, as in a first experiment."""


def examples_of(kind: str, count: int, vocabulary: int = 4_096, seed: int = 0) -> list[Encoded]:
    """Random tokens in rows of a kind's lengths; the target ends with EOS."""
    mean, shape, prompt = KINDS[kind]
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.gamma(shape, mean / shape, count), 6, 256).round().astype(int)
    made = []
    for k, n in enumerate(lengths.tolist()):
        first = min(n - 2, max(2, round(n * prompt)))
        ids = draw.integers(2, vocabulary, n - 1).tolist()
        made.append(Encoded(f"r{k}", 0, "mt/jav", "mt", "t", ids[:first], [*ids[first:], EOS]))
    return made


def rounds(ways: Mapping[str, Callable[[], float]], count: int) -> dict[str, list[float]]:
    """Seconds of each way, `count` times after one that does not count.

    They take turns, so that load on the machine falls on all alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count + 1):
        for name, way in ways.items():
            seconds[name].append(way())
    return {name: times[1:] for name, times in seconds.items()}


def ratio_to(seconds: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """How many times as fast as `base`: the median of the ratios within each round."""
    return {
        name: round(statistics.median(b / own for b, own in zip(seconds[base], times, strict=True)), 2)
        for name, times in seconds.items()
    }


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def keep(name: str, result: Mapping[str, Any]) -> None:
    """Write a benchmark's numbers, with what they were measured on, to docs/results/bench and the terminal."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine() + " CPU"
    on = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    text = json.dumps({"on": on, **result}, indent=2) + "\n"
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
