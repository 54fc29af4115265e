"""Plug-ins: tables of built-in entries that installed packages extend through Python entry points.

    [project.entry-points."ialign.formats"]
    lexicon = "my_package.formats:LEXICON"        # an ialign_ray.corpus.formats.Format

A plug-in is imported when its name is asked for, or when all entries are listed, so that an unused or broken one costs
nothing. One that cannot be used is skipped with one warning that names its package and entry point;
asking for its name then raises an error that says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from ialign_ray.errors import ConfigError

T = TypeVar("T")


class Extensible(Mapping[str, T], Generic[T]):
    """Entries by name, built in or added by installed packages."""

    def __init__(self, group: str, kind: type[T], builtin: Mapping[str, T]) -> None:
        """`group` of entry points, each naming an instance of `kind`."""
        self.group, self._kind, self._builtin = group, kind, dict(builtin)

    def __getitem__(self, name: str) -> T:
        return self._builtin[name] if name in self._builtin else self._plugins.find(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._builtin, *self._plugins.usable()])

    def __len__(self) -> int:
        return len(self._builtin) + len(self._plugins.usable())

    @property
    def builtin(self) -> Mapping[str, T]:
        """The entries of this package, without plug-ins."""
        return self._builtin

    def find(self, name: str, field: str) -> T:
        """Return the entry that `field` of the experiment names. Raises ConfigError if there is no such entry."""
        if name in self:
            return self[name]
        failed = self._plugins.failed.get(name)
        known = ", ".join(self)
        raise ConfigError(
            f"{field} is {name!r}, " + (f"but {failed}" if failed else f"which is not known; use one of {known}")
        )

    @cached_property
    def _plugins(self) -> _Plugins[T]:
        return _Plugins(self.group, self._load)

    def _load(self, point: EntryPoint, others: list[EntryPoint]) -> T:
        if point.name in self._builtin:
            raise ConfigError(f"{point.name!r} is built in; give it another name")
        if others:
            packages = ", ".join(_package(other) for other in others)
            raise ConfigError(f"{point.name!r} is declared by {packages} too; uninstall one of them")
        entry = point.load()
        if not isinstance(entry, self._kind):
            raise ConfigError(
                f"{point.name!r} is {type(entry).__name__}, not {self._kind.__name__}; see docs/extending.md"
            )
        return entry


class _Plugins(Generic[T]):
    """Plug-ins of one group, each imported once, when its name is asked for."""

    def __init__(self, group: str, load: Callable[[EntryPoint, list[EntryPoint]], T]) -> None:
        self.failed: dict[str, str] = {}
        """Name -> reason that it cannot be used."""
        self._group, self._load_point, self._found = group, load, dict[str, T]()
        self._points = sorted(entry_points(group=group), key=lambda point: (point.name, _package(point)))

    def find(self, name: str) -> T:
        """Raises KeyError for a name that is not declared, or that cannot be used."""
        for point in self._points:
            if point.name == name and name not in self._found and name not in self.failed:
                others = [other for other in self._points if other.name == name and other != point]
                try:
                    self._found[name] = self._load_point(point, others)
                except Exception as error:  # third-party code may raise anything, and must not crash ours
                    self.failed[name] = f"plug-in {_package(point)}, entry point {self._group}: {_reason(point, error)}"
                    logging.getLogger(__name__).warning("%s; it is left out", self.failed[name])
        return self._found[name]

    def usable(self) -> list[str]:
        """Names of all that can be used, each imported."""
        for point in self._points:
            with suppress(KeyError):
                self.find(point.name)
        return list(self._found)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "?"


def _reason(point: EntryPoint, error: Exception) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    return f"{point.name} = {point.value!r} fails to import: {type(error).__name__}: {error}"
