"""References (`champion`, `mine@champion`, `mine/3`, `mine`), resolved to a verified model folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ialign_ray.errors import RegistryError
from ialign_ray.registry.promotion import CHAMPION
from ialign_ray.registry.store import Registry, Version, has_registry

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
        """Describe the resolved version in one line."""
        held = f"@{self.alias}" if self.alias else ""
        tags = self.version.tags
        return f"{self.version.title}{held}: {tags.get('base')}, replay ratio {tags.get('dose')}, files verified"


def names_version(reference: str) -> bool:
    """Return True if this can only be a registry reference: `champion`, a name with @, or MLflow's `models:/`
    address."""
    return reference == CHAMPION or reference.startswith("models:/") or bool(_BY_ALIAS.fullmatch(reference))


def could_name_version(reference: str) -> bool:
    """Return True if this can be a registry reference as well as a hub id: `NAME` or `NAME/NUMBER`."""
    return "/" not in reference or bool(_BY_NUMBER.fullmatch(reference))


def registry_of(reference: str, location: str, open_registry: Callable[[str], Registry] = Registry) -> Registry | None:
    """The registry if a reference names one of its versions; None for a folder, `pocket:base` or a hub id.

    An existing folder and `pocket:base` are not versions; `champion` and names with an @ are; a name that could also be
    a hub id (`mine`, `mine/3`) is one if the registry has a model of that name.
    """
    if Path(reference).exists() or reference.startswith("pocket:"):
        return None
    sure = names_version(reference)
    if not sure and not (could_name_version(reference) and has_registry(location)):
        return None
    registry = open_registry(location)
    return registry if sure or reference.partition("/")[0] in registry.names() else None


def resolve(reference: str, registry: Registry) -> Resolved:
    """Find a version, download its files, and verify them.

    `NAME@ALIAS`, `NAME/NUMBER`, `NAME` (its champion), or `champion` if the registry has only one model; each may
    follow `models:/`. Raises RegistryError if there is no such version, or a file does not match its hash.
    """
    name, alias, number = parse(reference, registry)
    number = holder(registry, name, alias or CHAMPION) if number is None else number
    version = registry.version(name, number)
    folder = registry.fetch(version) / "model"
    if not folder.exists():
        base, context = version.tags.get("base"), version.tags.get("context")
        raise RegistryError(
            f"{version.title} has no weights: it is {base} with the context {context!r}; use it through "
            f"`ialign serve`, or name {base}"
        )
    return Resolved(version, alias, folder)


def parse(reference: str, registry: Registry) -> tuple[str, str | None, int | None]:
    """Return (model, alias, None) or (model, None, number) of a reference; only models' names are read."""
    if found := _BY_NUMBER.fullmatch(reference):
        return found["name"], None, int(found["number"])
    if by_alias := _BY_ALIAS.fullmatch(reference):
        return by_alias["name"], by_alias["alias"], None
    return _name(registry, reference.removeprefix("models:/")), CHAMPION, None


def _name(registry: Registry, plain: str) -> str:
    names = registry.names()
    if plain in names:
        return plain
    if plain != CHAMPION or not names:
        known = ", ".join(names) or "none yet"
        raise RegistryError(f"registry {registry.uri} has no model {plain!r} (it has: {known}); name one of them")
    if len(names) > 1:
        raise RegistryError(
            f"{len(names)} models are registered; name one: {', '.join(f'{n}@{CHAMPION}' for n in names)}"
        )
    return names[0]


def holder(registry: Registry, name: str, alias: str) -> int:
    """Number of the version that an alias points to. Raises RegistryError, listing the existing aliases, if there is no
    such alias."""
    aliases = registry.aliases(name)
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none yet"
        raise RegistryError(
            f"model {name!r} has no alias {alias!r} (it has: {known}); `ialign promote` a version first"
        )
    return aliases[alias]
