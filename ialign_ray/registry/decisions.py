"""History of an alias: who moved it, when and why; append-only, and two writers cannot both extend it.

MLflow moves an alias without checking where it pointed, so a promotion first *claims* the next number of the alias's
history. The claim is an MLflow experiment named `registry/MODEL/ALIAS/NUMBER`, whose name is unique in the database
by a unique index (workspace, name): of any number of writers, on any hosts, exactly one creates it, and the others read
the history again and judge against the new champion. The claim contains the whole event. It is then applied: the alias
is moved, the event is stored as a tag of the registered model, and the claim is deleted (in MLflow a deleted name
remains taken). A writer that dies in between leaves a claim that the next writer applies first.
"""

from __future__ import annotations

import getpass
import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from ialign_ray.errors import RegistryError
from ialign_ray.registry.store import TAG, MlflowError, Registry

PROMOTED, FORCED, REFUSED, ROLLED_BACK = "promoted", "forced", "refused", "rolled back"
_LARGEST = 4800  # a tag of a registered model takes 5,000 characters
_EVENT = f"{TAG}event"


@dataclass(frozen=True)
class Event:
    """One decision about an alias."""

    kind: str
    """promoted, forced, refused or rolled back."""
    version: int
    """The candidate, or the target of a rollback."""
    before: int | None
    """The champion at that time."""
    told: tuple[str, ...] = ()
    """Every check with its numbers."""
    reason: str = ""
    """Reason of a forced promotion."""
    who: str = ""
    when: str = ""
    number: int = 0
    attempt: int = 0
    """Models scored on its test sentences so far, including itself; 0 if nothing was judged."""

    @property
    def moves(self) -> bool:
        """True if the alias moved."""
        return self.kind != REFUSED

    def signed(self, number: int) -> Event:
        """Return the event with number, user and time."""
        return replace(self, number=number, who=_user(), when=time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    def text(self) -> str:
        """JSON that fits into a tag; if it is too long, the last checks are omitted."""
        data = asdict(replace(self, reason=self.reason[:1000]))
        told = [line[:500] for line in self.told]
        # MLflow refuses a tag that is too long, and then the whole promotion fails
        for kept in range(len(told), -1, -1):
            rest = [f"and {len(told) - kept} more"] if kept < len(told) else []
            text = json.dumps(data | {"told": told[:kept] + rest}, ensure_ascii=False)
            if len(text) <= _LARGEST:
                return text
        raise RegistryError("the reason is too long; keep it under 1,000 characters")


@dataclass(frozen=True)
class Head:
    """Holder of an alias, and its history."""

    champion: int | None
    events: tuple[Event, ...]

    @property
    def number(self) -> int:
        """Number of the next event."""
        return self.events[-1].number + 1 if self.events else 1

    @property
    def held(self) -> list[int]:
        """Versions that held the alias, the current one last, without those that were rolled back."""
        stack: list[int] = []
        for event in self.events:
            if event.kind == ROLLED_BACK and event.version in stack:
                del stack[stack.index(event.version) + 1 :]
            elif event.moves:
                stack.append(event.version)
        return stack


def head(registry: Registry, name: str, alias: str) -> Head:
    """Return the head of an alias, after applying a claim that a writer left behind."""
    # again after a claim was applied: more of them may follow
    while True:
        model = registry.model(name)
        found = Head(int(model.aliases[alias]) if alias in model.aliases else None, _events(model.tags, alias))
        claim = registry.call("get_experiment_by_name", _claim(name, alias, found.number))
        if claim is None:
            return found
        _carry_out(registry, name, alias, _event(claim.tags[_EVENT]), claim.experiment_id)


def refuse_torn(seen: Head, title: str) -> None:
    """Raise RegistryError if a decision is missing from a history: attempts could not be counted."""
    numbers = [event.number for event in seen.events]
    missing = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
    if missing:
        raise RegistryError(
            f"the history of {title} lacks decision {missing[0]}, whose tag another tool removed, so attempts cannot "
            "be counted; restore the registry from a backup, or promote with --force and a reason"
        )


def holders(registry: Registry, name: str, alias: str) -> list[int]:
    """Versions to fall back on, the latest holder of an alias first; read-only, so it needs no write access."""
    model = registry.model(name)
    present = int(model.aliases[alias]) if alias in model.aliases else None
    held = Head(present, _events(model.tags, alias)).held
    return list(dict.fromkeys(number for number in (present, *reversed(held)) if number is not None))


def append(registry: Registry, name: str, alias: str, seen: Head, event: Event) -> Event | None:
    """Add an event to the history that was `seen`, and move the alias; None if another writer was first."""
    event = event.signed(seen.number)
    try:
        claim = registry.call("create_experiment", _claim(name, alias, event.number), tags={_EVENT: event.text()})
    except MlflowError as error:
        if error.code == "RESOURCE_ALREADY_EXISTS":
            return None
        raise
    _carry_out(registry, name, alias, event, str(claim))
    # read back: a claim is ours only if the history contains our event under its number
    kept = next(e for e in _events(registry.model(name).tags, alias) if e.number == event.number)
    return event if kept.text() == event.text() else None  # `mlflow gc` frees the names of old claims


def _carry_out(registry: Registry, name: str, alias: str, event: Event, claim: str) -> None:
    """Move the alias, store the event, delete the claim; idempotent, as two writers may do it."""
    if all(e.number != event.number for e in _events(registry.model(name).tags, alias)):
        if event.moves:
            # before the tag: a writer that dies between the two leaves no event, so the next one repeats the move
            _put(registry, "set_registered_model_alias", name, alias, str(event.version))
        _put(registry, "set_registered_model_tag", name, _tag(alias, event.number), event.text())
    try:
        registry.call("delete_experiment", claim)
    except MlflowError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":  # deleted already
            raise
    _follow_newest(registry, name, alias, event)


def _follow_newest(registry: Registry, name: str, alias: str, event: Event) -> None:
    """Undo a late move: if the history has grown since, its newest move counts."""
    model = registry.model(name)
    later = [e for e in _events(model.tags, alias) if e.moves and e.number > event.number]
    if event.moves and later and int(model.aliases.get(alias, 0)) == event.version != later[-1].version:
        _put(registry, "set_registered_model_alias", name, alias, str(later[-1].version))


def _put(registry: Registry, method: str, *arguments: str) -> None:
    """Set an alias or a tag. MLflow checks, then inserts: of two writers one may fail, and finds the row on retry."""
    try:
        registry.call(method, *arguments)
    except MlflowError:
        registry.call(method, *arguments)


def _events(tags: Any, alias: str) -> tuple[Event, ...]:
    found = [_event(text) for key, text in tags.items() if key.startswith(_tag(alias))]
    return tuple(sorted(found, key=lambda e: e.number))


def _event(text: str) -> Event:
    data = json.loads(text)
    return Event(**data | {"told": tuple(data["told"])})


def _claim(name: str, alias: str, number: int) -> str:
    return f"registry/{name}/{alias}/{number}"


def _tag(alias: str, number: int | None = None) -> str:
    return f"{TAG}history.{alias}." + ("" if number is None else f"{number:06d}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"
