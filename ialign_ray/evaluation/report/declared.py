"""Suites that the base is declared to have been trained on (`model.trained_on`), marked wherever scores appear."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ialign_ray.config import Experiment, LmEvalSuite, Suite
from ialign_ray.config.model import DeclaredTraining
from ialign_ray.evaluation.report.tables import Column

MARK: Final = "†"


def declared(experiment: Experiment) -> dict[str, DeclaredTraining]:
    """Suite -> declaration that names it: by the suite's name, its hub data set, the stem of its path, or its task."""
    found = {}
    for suite in experiment.evaluate.suites:
        names = _names(suite)
        named = next((d for d in experiment.model.trained_on if d.suite.casefold() in names), None)
        if named:
            found[suite.name] = named
    return found


def _names(suite: Suite) -> set[str]:
    if isinstance(suite, LmEvalSuite):
        own, hub = [name for _, name in suite.named], None
    else:
        own, hub = [Path(suite.path).stem] if suite.path else [], suite.hub
    hubs = [name for name in (hub, suite.about and suite.about.hub) if name]
    bare = [hub.partition("@")[0].partition(":")[0] for hub in hubs]
    return {name.casefold() for name in (suite.name, *own, *bare, *(hub.rpartition("/")[2] for hub in bare))}


def declared_note(suite: str, declaration: DeclaredTraining) -> str:
    """One sentence about a suite that was declared."""
    source = f" ({declaration.source})" if declaration.source else ""
    return f"{MARK} {suite}: the base is declared to have been trained on {declaration.suite}{source}."


def declared_notes(experiment: Experiment) -> list[str]:
    """One sentence per declaration, those of suites that are not measured here included."""
    found = declared(experiment)
    notes = [declared_note(suite, declaration) for suite, declaration in found.items()]
    for other in experiment.model.trained_on:
        if other not in found.values():
            source = f" ({other.source})" if other.source else ""
            notes.append(f"The base is declared to have been trained on {other.suite}{source}; no suite here has it.")
    return notes


def marked(columns: Sequence[Column], suites: dict[str, DeclaredTraining]) -> list[Column]:
    """Columns of a table, with the mark in the titles of declared suites."""
    return [c._replace(title=f"{c.title} {MARK}") if c.suite in suites else c for c in columns]
