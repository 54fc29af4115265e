"""Base class of the sections of the experiment file, and the reader of YAML."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the experiment file: unknown keys are refused, and the docstring under a field documents it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)


def parse_yaml(text: str) -> Any:
    """Plain data of a YAML text. Raises yaml.YAMLError, also for a key that occurs twice in a mapping."""
    return yaml.load(text, _UniqueKeys)  # a SafeLoader


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader keeps the last value of a key that occurs twice, silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = self.construct_object(key), key.start_mark.line + 1
            if name in lines:
                problem = f"key {name!r} is given twice, at lines {lines[name]} and {line}; keep one"
                raise yaml.MarkedYAMLError(problem=problem)
            lines[name] = line
        return super().construct_mapping(node, deep)
