"""Small models from nothing: a BPE tokenizer and a random Llama, trained by the project's own loop in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn

from ialign_ray.config import TrainConfig
from ialign_ray.pocket.base import VOCABULARY, base_config, train_tokenizer
from ialign_ray.streaming import Source, local_stream
from ialign_ray.tasks.plan import Plan
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.journal import Journal
from ialign_ray.training.loop import Loop, run_loop
from ialign_ray.training.prepare import save_data

OnStep = Callable[[int], None]


def train_small(
    folder: Path,
    pool: pa.Table,
    recipe: TrainConfig,
    vocabulary: int = VOCABULARY,
    on_step: OnStep = lambda step: None,
) -> None:
    """Train a base model on a pool of instructions (REPLAY_SCHEMA), and save it and its tokenizer into `folder`.

    Instructions that exceed the recipe's lengths are left out. The model is a Llama of about a million parameters
    (`pocket.base.base_config`), with a vocabulary of `vocabulary` pieces at most that is learned from the pool.
    """
    from transformers import LlamaForCausalLM

    pairs = list(zip(pool["inputs"].to_pylist(), pool["targets"].to_pylist(), strict=True))
    tokenizer = train_tokenizer([f"{asked}\n{answer}" for asked, answer in pairs], vocabulary)
    encoder = Encoder.of(tokenizer, "never", "\n", recipe.max_prompt_tokens, recipe.max_target_tokens)
    fitting = pool.filter(pa.array([encoder.fits(*pair) for pair in pairs], pa.bool_()))
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(base_config(tokenizer))
    train_here(model, Plan.replay_only(fitting, recipe.seed), encoder, recipe, folder / "scratch", on_step)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(folder / "scratch")


def train_here(
    model: nn.Module, plan: Plan, encoder: Encoder, settings: TrainConfig, scratch: Path, on_step: OnStep
) -> None:
    """Train in this process, without Ray, on one thread: matrices of this size make a second one wait."""
    save_data(scratch / "data", plan, encoder)
    stream = Source(str(scratch / "data"), settings.batch_size, settings.steps)
    loop = Loop(
        settings=settings,
        stream=lambda start: local_stream(stream, start),
        checkpoints=Checkpoints(scratch / "checkpoints", "scratch", 1),
        journal=Journal(scratch),
        pad=encoder.tokenizer.pad_token_id,
        device=torch.device("cpu"),
        on_step=on_step,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_loop(model, loop)
    finally:
        torch.set_num_threads(threads)
