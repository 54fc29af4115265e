"""Template sets as data files, checked when read, filled in one pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ialign_ray.config import Experiment
from ialign_ray.errors import ConfigError
from ialign_ray.languages import display_name

TEXT_SLOTS = {"mlm": ("source",), "tlm": ("source", "context"), "mt": ("source",), "xss": ("first", "second")}
"""Slots that a task's templates must have: they hold sentences, which may be shortened."""
NAME_SLOTS = {
    "mlm": ("language",),
    "tlm": ("language", "context_language"),
    "mt": ("source_language", "target_language"),
    "xss": ("first_language", "second_language"),
}
"""Slots that a template may have: they hold names of languages."""

_SLOT = re.compile(r"\{([^{}]*)\}")


class Template(BaseModel):
    """One wording of a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    input: str


class TemplateSet(BaseModel):
    """All wordings in one language."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    """Short name, the first part of a template's name in records."""
    language: str
    """Language of the wording, which names of languages are given in."""
    answers: dict[bool, str]
    """The words for yes (true) and no (false)."""
    mlm: list[Template] = Field(min_length=1)
    tlm: list[Template] = Field(min_length=1)
    mt: list[Template] = Field(min_length=1)
    xss: list[Template] = Field(min_length=1)

    @model_validator(mode="after")
    def _slots(self) -> Self:
        seen: set[str] = set()
        for task, required in TEXT_SLOTS.items():
            for template in getattr(self, task):
                where = f"template {template.id!r} ({task})"
                if template.id in seen:
                    raise ValueError(f"{where}: the id is used twice; give each template its own")
                seen.add(template.id)
                slots = _SLOT.findall(template.input)
                for slot in required:
                    if slots.count(slot) != 1:
                        raise ValueError(f"{where} needs the slot {{{slot}}} exactly once")
                for slot in slots:
                    if slot not in (*required, *NAME_SLOTS[task]):
                        known = ", ".join(f"{{{s}}}" for s in (*required, *NAME_SLOTS[task]))
                        raise ValueError(f"{where} has an unknown slot {{{slot}}}; use {known}")
        if set(self.answers) != {True, False}:
            raise ValueError("answers needs a word for both true and false")
        return self


def load_templates(name: str) -> TemplateSet:
    """The set `eng` or `ind` of the package, or a YAML file of the same shape by path.

    Raises ConfigError with file, template and slot.
    """
    bundled = Path(__file__).parent / "templates" / f"{name}.yaml"
    file = bundled if bundled.exists() else Path(name)
    try:
        return TemplateSet.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        have = ", ".join(sorted(p.stem for p in bundled.parent.glob("*.yaml")))
        raise ConfigError(f"tasks.templates: {name!r} is neither a file nor one of {have}") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"template file {file} cannot be read as YAML in UTF-8: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"template file {file}: {_sentence(error.errors()[0])}") from error


def _sentence(error: Any) -> str:
    field = ".".join(str(p) for p in error["loc"]) or "the file"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"unknown key {field}; remove it, or see eng.yaml of the package for the shape"
    if error["type"] == "missing":
        return f"{field} is missing; add it as in eng.yaml of the package"
    if isinstance(error["input"], bool):
        return f"{field} is {error['input']}, since YAML reads bare yes and no so; put the word in quotes"
    return f"{field} is {error['input']!r}; {str(error['msg'])[:1].lower()}{str(error['msg'])[1:]}"


def fill(text: str, sentences: Mapping[str, str], names: Mapping[str, str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Fill all slots in one pass; also the character ranges of the sentences in the result.

    One pass means that a sentence which itself contains `{source}` stays as it is.
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    at, length = 0, 0

    def add(part: str) -> None:
        nonlocal length
        parts.append(part)
        length += len(part)

    for slot in _SLOT.finditer(text):
        add(text[at : slot.start()])
        at = slot.end()
        if slot[1] in sentences:
            spans.append((length, length + len(sentences[slot[1]])))
            add(sentences[slot[1]])
        else:
            add(names[slot[1]])
    add(text[at:])
    return "".join(parts), tuple(spans)


def language_names(experiment: Experiment, templates: list[TemplateSet]) -> dict[str, dict[str, str]]:
    """Template language -> code -> name; raises ConfigError for a code without a name."""
    codes = {c for corpus in experiment.corpora for c in corpus.languages}
    overrides = experiment.languages.names
    return {t.language: {c: display_name(c, t.language, overrides) for c in sorted(codes)} for t in templates}
