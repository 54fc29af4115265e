"""Loading an `Experiment` from YAML and `--set` overrides; each fault is reported in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ialign_ray.config.adjacent import use_adjacent_files
from ialign_ray.config.base import parse_yaml
from ialign_ray.config.bundled import expand_suites
from ialign_ray.config.experiment import PAPER, Experiment
from ialign_ray.config.serve import ServeConfig
from ialign_ray.config.suites import KINDS
from ialign_ray.errors import ConfigError


def load_experiment(path: str | Path, overrides: Iterable[str] = (), *, stored: bool = False) -> Experiment:
    """Read an experiment file and apply `section.field=value` overrides (values are YAML).

    Relative paths of suites and data are those of files next to the experiment, if there are such files; not in the
    `stored` experiment of a run, whose paths are those that were used.
    Raises ConfigError with one sentence per wrong field.
    """
    file = Path(path)
    data = _read(file)
    if isinstance(data.get("evaluate"), dict) and "suites" in data["evaluate"]:
        # so that overrides find their fields
        suites = data["evaluate"]["suites"]
        data["evaluate"]["suites"] = expand_suites(suites, None if stored else file.parent)
    _apply(data, overrides)
    if not stored:
        use_adjacent_files(data, file.parent)
    return build_experiment(data, str(file))


def build_experiment(data: Mapping[str, Any], origin: str) -> Experiment:
    """Validate plain data; `origin` names it in messages."""
    filled = _under(PAPER, data) if data.get("preset") == "paper" else dict(data)
    try:
        return Experiment.model_validate(filled)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(origin, e) for e in error.errors()[:3])) from error


def serve_settings(overrides: Iterable[str] = (), data: Mapping[str, Any] | None = None) -> ServeConfig:
    """Load `serve` without an experiment: defaults, or plain data from an application file, with overrides.

    Raises ConfigError as `load_experiment` does, and for overrides of other sections, which need an experiment.
    """
    whole: dict[str, Any] = {"serve": dict(data or {})}
    _apply(whole, overrides)
    if others := sorted(set(whole) - {"serve"}):
        raise ConfigError(f"--set {others[0]}: only serve.* can be set without an experiment file; name one")
    try:
        return ServeConfig.model_validate(whole["serve"])
    except ValidationError as error:
        found = [{**e, "loc": ("serve", *e["loc"])} for e in error.errors()[:3]]
        raise ConfigError("; ".join(_sentence("the deployment", e) for e in found)) from error


def override(experiment: Experiment, changes: Mapping[str, Any]) -> Experiment:
    """Return a validated copy with dotted fields changed."""
    data = experiment.model_dump(mode="json")
    for key, value in changes.items():
        set_value(data, key, value)
    return build_experiment(data, f"experiment {experiment.name!r}")


def set_value(data: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.0.c` in nested dicts and lists; items of a list are addressed by number, by name, or all by `*`."""
    before, star, after = key.partition(".*.")
    if star:
        items: Any = data
        for part in before.split("."):
            items = items.get(part) if isinstance(items, dict) else None
        if not isinstance(items, list):
            raise ConfigError(f"--set {key}: {before} is not a list; leave `*` out")
        for number in range(len(items)):
            set_value(data, f"{before}.{number}.{after}", value)
        return
    *path, last = key.split(".")
    node: Any = data
    for depth, part in enumerate(path):
        where = ".".join(path[: depth + 1])
        node = node[_position(node, part, where)] if isinstance(node, list) else node.setdefault(part, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {key}: {where} is a plain value and has no field {last!r}")
    if isinstance(node, list):
        node[_position(node, last, key)] = value
    else:
        node[last] = value


def dump_yaml(experiment: Experiment) -> str:
    """Return the resolved experiment as YAML; loading it gives the same experiment."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the experiment file, for editors."""
    return Experiment.model_json_schema()


def _apply(data: dict[str, Any], overrides: Iterable[str]) -> None:
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"--set {override!r} is not of the form section.field=value")
        try:
            set_value(data, key, parse_yaml(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override!r}: the value is not valid YAML ({_line(error)})") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{file} does not exist; name an experiment file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{file} is a folder; name the experiment file in it") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file} contains no sections; start with `name:` and `model:`")
    return data


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "cannot be parsed"
    return f"{problem} at line {mark.line + 1}" if mark else str(problem)


def _under(defaults: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    for key, value in data.items():
        below = merged.get(key)
        merged[key] = _under(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _position(items: list[Any], part: str, where: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [i.get("name") if isinstance(i, dict) else None for i in items]
    if part in names:
        return names.index(part)
    raise ConfigError(f"--set {where}: no item {part!r}; use a number below {len(items)} or a name: {names}")


def _sentence(origin: str, error: Any) -> str:
    # pydantic's path includes the kind of a suite, which is not a key of the file
    path = error["loc"]
    loc = [p for k, p in enumerate(path) if not (p in KINDS and k and isinstance(path[k - 1], int))]
    if loc[-1:] == ["[key]"]:  # the key itself is wrong; the message quotes it
        loc = loc[:-2]
    field = ".".join(str(p) for p in loc) or "the file"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if error["type"] == "extra_forbidden":
        return f"{origin}: unknown key {field}{_similar(loc)}"
    if error["type"] == "missing":
        return f"{origin}: {field} is missing; add it"
    if error["type"] == "value_error":
        return f"{origin}: {field}: {message}" if loc else f"{origin}: {message}"
    doc = _documentation(loc)
    return f"{origin}: {field} is {error['input']!r}, but {message}" + (f" ({doc})" if doc else "")


def _models(loc: list[Any]) -> tuple[type[BaseModel] | None, str]:
    """Find the model that has the last part of a location as a field, by walking the annotations."""
    model: type[BaseModel] | None = Experiment
    for part in loc[:-1]:
        if isinstance(part, int) or model is None:
            continue
        info = model.model_fields.get(str(part))
        model = next((m for m in _inside(info.annotation) if issubclass(m, BaseModel)), None) if info else None
    return model, str(loc[-1]) if loc else ""


def _inside(annotation: Any) -> list[type]:
    args = getattr(annotation, "__args__", ())
    found = [t for a in args for t in _inside(a)]
    return [annotation] if isinstance(annotation, type) and not args else found


def _similar(loc: list[Any]) -> str:
    model, name = _models(loc)
    close = difflib.get_close_matches(name, list(model.model_fields) if model else [], n=1)
    return f"; did you mean {close[0]!r}?" if close else "; remove it, or see `ialign schema`"


def _documentation(loc: list[Any]) -> str:
    model, name = _models(loc)
    info = model.model_fields.get(name) if model else None
    return " ".join((info.description or "").split()).rstrip(".") if info else ""  # a sentence is one line
