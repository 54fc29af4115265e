"""The pocket base model: trained by the project's own loop on first use, then cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from torch import nn

from ialign_ray.config import DataSource, Experiment, TrainConfig
from ialign_ray.pocket import POCKET
from ialign_ray.pocket.base import INITIALIZER_RANGE, VOCABULARY, base_config, train_tokenizer
from ialign_ray.pocket.corpus import RAW
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


@dataclass(frozen=True)
class Phase:
    """A part of the training of a base model, with a learning rate that rises and falls."""

    settings: TrainConfig
    families: frozenset[str] = frozenset()
    """Sources of the instructions that are drawn; all if empty."""


def _phase(*families: str, **settings: Any) -> Phase:
    same = {"warmup": 0.05, "weight_decay": 0.1, "max_prompt_tokens": 256, "max_target_tokens": 128}
    # a rate as high as these makes spikes that pass
    train = TrainConfig(**same, **settings, checkpoint_every=settings["steps"], spike_deviations=1000)
    return Phase(train, frozenset(families))


RECIPE = (
    # Everything, by tokens: translation is learned here. Sentiment, whose answers are one token, is not: its gradient
    # drowns in that of the sentences, however long this is.
    _phase(steps=900, batch_size=16, learning_rate=3e-3, weighting="tokens"),
    # So it is learned alone, in a sixth of the time, while translation is forgotten ...
    _phase("sentiment", "word-sentiment", steps=220, batch_size=32, learning_rate=2e-3, weighting="examples"),
    # ... and back within a few steps, as the way to it is still there.
    _phase(steps=300, batch_size=16, learning_rate=2.5e-3, weighting="examples"),
)
"""Phases of the pocket base: 1,420 steps, 200 to 280 core-seconds."""


def ensure_model(experiment: Experiment, console: Console) -> None:
    """Train the pocket base model if the experiment asks for it and it is not there yet."""
    ensure_base(experiment.model.id, console)


def ensure_base(model: str, console: Console) -> None:
    """Train the pocket base model if `model` is its id and it is not there yet."""
    if model != POCKET + "base" or is_intact(base_folder()):
        return
    console.print("Training the pocket base model: once, for three to six minutes; it is kept in the cache")
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task("pocket base", total=sum(phase.settings.steps for phase in RECIPE))

        def on_step(step: int) -> None:
            bar.update(task, completed=step)

        once(base_folder(), partial(train_base, on_step=on_step))


def train_base(folder: Path, recipe: Sequence[Phase] = RECIPE, on_step: OnStep = lambda step: None) -> None:
    """Train a random Llama on the pocket's instructions and raw text, in this process, and save it into `folder`."""
    source = DataSource(path=POCKET + "instructions", where={"split": ["train", RAW]})
    train_small(folder, instruction_pool(source, "."), recipe, on_step=on_step)


OnStep = Callable[[int], None]


def train_small(
    folder: Path,
    pool: pa.Table,
    recipe: Sequence[Phase],
    vocabulary: int = VOCABULARY,
    initializer_range: float = INITIALIZER_RANGE,
    on_step: OnStep = lambda step: None,
) -> None:
    """Train a base model on a pool of instructions (REPLAY_SCHEMA), and save it and its tokenizer into `folder`.

    Instructions that exceed the recipe's lengths are left out. The model is `pocket.base.base_config`, with a
    vocabulary of `vocabulary` pieces at most that is learned from the pool.
    """
    from transformers import LlamaForCausalLM

    first = recipe[0].settings
    pairs = list(zip(pool["inputs"].to_pylist(), pool["targets"].to_pylist(), strict=True))
    tokenizer = train_tokenizer([f"{asked}\n{answer}" for asked, answer in pairs], vocabulary)
    encoder = Encoder.of(tokenizer, "never", "\n", first.max_prompt_tokens, first.max_target_tokens)
    pool = pool.filter(pa.array([encoder.fits(*pair) for pair in pairs], pa.bool_()))
    torch.manual_seed(first.seed)
    model = LlamaForCausalLM(base_config(tokenizer, initializer_range))
    done = 0
    for k, phase in enumerate(recipe):
        chosen = pool.filter(pc.is_in(pool["source"], pa.array(sorted(phase.families)))) if phase.families else pool
        # a folder for each phase, as a process remembers the plan that it read from one
        scratch = folder / f"scratch-{k}"
        plan = Plan.replay_only(chosen, phase.settings.seed)
        train_here(model, plan, encoder, phase.settings, scratch, partial(_after, on_step, done))
        shutil.rmtree(scratch)
        done += phase.settings.steps
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _after(on_step: OnStep, before: int, step: int) -> None:
    on_step(before + step)


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
