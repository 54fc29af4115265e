"""Template sets as data files, validated when read, filled in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ialign_ray.config import Experiment
from ialign_ray.config.base import parse_yaml
from ialign_ray.config.slots import BRACES, find_slots, slots_of
from ialign_ray.config.tasks import resolve_mix
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.languages import display_name
from ialign_ray.tasks.alignment import FALLBACK, TASKS

MOST_CHARACTERS = 10_000_000
"""Longest text that `fill` returns."""


class Template(BaseModel):
    """One wording of a task."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    input: str


class TemplateSet(BaseModel):
    """All wordings in one language. In files and saved plans each task is a key of the set itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    """Short name, the first part of a template's name in records."""
    language: str
    """Language of the wording and of the names of languages in it."""
    answers: dict[bool, str]
    """The words for yes (true) and no (false)."""
    tasks: dict[str, Annotated[list[Template], Field(min_length=1)]]
    """Task -> its templates; a set need not have all tasks."""

    @model_validator(mode="before")
    @classmethod
    def _gather_tasks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = {key: value for key, value in data.items() if key in ("name", "language", "answers")}
        return own | {"tasks": {key: value for key, value in data.items() if key not in own}}

    @model_serializer(mode="wrap")
    def _spread_tasks(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = plain(self)
        tasks: dict[str, Any] = fields.pop("tasks")
        return fields | tasks

    @model_validator(mode="after")
    def _slots(self) -> Self:
        seen: set[str] = set()
        for task, templates in self.tasks.items():
            try:
                declared = TASKS.find(task, "key")
            except ConfigError as error:
                raise ValueError(str(error)) from error
            required, known = declared.text_slots, (*declared.text_slots, *declared.name_slots)
            for template in templates:
                where = f"template {template.id!r} ({task})"
                if template.id in seen:
                    raise ValueError(f"{where}: the id is used twice; rename one")
                seen.add(template.id)
                slots_of(template.input)  # refuses too many of them
                slots = BRACES.findall(template.input)
                for slot in required:
                    if slots.count(slot) != 1:
                        raise ValueError(f"{where} needs the slot {{{slot}}} exactly once")
                for slot in slots:
                    if slot not in known:
                        raise ValueError(f"{where} has an unknown slot {{{slot}}}; use {_listed(known)}")
        if set(self.answers) != {True, False}:
            raise ValueError("answers needs a word for both true and false")
        return self


def load_templates(name: str) -> TemplateSet:
    """Read the bundled set `eng` or `ind`, or a YAML file of the same shape by path.

    Raises ConfigError with file, template and slot.
    """
    bundled = Path(__file__).parent / "templates" / f"{name}.yaml"
    file = bundled if bundled.exists() else Path(name)
    try:
        return template_set(parse_yaml(file.read_text(encoding="utf-8")), f"template file {file}")
    except FileNotFoundError as error:
        have = ", ".join(sorted(p.stem for p in bundled.parent.glob("*.yaml")))
        raise ConfigError(f"tasks.templates: {name!r} is neither a file nor one of {have}") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"template file {file} cannot be read as YAML in UTF-8: {error}") from error


def template_set(data: Any, origin: str) -> TemplateSet:
    """Validate plain data as a template set. Raises ConfigError with `origin`, template and slot."""
    try:
        return TemplateSet.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_sentence(error.errors()[0])}") from error


def experiment_templates(experiment: Experiment) -> list[TemplateSet]:
    """Read the template sets of an experiment and add default templates of tasks that they lack.

    Raises ConfigError for a task in `tasks.mix` that is not known, or that a set has no templates for.
    """
    mixes = _mixes(experiment)
    for task in dict.fromkeys(task for mix in mixes for task in ([] if isinstance(mix, str) else mix)):
        TASKS.find(task, "a task of tasks.mix")
    # in order and once each, so that one experiment always gives the same plan
    drawn = dict.fromkeys([*(task for mix in mixes for task in resolve_mix(mix)), FALLBACK])
    return [_completed(load_templates(name), list(drawn), name) for name in experiment.tasks.templates]


def _mixes(experiment: Experiment) -> list[str | dict[str, float]]:
    """The experiment's mix, and those that its search may choose, since trials share the template sets of one plan."""
    mixes = [experiment.tasks.mix]
    for name, domain in (experiment.search.space if experiment.search else {}).items():
        if name == "tasks.mix":
            mixes += domain.values or []
        elif name.startswith("tasks.mix."):
            mixes.append({name.removeprefix("tasks.mix."): 1.0})
    return mixes


def _completed(own: TemplateSet, tasks: list[str], name: str) -> TemplateSet:
    """The set with default templates of the tasks that it lacks."""
    plain = own.model_dump()
    for task in tasks:
        if task in own.tasks:
            continue
        if own.language not in TASKS[task].templates:
            cure = f"template file {name} has no templates for it; add the key {task} to the file"
            if task == FALLBACK:
                raise ConfigError(f"tasks.mix needs {task!r} for pairs that another task cannot use, but {cure}")
            raise ConfigError(f"tasks.mix has {task!r}, but {cure}, or remove the task from the mix")
        plain[task] = [{"id": i, "input": text} for i, text in TASKS[task].templates[own.language].items()]
    return template_set(plain, f"template file {name} with the default templates of its tasks")


def _sentence(error: Any) -> str:
    field = ".".join(str(p) for p in error["loc"]).removeprefix("tasks.") or "the file"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"unknown key {field}; remove it, or see eng.yaml of the package for the shape"
    if error["type"] == "missing":
        return f"{field} is missing; add it as in eng.yaml of the package"
    if isinstance(error["input"], bool):
        return f"{field} is {error['input']}, since YAML reads bare yes and no so; put the word in quotes"
    return f"{field} is {error['input']!r}; {str(error['msg'])[:1].lower()}{str(error['msg'])[1:]}"


def fill(
    text: str, sentences: Mapping[str, str], names: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Fill all slots in one pass; return the text and the character ranges of the sentences in it.

    One pass means that a sentence that contains `{source}` is not changed.

    Raises:
        DataError: an unknown slot, or more than `MOST_CHARACTERS`, which are counted before the text is made.
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    at, length = 0, 0

    def add(part: str) -> None:
        nonlocal length
        parts.append(part)
        length += len(part)
        if length > MOST_CHARACTERS:
            raise DataError(
                f"a prompt with its texts has more than {MOST_CHARACTERS:,} characters; shorten the text, or use its "
                "slot fewer times"
            )

    for slot in find_slots(text):
        add(text[at : slot.start()])
        at = slot.end()
        if slot[1] in sentences:
            spans.append((length, length + len(sentences[slot[1]])))
            add(sentences[slot[1]])
        elif slot[1] in names:
            add(names[slot[1]])
        else:
            known = _listed({**sentences, **names}) or "none"
            raise DataError(f"there is no text for the slot {{{slot[1][:64]}}} of the prompt; the slots are {known}")
    add(text[at:])
    return "".join(parts), tuple(spans)


def _listed(slots: Iterable[str]) -> str:
    return ", ".join(f"{{{slot}}}" for slot in slots)


def language_names(experiment: Experiment, templates: list[TemplateSet]) -> dict[str, dict[str, str]]:
    """Template language -> language code -> name. Raises ConfigError for a code without a name."""
    codes = {c for corpus in experiment.corpora for c in corpus.languages}
    overrides = experiment.languages.names
    return {t.language: {c: display_name(c, t.language, overrides) for c in sorted(codes)} for t in templates}
