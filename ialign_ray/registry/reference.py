"""From what a user writes (`champion`, `mine@champion`, `mine/3`, `mine`) to a verified model folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ialign_ray.errors import RegistryError
from ialign_ray.registry.promotion import CHAMPION
from ialign_ray.registry.store import Registry, Version

_BY_ALIAS = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)@(?P<alias>[\w-]+)")
_BY_NUMBER = re.compile(r"(?:models:/)?(?P<name>[^/@:]+)/(?P<number>\d+)")


@dataclass(frozen=True)
class Resolved:
    """A version on this machine."""

    version: Version
    alias: str | None
    folder: Path
    """Its model folder, as `ialign align` wrote it."""

    def __str__(self) -> str:
        """Return what was chosen, in one line."""
        held = f"@{self.alias}" if self.alias else ""
        tags = self.version.tags
        return f"{self.version.title}{held}: {tags.get('base')}, dose {tags.get('dose')}, files verified"


def names_version(reference: str) -> bool:
    """Whether this can only be a registry's: `champion`, something with @, or MLflow's own `models:/` address."""
    return reference == CHAMPION or reference.startswith("models:/") or bool(_BY_ALIAS.fullmatch(reference))


def could_name_version(reference: str) -> bool:
    """Whether this can be a registry's as well as a hub id: `NAME` or `NAME/NUMBER`."""
    return "/" not in reference or bool(_BY_NUMBER.fullmatch(reference))


def resolve(reference: str, registry: Registry) -> Resolved:
    """Find a version, bring its files here whole, and verify them.

    `NAME@ALIAS`, `NAME/NUMBER`, `NAME` (its champion), or `champion` where the registry has one model; each may
    follow `models:/`. Raises RegistryError when there is none, or a file does not match its hash.
    """
    if found := _BY_NUMBER.fullmatch(reference):
        version, alias = registry.version(found["name"], int(found["number"])), None
    else:
        by_alias = _BY_ALIAS.fullmatch(reference)
        plain = reference.removeprefix("models:/")
        alias = by_alias["alias"] if by_alias else CHAMPION
        version = _held(registry, by_alias["name"] if by_alias else _name(registry, plain), alias)
    return Resolved(version, alias, registry.fetch(version) / "model")


def _name(registry: Registry, plain: str) -> str:
    names = registry.names()
    if plain in names:
        return plain
    if plain != CHAMPION or not names:
        known = ", ".join(names) or "none yet"
        raise RegistryError(f"registry {registry.uri} has no model {plain!r} (it has: {known}); name one of them")
    if len(names) > 1:
        raise RegistryError(
            f"{len(names)} models have a champion; name one: {', '.join(f'{n}@{CHAMPION}' for n in names)}"
        )
    return names[0]


def _held(registry: Registry, name: str, alias: str) -> Version:
    aliases = registry.aliases(name)
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none yet"
        raise RegistryError(
            f"model {name!r} has no alias {alias!r} (it has: {known}); `ialign promote` a version first"
        )
    return registry.version(name, aliases[alias])
