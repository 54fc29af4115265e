"""What a process of ours prints: its own lines as they are, and not the chatter of heavy libraries."""

from __future__ import annotations

import logging
import os
import warnings

from rich.console import Console

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def prepare_process() -> None:
    """Quiet the heavy libraries, before they are imported; what the user has set stays."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def say(console: Console, *lines: str) -> None:
    """Print lines as they are: no markup, no highlighting, and no wrapping of paths and commands."""
    console.print(*lines, sep="\n", soft_wrap=True, highlight=False, markup=False)
