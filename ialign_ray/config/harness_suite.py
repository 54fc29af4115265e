"""Suites made of tasks of lm-evaluation-harness: the tasks, their languages and their few-shot examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.languages import ByLanguage, LanguageList
from ialign_ray.config.suite_source import Competency, SuiteAbout

Names = str | Annotated[list[str], Field(min_length=1)]
"""A task, a group, a tag or a pattern such as `belebele_*`, by the harness's names; or several of them."""
DocFields = str | list[str] | None

_CODE = re.compile(r"[a-z]{2,3}")
_SCRIPT = re.compile(r"[A-Z][a-z]{3}")


class LmEvalSuite(Section):
    """Tasks of lm-evaluation-harness as one suite with a language column; its prompts, scores and few-shot examples are
    the harness's."""

    kind: Literal["lm_eval"] = "lm_eval"
    """Kind of the suite."""
    name: str
    """Short name in results."""
    tasks: Names | ByLanguage[Names]
    """Language -> its task or tasks: `{eng: belebele_eng_Latn, jav: belebele_jav_Latn}`. Names without a language get
    the language whose code is part of the task's name, if that is only one."""
    include_path: str | None = None
    """Folder with additional task files."""
    num_fewshot: int | None = Field(None, ge=0)
    """Number of few-shot examples; the task's default if omitted."""
    seed: int = 1234
    """Seed of the few-shot examples; the default is the harness's."""
    limit: int | None = Field(None, ge=1)
    """Score only this many first rows of each task."""
    metric: str | None = None
    """Chief metric, by the harness's name (`acc_norm`, or `exact_match,flexible-extract` with a filter); it must be a
    mean over rows. The first such metric of the task's `metric_list` if omitted."""
    id: DocFields = None
    """Field (or several) of the task's rows with the sentence id, shared by its languages; the row's number if
    omitted."""
    cluster: DocFields = None
    """Field (or several) of the task's rows whose equal values mark dependent rows, such as questions of one
    passage."""
    languages: LanguageList | None = None
    """Languages that are measured; all of the tasks' languages if omitted."""
    grouped: bool = False
    """Leave out tasks of languages that are in no group, instead of refusing them."""
    competency: Competency | None = None
    """Ability that the suite measures, for the overview; `understanding` if omitted."""
    about: SuiteAbout | None = None
    """Licence, origin and citation of the texts."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.named:
            raise ValueError("tasks is empty; name a task of lm-evaluation-harness")
        return self

    @property
    def named(self) -> list[tuple[str | None, str]]:
        """Language (None: the task's name decides) and name of each task, group or pattern."""
        if isinstance(self.tasks, dict):
            return [(code, name) for code, names in self.tasks.items() for name in _listed(names)]
        return [(None, name) for name in _listed(self.tasks)]

    @property
    def named_metrics(self) -> tuple[str, ...]:
        """Metrics of installed packages that the suite names: the harness has its own."""
        return ()

    def languages_in(self, groups: Iterable[str]) -> set[str]:
        """Return the languages that are known without the harness: of groups and patterns, they are not."""
        known = list(groups)
        found = {code or code_in(name, known) for code, name in self.named}
        return {code for code in found if code and (self.languages is None or code in self.languages)}


def code_in(task: str, known: Iterable[str]) -> str | None:
    """Return the one language of `known` that a part of a task's name is a code of: `xcopa_id` -> ind.

    None if no part, or parts for several languages, are codes of known languages.
    """
    from ialign_ray.languages import tag_distance  # CLDR's tables

    found = set()
    for part in parts_of(task):
        distances: Mapping[str, int | None] = {code: tag_distance(code, part) for code in known}
        near = [code for code, distance in distances.items() if distance is not None]
        if near:
            found.add(min(near, key=lambda code: distances[code] or 0))
    return found.pop() if len(found) == 1 else None


def parts_of(task: str) -> list[str]:
    """Parts of a task's name that have the form of a language code, with their script if it follows."""
    words = re.split(r"[_\W]+", task)
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if _CODE.fullmatch(word):
            found.append(f"{word}_{after}" if _SCRIPT.fullmatch(after) else word)
    return found


def _listed(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else names
