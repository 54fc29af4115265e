"""`ialign align`: one run, from its experiment to a model folder."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.training.pocket import ensure_model
from ialign_ray.training.trainer import train


def align(experiment: Experiment, run: str = "align", *, resume: bool = False, console: Console | None = None) -> Path:
    """Train one run and return its folder, which holds the model in `model`.

    `resume` continues from the newest intact checkpoint. Raises IalignError; checkpoints already written stay.
    """
    console = console or Console()
    ensure_model(experiment, console)
    return train(experiment, run, resume=resume, console=console)
