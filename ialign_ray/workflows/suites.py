"""List of the bundled suites, and suites as task files of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.evaluation.scoring.harness_export import export_tasks
from ialign_ray.terminal import BlockTable, say

_SHOWN = 6
"""Most languages that are named; of more, their number is."""


def bundled_table() -> BlockTable:
    """Table of the bundled suites: kind, languages, licence, and whether the texts are native or translated."""
    header = ("suite", "kind", "languages", "licence", "texts", "data, under storage.data")
    return BlockTable(header, [_row(suite) for suite in expand_suites(bundled_names())])


def export_suites(experiment: Experiment, folder: Path, suites: Sequence[str], console: Console) -> None:
    """Write task files of the experiment's suites, and print how the harness runs them. Raises IalignError."""
    groups, notes = export_tasks(experiment, folder, suites)
    for note in notes:
        say(console, note)
    if groups:
        say(console, f"Tasks: {folder}", f"Next:  lm-eval run --include_path {folder} --tasks {','.join(groups)}")


def _row(suite: dict[str, Any]) -> tuple[str, ...]:
    long = suite.get("long") or {}
    codes = list(dict.fromkeys([*suite.get("columns", {}), *long.get("values", {})]))
    languages = ", ".join(codes) if len(codes) <= _SHOWN else str(len(codes))
    about = suite["about"]
    return suite["name"], suite["kind"], languages, about["licence"], about["texts"], suite["path"]
