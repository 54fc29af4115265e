"""The pocket base model: trained by the project's own loop on first use, then cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from ialign_ray.config import DataSource, Experiment, TrainConfig
from ialign_ray.pocket import POCKET
from ialign_ray.pocket.base import VOCABULARY, base_config, train_tokenizer
from ialign_ray.pocket.locate import base_folder
from ialign_ray.storage import is_intact, once
from ialign_ray.streaming.examples import ExampleSource, local_stream
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import instruction_pool
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.loop import Loop, run_loop
from ialign_ray.training.prepare import save_data
from ialign_ray.training.run_log import RunLog

RECIPE = TrainConfig(
    # About 90 core-seconds; weighted F1 .88 on the old languages' sentiment (n = 300), .32 on the new ones'.
    steps=1500,
    batch_size=16,
    learning_rate=1.5e-3,
    warmup=0.05,
    weight_decay=0.1,
    checkpoint_every=1500,
    max_prompt_tokens=256,
    max_target_tokens=128,
)


def ensure_model(experiment: Experiment, console: Console) -> None:
    """Train the pocket base model if the experiment asks for it and it is not there yet."""
    ensure_base(experiment.model.id, console)


def ensure_base(model: str, console: Console) -> None:
    """Train the pocket base model if `model` is its id and it is not there yet."""
    if model != POCKET + "base" or is_intact(base_folder()):
        return
    console.print("Training the pocket base model (once; one to two minutes on two cores)")
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("pocket base", total=RECIPE.steps)

        def on_step(step: int) -> None:
            bar.update(task, completed=step)

        once(base_folder(), partial(train_base, on_step=on_step))


def train_base(folder: Path, recipe: TrainConfig = RECIPE, on_step: OnStep = lambda step: None) -> None:
    """Train a random Llama on the pocket's instructions, in this process, and save it into `folder`."""
    source = DataSource(path=POCKET + "instructions", where={"split": "train"})
    train_small(folder, instruction_pool(source, "."), recipe, on_step=on_step)


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
    stream = ExampleSource(str(scratch / "data"), settings.batch_size, settings.steps)
    loop = Loop(
        settings=settings,
        stream=lambda start: local_stream(stream, start),
        checkpoints=Checkpoints(scratch / "checkpoints", "scratch", 1),
        run_log=RunLog(scratch),
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
