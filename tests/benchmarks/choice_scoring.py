"""Time multiple choice with passages against lm-evaluation-harness: python choice_scoring.py [--model FOLDER].

Rows are like Belebele's: three questions of four options about each passage of 100 to 150 words. Both score the same
token ids by the same model under the same budget: the harness each prompt with each option, this package each passage
once for all questions and options. The two take turns, and the median of the ratios within each round counts; they must
agree to 1e-3 nats. `text` scores options of 3 to 10 tokens, `letter` one token each; `one prompt at a time` shares a
prompt among its options, but no passage among its questions.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from measuring import any_tokenizer, keep, ratio_to, rounds, timed
from transformers import AutoModelForCausalLM, LlamaConfig

from ialign_ray.inference.scoring import score_labels

Rows = list[list[int]]
TOKENS_PER_WORD = 1.4
QUESTIONS, OPTIONS = 3, 4


def random_model() -> torch.nn.Module:
    """A Llama of the shape of SmolLM2-135M with 6 of its 30 layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=6,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def some_rows(passages: int, vocabulary: int) -> tuple[Rows, list[Rows]]:
    """Prompts and their options, as token ids."""
    draw = np.random.default_rng(0)

    def tokens(low: float, high: float) -> list[int]:
        return draw.integers(3, vocabulary, int(draw.integers(int(low), int(high) + 1))).tolist()

    prompts, options = [], []
    for _ in range(passages):
        passage = tokens(100 * TOKENS_PER_WORD, 150 * TOKENS_PER_WORD)
        for _ in range(QUESTIONS):
            prompts.append([*passage, *tokens(10 * TOKENS_PER_WORD, 20 * TOKENS_PER_WORD)])
            options.append([tokens(3, 10) for _ in range(OPTIONS)])
    return prompts, options


def by_harness(harness: HFLM, prompts: Rows, options: list[Rows]) -> np.ndarray:
    asked = [(("", ""), prompt, option) for prompt, of_row in zip(prompts, options) for option in of_row]
    found = harness._loglikelihood_tokens(asked, disable_tqdm=True)
    return np.array([value for value, _ in found]).reshape(len(prompts), -1)


def compare(model: torch.nn.Module, prompts: Rows, options: list[Rows], budget: int, count: int) -> dict[str, object]:
    tokenizer = any_tokenizer(model.config.get_text_config().vocab_size)
    batch = max(1, budget // (max(map(len, prompts)) + max(len(o) for one in options for o in one)))
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=2_048)
    ours = score_labels(model, prompts, options, max_batch_tokens=budget).log_prob
    error = float(np.abs(ours - by_harness(harness, prompts, options)).max())
    if error > 1e-3:
        raise SystemExit(f"the scores differ by {error}")
    apart = partial(score_alone, model, prompts, options, budget)
    ways = {
        "lm-eval": partial(timed, partial(by_harness, harness, prompts, options)),
        "one prompt at a time": partial(timed, apart),
        "shared passages": partial(timed, partial(score_labels, model, prompts, options, max_batch_tokens=budget)),
    }
    seconds = rounds(ways, count)
    return {"times_lm_eval": ratio_to(seconds, "lm-eval"), "largest_difference": error}


def score_alone(model: torch.nn.Module, prompts: Rows, options: list[Rows], budget: int) -> None:
    """Score the questions of a passage in different calls, which share only the prompt among its options."""
    for k in range(QUESTIONS):
        score_labels(model, prompts[k::QUESTIONS], options[k::QUESTIONS], max_batch_tokens=budget)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a model folder (default: a random Llama)")
    parser.add_argument("--passages", type=int, default=2)
    parser.add_argument("--budget", type=int, default=4_096, help="padded tokens of a batch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32) if given.model else random_model()
    prompts, options = some_rows(given.passages, model.config.get_text_config().vocab_size)
    letters = [[[10], [11], [12], [13]]] * len(prompts)
    keep(
        "choice_scoring",
        {
            "parameters": sum(p.numel() for p in model.parameters()),
            "rows": {"passages": given.passages, "questions": len(prompts), "options": OPTIONS},
            "mean_prompt_tokens": float(np.mean([len(p) for p in prompts])),
            "budget": given.budget,
            "text": compare(model, prompts, options, given.budget, given.rounds),
            "letter": compare(model, prompts, letters, given.budget, given.rounds),
        },
    )


if __name__ == "__main__":
    main()
