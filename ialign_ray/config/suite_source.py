"""Fields of every suite: its data, texts by language, prompts and clusters."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.data import DataSource
from ialign_ray.config.languages import ByLanguage, LanguageCode, LanguageList
from ialign_ray.config.slots import slots_of
from ialign_ray.config.suite_metrics import NEURAL, check_metric

TEXT = "text"
"""Slot of a suite with one text per row."""

Competency = Annotated[str, Field(min_length=1)]
"""Ability that a suite measures, such as understanding, reasoning, knowledge, translation or generation; the overview
of a report averages the suites of each."""

Texts = str | dict[str, str]
"""A column, or slot -> column if a row has several texts: `{premise: premise_en, hypothesis: hypothesis_en}`."""


def columns_of(texts: Texts) -> dict[str, str]:
    """Slot -> column."""
    return {TEXT: texts} if isinstance(texts, str) else texts


class PromptConfig(Section):
    """One wording of a request."""

    name: str
    """Short name in results."""
    language: LanguageCode = "eng"
    """Language of the prompt; it chooses the label words."""
    text: str
    """The prompt; `{text}` (or `{premise}` and `{hypothesis}`, as the suite's columns name them) is the
    sentence; for a translation `{source}`, `{source_language}` and `{target_language}`."""


class LongSuite(Section):
    """Layout with one language per row: one column names the language, others contain the texts."""

    language: str
    """Column that names the language."""
    text: Texts
    """Column of the text, or slot -> column."""
    values: ByLanguage[str]
    """Language code -> value in the `language` column; rows of other languages are left out."""
    join: str | list[str] | None = None
    """Column (or several) whose equal values are the same sentence in several languages; they are then resampled
    together."""

    @property
    def joins(self) -> list[str]:
        """The columns of `join`."""
        return [self.join] if isinstance(self.join, str) else self.join or []


class SuiteAbout(Section):
    """Origin of a suite's texts."""

    licence: str
    """Licence of the texts."""
    texts: Literal["native", "translated"]
    """`native` if they were written in their language: benchmarks of translated texts agree less with people, .47
    instead of .68 (Wu et al. 2025, arXiv 2504.15521)."""
    citation: str
    """Paper to cite."""
    rows: str | None = None
    """Scored rows of each language, as its paper or files say."""
    hub: str | None = None
    """Hub data set with the same rows; `id/configuration` if one configuration has all languages, otherwise each value
    of `long.values` is one."""
    splits: list[str] = Field(default_factory=lambda: ["test"])
    """Splits of the hub data set that the suite needs; of several, a row's is in the column `split`."""


class ClusteredSource(DataSource):
    """Rows of which some may depend on each other."""

    cluster: str | list[str] | None = None
    """Column (or several) whose equal values mark dependent sentences, such as those of one article or premise: they
    are resampled together, and a mismatched source never has the same value."""
    about: SuiteAbout | None = None
    """Licence, origin and citation of the texts."""
    competency: Competency | None = None
    """Ability that the suite measures, for the overview; the usual one of its kind if omitted."""
    cluster_optional: bool = False
    """Accept a file without the column, whose sentences then count as independent, as in the bundled suites; false
    makes that an error."""
    also: list[str] = Field(default_factory=list)
    """Further metrics, computed only if they are named: `comet` and `africomet` of generated texts, which need another
    Python environment, and those of installed packages."""

    @property
    def named_metrics(self) -> tuple[str, ...]:
        """Metrics that the suite names, its chief metric first."""
        chief = getattr(self, "metric", None)
        return tuple(dict.fromkeys([*([chief] if chief else []), *self.also]))

    @model_validator(mode="after")
    def _also_measured(self) -> Self:
        kind = str(getattr(self, "kind", ""))
        for name in self.also:
            check_metric(name, kind, NEURAL if kind in ("translation", "generation") else (), "also")
        return self


class SuiteSource(ClusteredSource):
    """Fields of every suite of texts in languages."""

    name: str
    """Short name in results."""
    columns: ByLanguage[Texts] = Field(default_factory=dict)
    """Language code -> column of the text, or slot -> column if a row has several texts."""
    long: LongSuite | None = None
    """Layout of files with one language per row; null for one column per language."""
    id: str | None = None
    """Column with the sentence id; the row's number if omitted."""
    languages: LanguageList | None = None
    """Languages that are measured; all that have a column if omitted."""
    grouped: bool = False
    """Measure only languages of `languages.l1`, `l2` and `l3`, as the bundled suites do."""
    test_limit: int | None = Field(None, ge=1)
    """Score a seeded sample of this many sentences, the same in every language."""

    @model_validator(mode="after")
    def _spoken(self) -> Self:
        known = self.known
        if not known:
            raise ValueError("no language has a column; name them in `columns`, or in `long`")
        if missing := [c for c in self.languages or () if c not in known]:
            raise ValueError(f"language {missing[0]!r} has no column; the suite has {', '.join(known)}")
        if self.languages == []:
            raise ValueError(f"no language is left to measure; the suite has {', '.join(known)}")
        return self

    @property
    def known(self) -> list[str]:
        """Languages with a column, in the order of the file."""
        return list(dict.fromkeys([*self.columns, *(self.long.values if self.long else {})]))

    @property
    def spoken(self) -> list[str]:
        """Languages that are measured."""
        return [c for c in self.known if self.languages is None or c in self.languages]

    @property
    def measured(self) -> set[str]:
        """Languages for which a number is reported."""
        return set(self.spoken)

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the texts of a row."""
        return tuple(columns_of(self._texts[0]))

    @property
    def text_columns(self) -> list[str]:
        """Every column with texts, including languages that are not measured: none may be trained on."""
        return list(dict.fromkeys(column for texts in self._texts for column in columns_of(texts).values()))

    @property
    def _texts(self) -> list[Texts]:
        return [*self.columns.values(), *([self.long.text] if self.long else [])]

    @model_validator(mode="after")
    def _same_slots(self) -> Self:
        for texts in self._texts:
            if tuple(columns_of(texts)) != self.slots:
                raise ValueError(
                    f"{texts!r} has other slots than {', '.join(self.slots)}; give every language the same"
                )
        return self

    def one_text(self) -> None:
        """Raise ValueError if a row has several texts."""
        if self.slots != (TEXT,):
            raise ValueError(f"a suite of kind {getattr(self, 'kind', '')!r} takes one text per row; name one column")


def check_slots(prompt: PromptConfig, needed: tuple[str, ...], allowed: tuple[str, ...] = ()) -> None:
    """Raise ValueError for a prompt without a needed slot, or with an unknown one."""
    found = slots_of(prompt.text)
    if missing := [slot for slot in needed if slot not in found]:
        raise ValueError(
            f"prompt {prompt.name!r}: `text` lacks the slot {{{missing[0]}}}; put it where the sentence belongs"
        )
    if unknown := [slot for slot in found if slot not in (*needed, *allowed)]:
        slots = ", ".join(f"{{{s}}}" for s in (*needed, *allowed))
        raise ValueError(f"prompt {prompt.name!r}: `text` has the unknown slot {{{unknown[0]}}}; use {slots}")


class PromptedSource(SuiteSource):
    """A suite whose rows are asked by prompts."""

    prompts: list[PromptConfig] = Field(min_length=1)
    """Several wordings; results are given per prompt and averaged."""
    prompt_languages: LanguageList | None = None
    """Ask only by the prompts in these languages."""

    @model_validator(mode="after")
    def _one_is_asked(self) -> Self:
        assert self.asked  # raises a ValueError without one
        return self

    @property
    def asked(self) -> list[PromptConfig]:
        """The prompts that are used.

        Raises ValueError if two prompts have one name, or no prompt is left.
        """
        names = [p.name for p in self.prompts]
        if twice := [n for n in names if names.count(n) > 1]:
            raise ValueError(f"the prompt name {twice[0]!r} is used twice; rename one")
        chosen = [p for p in self.prompts if self.prompt_languages is None or p.language in self.prompt_languages]
        if not chosen:
            have = ", ".join(dict.fromkeys(p.language for p in self.prompts))
            raise ValueError(f"no prompt is in {self.prompt_languages}; the suite's are in {have}")
        return chosen
