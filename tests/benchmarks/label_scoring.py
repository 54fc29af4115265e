"""Time five ways to score labels, in one process and on one model: python label_scoring.py [--model FOLDER].

`reference` is a full forward pass per prompt and label; `head` computes logits at the label's positions
only; `prefix` runs each prompt once for all labels; `sorted` also sorts prompts by length. The three
unsorted ways read the prompts in the order given, under the same token budget. `lm-eval` is the log-likelihood
of lm-evaluation-harness on the same tokens, which sorts by length and shares a prompt among labels of one token;
its batches have as many rows as the budget holds of the mean length. Ways take turns, and the median of the
ratios within each round counts, so that load on the machine falls on all alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from measuring import any_tokenizer, keep, ratio_to, timed
from measuring import rounds as in_turns
from transformers import AutoModelForCausalLM, LlamaConfig

from ialign_ray.inference.batching import padded, read_only
from ialign_ray.inference.scoring import score_labels
from ialign_ray.modeling.head import target_logits

Rows = list[list[int]]


def consecutive(prompts: Rows, budget: int) -> Iterator[slice]:
    """Batches in the given order, as long as rows x longest fits the budget."""
    start = 0
    for end in range(1, len(prompts) + 1):
        longest = max(map(len, prompts[start : end + 1]))
        if end == len(prompts) or (end + 1 - start) * longest > budget:
            yield slice(start, end)
            start = end


def per_label(model: torch.nn.Module, prompts: Rows, labels: Rows, budget: int, head: bool) -> np.ndarray:
    out = np.zeros((len(prompts), len(labels)))
    with read_only(model):
        for part in consecutive(prompts, budget):
            for k, label in enumerate(labels):
                out[part, k] = one_label(model, prompts[part], label, head)
    return out


def one_label(model: torch.nn.Module, prompts: Rows, label: list[int], head: bool) -> np.ndarray:
    ids, mask = padded([[*prompt, *label[:-1]] for prompt in prompts], torch.device("cpu"))
    width = ids.shape[1]
    index = torch.tensor([b * width + len(p) - 1 + j for b, p in enumerate(prompts) for j in range(len(label))])
    if head:
        logits = target_logits(model, index, input_ids=ids, attention_mask=mask)
        log_probs = logits.log_softmax(-1)
    else:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        log_probs = logits.log_softmax(-1).flatten(0, 1)[index]
    targets = torch.tensor(label * len(prompts))
    return log_probs[torch.arange(len(targets)), targets].view(len(prompts), -1).sum(1).numpy()


def ways(model: torch.nn.Module, prompts: Rows, labels: Rows, budget: int) -> dict[str, Callable[[], np.ndarray]]:
    def prefix() -> np.ndarray:
        parts = [
            score_labels(model, prompts[part], labels, max_batch_tokens=10**9).log_prob
            for part in consecutive(prompts, budget)
        ]
        return np.concatenate(parts)

    vocabulary = model.config.get_text_config().vocab_size
    size = max(1, round(budget / np.mean([len(p) for p in prompts])))
    harness = HFLM(model, tokenizer=any_tokenizer(vocabulary), batch_size=size, max_length=2_048)
    asked = [(("", ""), prompt, label) for prompt in prompts for label in labels]

    def lm_eval() -> np.ndarray:
        found = harness._loglikelihood_tokens(asked, disable_tqdm=True)
        return np.array([score for score, _ in found]).reshape(len(prompts), len(labels))

    return {
        "reference": lambda: per_label(model, prompts, labels, budget, head=False),
        "head": lambda: per_label(model, prompts, labels, budget, head=True),
        "lm-eval": lm_eval,
        "prefix": prefix,
        "sorted": lambda: score_labels(model, prompts, labels, max_batch_tokens=budget).log_prob,
    }


def compare(model: torch.nn.Module, prompts: Rows, labels: Rows, budget: int, rounds: int) -> dict[str, object]:
    each = ways(model, prompts, labels, budget)
    expected = each["reference"]()
    error = {name: float(np.abs(way() - expected).max()) for name, way in each.items()}
    if max(error.values()) > 1e-3:
        raise SystemExit(f"the ways differ: {error}")
    seconds = in_turns({name: partial(timed, way) for name, way in each.items()}, rounds)
    return {
        "times_reference": ratio_to(seconds, "reference"),
        "times_lm_eval": ratio_to(seconds, "lm-eval"),
        "largest_difference": error,
    }


def random_model() -> torch.nn.Module:
    """A Llama of 10.5M parameters, 4.1M of them tied embeddings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16_000,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=8,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model folder (default: a random Llama)")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--mean-tokens", type=float, default=80, help="mean prompt length")
    parser.add_argument("--budget", type=int, default=2048, help="padded tokens of a batch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = (
        AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32) if options.model else random_model()
    )
    rng = np.random.default_rng(0)
    vocabulary = model.config.get_text_config().vocab_size
    # A coefficient of variation of .5: the spread of sentences in a template.
    lengths = np.maximum(8, rng.gamma(4, options.mean_tokens / 4, options.prompts)).astype(int)
    prompts = [rng.integers(3, vocabulary, n).tolist() for n in lengths]
    sets = {
        "3 labels of 1 token": [[10], [20], [30]],
        "5 labels of 1-4 tokens": [[10], [20, 21], [30, 31, 32], [30, 31, 33, 34], [40, 41]],
    }
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "prompts": options.prompts,
        "tokens": {"mean": float(lengths.mean()), "longest": int(lengths.max())},
        "budget": options.budget,
        "threads": options.threads,
    }
    for name, labels in sets.items():
        report[name] = compare(model, prompts, labels, options.budget, options.rounds)
    keep("label_scoring", report)


if __name__ == "__main__":
    main()
