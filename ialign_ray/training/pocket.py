"""The pocket base model: trained by the project's own loop on first use, then cached."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ialign_ray.config import Experiment, Source, TrainConfig
from ialign_ray.pocket import POCKET
from ialign_ray.pocket.locate import base_folder
from ialign_ray.storage import is_intact, once
from ialign_ray.tasks.replay import instruction_pool
from ialign_ray.training.scratch import OnStep, train_small

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
    source = Source(path=POCKET + "instructions", where={"split": "train"})
    train_small(folder, instruction_pool(source, "."), recipe, on_step=on_step)
