"""The pocket base model: trained by the project's own loop on first use, then cached."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from ialign_ray.config import Experiment, Source, TrainConfig
from ialign_ray.pocket import POCKET
from ialign_ray.pocket.base import base_config, train_tokenizer
from ialign_ray.pocket.locate import base_folder
from ialign_ray.storage import is_intact, once
from ialign_ray.streaming import Source as Stream
from ialign_ray.streaming import local_stream
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import instruction_pool
from ialign_ray.tokens.encode import Encoder
from ialign_ray.training.checkpoint import Checkpoints
from ialign_ray.training.journal import Journal
from ialign_ray.training.loop import Loop, run_loop
from ialign_ray.training.prepare import save_data

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
    if experiment.model.id != POCKET + "base" or is_intact(base_folder()):
        return
    console.print("Training the pocket base model (once; one to two minutes on two cores)")
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("pocket base", total=RECIPE.steps)

        def on_step(step: int) -> None:
            bar.update(task, completed=step)

        once(base_folder(), partial(train_base, on_step=on_step))


def train_base(folder: Path, recipe: TrainConfig = RECIPE, on_step: Callable[[int], None] = lambda step: None) -> None:
    """Train a random Llama on the pocket's instructions, in this process, and save it into `folder`."""
    from transformers import LlamaForCausalLM

    source = Source(path=POCKET + "instructions", where={"split": "train"})
    pool = instruction_pool(source, ".")
    texts = [f"{a}\n{b}" for a, b in zip(pool["inputs"].to_pylist(), pool["targets"].to_pylist(), strict=True)]
    tokenizer = train_tokenizer(texts)
    plan = Plan.replay_only(pool, recipe.seed)
    scratch = folder / "scratch"
    save_data(scratch / "data", plan, Encoder.of(tokenizer, "never", "\n", 256, 128))
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(base_config(tokenizer))
    stream = Stream(str(scratch / "data"), recipe.batch_size, recipe.steps)
    loop = Loop(
        settings=recipe,
        stream=lambda start: local_stream(stream, start),
        checkpoints=Checkpoints(scratch / "checkpoints", "pocket", 1),
        journal=Journal(scratch),
        pad=tokenizer.pad_token_id,
        device=torch.device("cpu"),
        on_step=on_step,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # its matrices are so small that a second thread only waits
    try:
        run_loop(model, loop)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(scratch)
