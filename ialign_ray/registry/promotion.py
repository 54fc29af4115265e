"""Registering a run, and moving an alias: only with evidence, by a forced and recorded decision, or back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.errors import IalignError, RegistryError
from ialign_ray.evaluation.subjects import BASE
from ialign_ray.registry.attempts import Attempts, counted, looks, rows_of
from ialign_ray.registry.decisions import FORCED, PROMOTED, REFUSED, ROLLED_BACK, Event, Head, append, head, refuse_torn
from ialign_ray.registry.evidence import Evidence, GateReferences, decide, differences
from ialign_ray.registry.run_evidence import (
    CONTROL,
    VERSION,
    evidence,
    facts,
    gather,
    headline,
    old_work,
    write_version,
)
from ialign_ray.registry.store import Registry, Version
from ialign_ray.terminal import say

CHAMPION = "champion"
_ATTEMPTS = 100  # each retry means that another writer made progress, so this many mean that something else is wrong


@dataclass(frozen=True)
class Moved:
    """Result of a promotion or rollback."""

    version: Version
    event: Event | None
    """None if the version held the alias already."""


def register(
    registry: Registry,
    run: Path,
    name: str,
    evaluated: Experiment | None = None,
    control: Path | None = None,
    context: str | None = None,
) -> tuple[Version, bool]:
    """Add a finished, evaluated run as a version; (version, True), or (the same content's version, False).

    With the name of a `context` its prompts have that context, and the run may be the folder of `ialign icl`.
    Raises RegistryError if the run is unfinished, damaged, or lacks predictions.
    """
    material = gather(run, evaluated, control, context)
    for warning in material.warnings:
        say(Console(stderr=True), f"warning: {warning}")
    with tempfile.TemporaryDirectory(prefix="ialign-") as scratch:
        folder = Path(scratch) / VERSION
        content = write_version(material, folder)
        if name in registry.names():
            for version in registry.versions(name):
                if version.content == content:
                    return version, False
        tags = facts(material) | {"content": content, "metrics": json.dumps(headline(folder))}
        return registry.add(name, folder, tags, (folder / "README.md").read_text(encoding="utf-8")), True


def promote_run(
    experiment: Experiment,
    run: Path,
    say: Callable[[str], None],
    *,
    control: Path | None = None,
    alias: str = CHAMPION,
    force: str | None = None,
) -> Moved:
    """Register a finished, evaluated run in its experiment's registry, and promote it if it passes the gate.

    `say` receives the result line by line; a refusal is raised after the line that names the version.
    """
    registry = Registry(experiment.tracking_uri, artifacts=experiment.tracking.artifacts, create=True)
    version, new = register(registry, run, experiment.name, experiment, control)
    say(registered(version, new))
    moved = promote(registry, version.name, version.number, alias, force)
    for line in moved_lines(moved, alias):
        say(line)
    return moved


def promote(registry: Registry, name: str, number: int, alias: str = CHAMPION, force: str | None = None) -> Moved:
    """Move an alias to a version that is shown to be better than the current holder; `force` is a reason to skip the
    gate.

    The version's files are read from the registry and verified, forced or not. If another writer moves the alias
    first, the version is judged again, against the new holder. Refusals are recorded and raised as RegistryError.
    """
    version, judged = registry.version(name, number), {}
    for _ in range(_ATTEMPTS):
        seen = head(registry, name, alias)
        if seen.champion == number:
            return Moved(version, None)
        # a refusal extends the history without a new champion: nothing to judge again
        if seen.champion not in judged:
            judged[seen.champion] = _judged(registry, version, seen, force)
        if event := append(registry, name, alias, seen, judged[seen.champion]):
            if event.kind == REFUSED:
                over = "" if event.before is None else f" over {name}/{event.before}"
                raise RegistryError(f"{version.title} is not promoted{over}: {'; '.join(event.told)}")
            return Moved(version, event)
    raise RegistryError(f"the history of {name}@{alias} moved {_ATTEMPTS} times in the meantime; try again")


def registered(version: Version, new: bool) -> str:
    """Return the result of a registration in one line."""
    return f"{version.title}: {'registered' if new else 'registered already, with the same files'}"


def moved_lines(moved: Moved, alias: str) -> list[str]:
    """Return the result of a promotion or rollback in lines."""
    title, event = moved.version.title, moved.event
    if event is None:
        return [f"{title} is {alias} already"]
    instead = f" (before: {moved.version.name}/{event.before})" if event.before else ""
    first = f"{title} is {alias}: {event.kind}{instead}{', ' + event.reason if event.reason else ''}"
    return [first, *(f"- {line}" for line in event.told)]


def roll_back(registry: Registry, name: str, to: int | None = None, alias: str = CHAMPION) -> Moved:
    """Move an alias back to its previous holder, or to an earlier one.

    If another writer moves it first, this is refused: two users who take back the same champion take one step.
    """
    seen = head(registry, name, alias)
    version = registry.version(name, _earlier(seen, to, f"{name}@{alias}"))
    # a rollback never returns to a version whose files are damaged
    with registry.downloaded(version):
        event = append(registry, name, alias, seen, Event(ROLLED_BACK, version.number, seen.champion))
    if event is None:
        raise RegistryError(
            f"{name}@{alias} was changed by another process in the meantime; see `ialign models {name} --history`, and "
            "roll back again if it is still needed"
        )
    return Moved(version, event)


def _earlier(seen: Head, to: int | None, title: str) -> int:
    earlier = [number for number in seen.held if number != seen.champion]
    if not earlier:
        raise RegistryError(f"{title} has no earlier holder to return to; promote a version")
    if to is not None and to not in earlier:
        raise RegistryError(f"{title} was not held by version {to} (but by {_listed(earlier)}); promote it instead")
    return earlier[-1] if to is None else to


def _judged(registry: Registry, version: Version, seen: Head, force: str | None) -> Event:
    """The event that follows from a version's evidence; a version whose files are damaged is never promoted."""
    number = 0
    try:
        with registry.downloaded(version) as folder:
            if force is not None:
                return Event(FORCED, version.number, seen.champion, reason=force)
            if (same := _same_model(registry, version, seen.champion)) is not None:
                return Event(PROMOTED, version.number, seen.champion, (f"the model of {same.title}, evaluated again",))
            refuse_torn(seen, version.name)
            own = evidence(folder, version.title)
            attempts = attempts_at(registry, version, own[VERSION], seen)
            number = attempts.number
            decision = decide(own[VERSION], _references(registry, version, own, seen), attempts)
    except IalignError as error:
        return Event(REFUSED, version.number, seen.champion, (str(error),), attempt=number)
    if decision.accepted:
        return Event(PROMOTED, version.number, seen.champion, tuple(c.text for c in decision.checks), attempt=number)
    return Event(REFUSED, version.number, seen.champion, tuple(decision.refusals), attempt=number)


def attempts_at(registry: Registry, version: Version, own: Evidence, seen: Head) -> Attempts:
    """Number of models scored on a version's test sentences: in the registry, under any name, and in its runs."""
    known = []
    numbers = set()
    for name in registry.names():
        for other in registry.versions(name):
            numbers |= {other.number} if name == version.name else set()
            if "model" in other.tags:
                known.append((other, _rows(registry, other)))
    runs = Path(own.experiment.storage.runs)
    elsewhere = looks(runs, own.rows) if runs.is_dir() else {}
    gone = {event.version for event in seen.events if event.kind != ROLLED_BACK} - numbers
    return Attempts(counted(version, own.rows, known, elsewhere) + len(gone), own.experiment.promotion.attempts)


def alpha_left(registry: Registry, name: str, seen: Head) -> str | None:
    """Sentence about the alpha left for the test sentences of the version judged last; None without such a version."""
    judged = [event.version for event in seen.events if event.attempt]
    if not judged:
        return None
    version = registry.version(name, judged[-1])
    own = evidence(registry.fetch(version), version.title)[VERSION]
    spent = attempts_at(registry, version, own, seen)
    return (
        f"Test sentences of {version.title}: {spent.number} models were scored on them, alpha {spent.left:.2g} is left."
    )


def _rows(registry: Registry, version: Version) -> frozenset[str]:
    """Sketch of a version's test sentences; computed from its predictions if it was registered without one."""
    if (kept := rows_of(version)) is not None:
        return kept
    try:
        return evidence(registry.fetch(version), version.title)[VERSION].rows
    except IalignError:  # its files are missing or damaged: its test sentences are unknown
        return frozenset()


def _same_model(registry: Registry, version: Version, champion: int | None) -> Version | None:
    """The champion, if it is this same model: so a champion can be measured on other suites."""
    holder = registry.version(version.name, champion) if champion is not None else None
    return holder if holder is not None and holder.tags.get("model") == version.tags["model"] else None


def _references(registry: Registry, version: Version, own: Mapping[str, Evidence], seen: Head) -> GateReferences:
    """References of a version; its control is the champion's if it has no control."""
    if seen.champion is None:
        return GateReferences(own[BASE], own.get(CONTROL))
    holder = registry.version(version.name, seen.champion)
    other = evidence(registry.fetch(holder), holder.title)
    control = own.get(CONTROL) or other.get(CONTROL)
    return GateReferences(own[BASE], control, other[VERSION], _best_before(registry, version, own[VERSION], seen))


def _best_before(registry: Registry, version: Version, own: Evidence, seen: Head) -> Evidence | None:
    """The earlier champion that kept old work best, among those evaluated in the same way; None if it is the current
    one."""
    held = [registry.version(version.name, number) for number in dict.fromkeys(reversed(seen.held))]
    for best in sorted(held, key=lambda v: old_work(v, own.experiment), reverse=True):
        if best.number in (seen.champion, version.number):
            return None
        found = evidence(registry.fetch(best), best.title)[VERSION]
        if next(differences(own, found), None) is None:
            return found
    return None


def _listed(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in dict.fromkeys(numbers))
