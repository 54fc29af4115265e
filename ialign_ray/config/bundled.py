"""Suites by name: the bundled files, the user's YAML files, or either with some fields changed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
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


def expand_suites(items: Any, folder: Path | None = None) -> Any:
    """Replace names, paths and `use:` in `evaluate.suites` by the contents of their files; keep the rest.

    `use` takes a bundled name or the path of a YAML file, as a plain string does; fields next to it replace the file's,
    and a suite that is used twice needs another `name`. A file is searched for in `folder`, then in the working
    directory. Raises `ConfigError` for an unknown name or a file without a
    suite.
    """
    return [_expanded(item, folder or Path()) for item in items] if isinstance(items, list) else items


def grouped(suite: Any, groups: Mapping[str, str]) -> Any:
    """Restrict `languages` of a suite with `grouped: true` to languages in a group; return other suites unchanged.

    A macro-language and its usual member (`swa` and `swh`) are one: the suite takes the group's code.
    """
    if not isinstance(suite, dict) or suite.get("grouped") is not True or not groups or suite.get("kind") == "lm_eval":
        return suite  # languages of the harness's tasks are known only to the harness
    long: dict[str, Any] = suite["long"] if isinstance(suite.get("long"), dict) else {}
    known = list(dict.fromkeys([*_keys(suite.get("columns")), *_keys(long.get("values"))]))
    codes = {code: _of_group(code, groups, known) for code in known}
    renamed = {
        key: _renamed(suite[key], codes) for key in ("columns", "languages", "directions", "pivot") if key in suite
    }
    if isinstance(suite.get("choices"), dict):
        renamed["choices"] = _renamed(suite["choices"], codes)
    if long:
        renamed["long"] = long | {"values": _renamed(long.get("values"), codes)}
    chosen = renamed.get("languages") or list(codes.values())
    return suite | renamed | {"languages": [code for code in chosen if _canonical(code) in groups]}


def _of_group(code: Any, groups: Mapping[str, str], known: Sequence[Any]) -> Any:
    """The group's code for a suite's language; the suite's own if no group has it under another."""
    from ialign_ray.languages import LAST_RESORT, tag_distance

    have = {_canonical(c) for c in known}
    if not isinstance(code, str) or _canonical(code) in groups:
        return code
    return next((c for c in groups if c not in have and tag_distance(c, code) == LAST_RESORT), code)


def _renamed(value: Any, codes: Mapping[Any, Any]) -> Any:
    """A setting with the codes of languages replaced, at any depth; columns of a language are left."""
    if isinstance(value, dict):
        return {codes.get(code, code): below for code, below in value.items()}
    if isinstance(value, list):
        return [_renamed(item, codes) for item in value]
    return codes.get(value, value)


def _expanded(item: Any, folder: Path) -> Any:
    if isinstance(item, str):
        return dict(_read(item, folder))
    if not isinstance(item, dict) or "use" not in item:
        return item
    changes = {key: value for key, value in item.items() if key != "use"}
    if not isinstance(item["use"], str):
        raise ConfigError(f"evaluate.suites: use is {item['use']!r}; name a bundled suite or a YAML file")
    # a list that the user wrote is not changed
    chosen: dict[str, Any] = {"grouped": False} if "languages" in changes else {}
    if "cluster" in changes:
        chosen["cluster_optional"] = False  # a column that the user named must exist
    return _read(item["use"], folder) | chosen | changes


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


def _read(name: str, folder: Path) -> dict[str, Any]:
    own = (folder / name).expanduser()
    file = _FOLDER / f"{name}.yaml" if name in bundled_names() else own if own.is_file() else Path(name)
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
