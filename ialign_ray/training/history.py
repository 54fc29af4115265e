"""What a run told of itself, read back without torch: a report of finished runs needs no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ialign_ray.training.records import Records
from ialign_ray.training.stopping import Validated

RECORDS, VALIDATIONS, WARNINGS = "metrics.jsonl", "validation.jsonl", "warnings.txt"


def records(run: Path) -> list[dict[str, Any]]:
    """Every whole record of a run; a line torn by a crash is passed over."""
    return Records(run / RECORDS).read()


def validations(run: Path) -> list[Validated]:
    """What validation has said so far, in the order of steps."""
    return [Validated(r["step"], {k: e[0] for k, e in r["losses"].items()}) for r in Records(run / VALIDATIONS).read()]


def warnings_told(run: Path) -> list[str]:
    """What the user was told of a run, oldest first."""
    path = run / WARNINGS
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
