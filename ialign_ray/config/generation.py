"""Suites of generated answers: against references, or against checks that need no judge."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.data import Scalar
from ialign_ray.config.languages import ByLanguage
from ialign_ray.config.suite_metrics import NEURAL, OF_ANSWERS, OF_CHECKS, measures
from ialign_ray.config.suite_source import PromptConfig, PromptedSource, check_slots

NAMED = "language"
"""Slot of a prompt for the name of the row's language, in the prompt's language."""

References = Annotated[str | Annotated[list[str], Field(min_length=1)], Field(union_mode="left_to_right")]
"""Column with a reference or a list of references, or several columns with one reference each."""
AnswerMetric = Annotated[
    str,
    measures("generation", *OF_ANSWERS, *NEURAL),
    Field(json_schema_extra={"enum": [*OF_ANSWERS, *NEURAL]}),
]


class GenerationSuite(PromptedSource):
    """Generated answers against references: summaries, open questions, dialogue."""

    kind: Literal["generation"] = "generation"
    """Kind of the suite."""
    reference: References | ByLanguage[References] = "reference"
    """Column with the reference (text, or a list of texts that are equally right), or several columns with one each;
    language -> these if the references are in other columns for each language."""
    split_column: str | None = None
    """Column that separates test rows from others; null if all rows are test rows."""
    test: Scalar = "test"
    """Value of `split_column` for the rows that are scored."""
    prompts: list[PromptConfig] = Field(min_length=1)
    """Several wordings, with a slot for each text of a row, and `{language}` for the name of its language; results are
    given per prompt and averaged."""
    max_new_tokens: int = Field(128, ge=1)
    """The longest answer that is generated; an answer that needs more is cut, and not valid."""
    metric: AnswerMetric = "chrf"
    """Chief metric of the suite, shown first."""

    @model_validator(mode="after")
    def _asked(self) -> Self:
        for prompt in self.prompts:
            check_slots(prompt, self.slots, () if NAMED in self.slots else (NAMED,))
        if isinstance(self.reference, dict) and (missing := [c for c in self.spoken if c not in self.reference]):
            raise ValueError(f"language {missing[0]!r} has no columns in `reference`; add them")
        return self

    def references_of(self, language: str) -> list[str]:
        """Return the columns with the references of a language."""
        found = self.reference[language] if isinstance(self.reference, dict) else self.reference
        return [found] if isinstance(found, str) else found

    @property
    def text_columns(self) -> list[str]:
        """Every column with texts or references, including languages that are not measured."""
        each = list(self.reference) if isinstance(self.reference, dict) else list(self.spoken)
        return list(dict.fromkeys([*super().text_columns, *(c for code in each for c in self.references_of(code))]))


FollowingMetric = Annotated[str, measures("following", *OF_CHECKS), Field(json_schema_extra={"enum": list(OF_CHECKS)})]


class FollowingSuite(PromptedSource):
    """Instruction following: generated answers against checks that need no judge, such as length and format."""

    kind: Literal["following"] = "following"
    """Kind of the suite."""
    checks: str = "checks"
    """Column with the checks of a row: a list (also as JSON text) such as
    `[{name: words, at_least: 60}, {name: contains, text: boat}]`. Names are words, sentences, lines, paragraphs,
    bullets and placeholders (each `at_least`, `at_most` or `count`), contains, avoids, begins_with and ends_with
    (`text`), lower, upper, json, quoted, title, and language (`code`)."""
    prompts: list[PromptConfig] = Field(
        default_factory=lambda: [PromptConfig(name="default", text="{text}")], min_length=1
    )
    """Wordings around the request of a row; the request alone if omitted."""
    max_new_tokens: int = Field(256, ge=1)
    """The longest answer that is generated; a longer one is cut, and checked as it is."""
    metric: FollowingMetric = "followed"
    """Chief metric of the suite, shown first."""

    @model_validator(mode="after")
    def _asked(self) -> Self:
        for prompt in self.prompts:
            check_slots(prompt, self.slots)
        return self
