"""The pocket base model: trained by the project's own loop on first use, then cached."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from ialign_ray.config import Experiment, Source, TrainConfig
from ialign_ray.pocket import POCKET
from ialign_ray.pocket.locate import base_folder
from ialign_ray.storage import is_intact, once, write_json
from ialign_ray.streaming import Source as Stream
from ialign_ray.streaming import local_stream
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.replay import REPLAY_SCHEMA, instructions
from ialign_ray.tokens.encode import Encoder


def ensure_model(experiment: Experiment, console: Console) -> None:
    """Train the pocket base model if the experiment asks for it and it is not there yet."""
    if experiment.model.id == POCKET + "base" and not is_intact(base_folder()):
        console.print("Training the pocket base model (once; about two minutes on two cores)")
        once(base_folder(), train_base)
