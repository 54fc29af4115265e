"""What the loop knows of validation that goes on elsewhere, while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ialign_ray.training.validation import Estimate


@dataclass(frozen=True)
class Found:
    """What a validation found."""

    losses: Mapping[str, Estimate]
    """Metric, without `validation/`, -> nats per target token."""
    seconds: float
    """It took, with the loading of the model if it was loaded for this."""


class Validator(Protocol):
    """Validates checkpoints, one at a time; the first worker alone asks it."""

    def start(self, step: int, checkpoint: Path) -> None:
        """Begin; the checkpoint stays until `result` was asked for."""

    def ready(self) -> bool:
        """Whether `result` would not wait; costs well under a millisecond, it is asked at every step."""

    def result(self) -> Found:
        """What was found, or an IalignError that says why nothing was."""
