"""Suites by name: the bundled files, the user's YAML files, or either with some fields changed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ialign_ray.config.base import parse_yaml
from ialign_ray.errors import ConfigError

_FOLDER = Path(__file__).parent / "suite_files"


def bundled_names() -> list[str]:
    """Names of the bundled suites, in alphabetical order."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def expand_suites(items: Any) -> Any:
    """Replace names, paths and `use:` in `evaluate.suites` by the contents of their files; keep the rest.

    `use` takes a bundled name or the path of a YAML file, as a plain string does; fields next to it replace the file's,
    and a suite that is used twice needs another `name`. Raises `ConfigError` for an unknown name or a file without a
    suite.
    """
    return [_expanded(item) for item in items] if isinstance(items, list) else items


def grouped(suite: Any, groups: Mapping[str, str]) -> Any:
    """Restrict `languages` of a suite with `grouped: true` to languages in a group; return other suites unchanged."""
    if not isinstance(suite, dict) or suite.get("grouped") is not True or not groups:
        return suite
    long = suite.get("long")
    known = [*_keys(suite.get("columns")), *_keys(long.get("values") if isinstance(long, dict) else None)]
    chosen = suite.get("languages") or list(dict.fromkeys(known))
    return suite | {"languages": [code for code in chosen if _canonical(code) in groups]}


def _expanded(item: Any) -> Any:
    if isinstance(item, str):
        return dict(_read(item))
    if not isinstance(item, dict) or "use" not in item:
        return item
    changes = {key: value for key, value in item.items() if key != "use"}
    if not isinstance(item["use"], str):
        raise ConfigError(f"evaluate.suites: use is {item['use']!r}; name a bundled suite or a YAML file")
    # a list that the user wrote is not changed
    chosen: dict[str, Any] = {"grouped": False} if "languages" in changes else {}
    if "cluster" in changes:
        chosen["cluster_optional"] = False  # a column that the user named must exist
    return _read(item["use"]) | chosen | changes


@lru_cache(maxsize=64)
def _stored(file: str, changed: float) -> dict[str, Any]:
    try:
        data = parse_yaml(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"suite file {file} cannot be read as YAML in UTF-8: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(data, dict) or "suites" in data:
        raise ConfigError(f"suite file {file} contains no suite; start with `kind:`, `name:` and `path:`")
    return {str(key): value for key, value in data.items()}


def _read(name: str) -> dict[str, Any]:
    file = _FOLDER / f"{name}.yaml" if name in bundled_names() else Path(name)
    if not file.is_file():
        close = difflib.get_close_matches(name, bundled_names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; bundled are {', '.join(bundled_names())}"
        raise ConfigError(f"evaluate.suites: {name!r} is neither a bundled suite nor a YAML file{hint}")
    # modification time in the key, so that a changed file is read again
    found = _stored(str(file), file.stat().st_mtime)
    return {"name": file.stem} | found


def _keys(mapping: Any) -> list[Any]:
    return list(mapping) if isinstance(mapping, dict) else []


def _canonical(code: Any) -> str:
    from ialign_ray.languages import canonical

    try:
        return canonical(code) if isinstance(code, str) else ""
    except ConfigError:
        return ""
