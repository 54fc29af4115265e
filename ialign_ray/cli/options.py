"""Arguments that several commands share, and the console that they print to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ialign_ray import terminal

if TYPE_CHECKING:
    from ialign_ray.config import Experiment

ExperimentFile = Annotated[Path, typer.Argument(help="Experiment file (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override a field, e.g. `--set train.steps=500`. May be repeated."),
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow server or database, or a folder of runs with its mlflow.db. Default: `runs`.",
    ),
]

console = Console()


def load(file: Path, overrides: list[str] | None) -> Experiment:
    """Load an experiment file with its overrides. Raises ConfigError."""
    from ialign_ray.config import load_experiment

    return load_experiment(file, overrides or [])


def say(*lines: str) -> None:
    """Print lines as they are."""
    terminal.say(console, *lines)
