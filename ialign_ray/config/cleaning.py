"""`cleaning` and `decontamination`: steps that parallel text goes through before training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field

from ialign_ray.config.base import Section
from ialign_ray.config.data import DataSource
from ialign_ray.config.languages import ByLanguage


class NormaliseStep(Section):
    """Normalise Unicode, and turn runs of white space into one space."""

    step: Literal["normalise"] = "normalise"
    """Name of the step."""
    form: Literal["NFC", "NFKC", "NFD", "NFKD"] = "NFC"
    """Unicode normalisation form."""


class CharactersStep(Section):
    """Remove control characters, and zero-width ones that the language's script does not need."""

    step: Literal["characters"] = "characters"
    """Name of the step."""


class EmptyStep(Section):
    """Drop texts without a letter or digit."""

    step: Literal["empty"] = "empty"
    """Name of the step."""


class IdenticalStep(Section):
    """Drop sides that equal their pivot except for case, punctuation and spacing: a copy is not a translation."""

    step: Literal["identical"] = "identical"
    """Name of the step."""


class LengthStep(Section):
    """Drop texts that are too long."""

    step: Literal["length"] = "length"
    """Name of the step."""
    max_characters: int = Field(2000, ge=1)
    """Most characters of a text."""
    max_words: int = Field(400, ge=1)
    """Most words of a text."""
    max_word_characters: int = Field(200, ge=1)
    """Most characters of a word, in languages that put spaces between words."""


class RatioStep(Section):
    """Drop sides far longer or shorter than their pivot; the usual ratio is learned from the corpus."""

    step: Literal["ratio"] = "ratio"
    """Name of the step."""
    deviations: float = Field(5.0, gt=0)
    """Largest distance of a log ratio of lengths from the pair's median, in robust standard deviations (1.4826 MAD)."""
    minimum: int = Field(100, ge=2)
    """Fewest pairs of two languages to learn from; with fewer, the step is skipped for them."""


class ScriptStep(Section):
    """Drop texts with too few letters in the language's script."""

    step: Literal["script"] = "script"
    """Name of the step."""
    minimum: float = Field(0.3, gt=0, le=1)
    """Share of letters that must be in the script. Of 38,171 good texts of FLORES-200, 21 with many Latin names are
    below 0.5 (most of them Chinese, where a letter is a syllable) and 3 below 0.3; texts in another script are near 0.
    """
    scripts: ByLanguage[list[str]] = Field(default_factory=dict)
    """Language code -> its scripts by ISO 15924 code (`Latn`, `Arab`), where they are not the usual one."""


class LanguageStep(Section):
    """Drop texts that language identification (fastText's lid.176) assigns to another language.

    The share of a language's texts that the model recognises is measured first; if it is too small, the model does not
    know the language (or the column holds another one), and the step is skipped for it with a warning.
    """

    step: Literal["language"] = "language"
    """Name of the step."""
    recognised: float = Field(0.7, ge=0, le=1)
    """Share of a language's texts that must be recognised for the check to be used on it."""
    confidence: float = Field(0.8, ge=0, le=1)
    """Probability of the other language from which a text is dropped."""
    minimum_characters: int = Field(20, ge=1)
    """Shorter texts are not judged."""


class NumbersStep(Section):
    """Drop pairs whose numbers differ."""

    step: Literal["numbers"] = "numbers"
    """Name of the step."""
    minimum: float = Field(0.5, gt=0, le=1)
    """Share of the numbers of the side with more numbers that the other side must contain too."""


class LinksStep(Section):
    """Drop pairs whose URLs and e-mail addresses differ."""

    step: Literal["links"] = "links"
    """Name of the step."""


class DuplicatesStep(Section):
    """Drop rows that repeat another row in every language, ignoring case, punctuation and spacing."""

    step: Literal["duplicates"] = "duplicates"
    """Name of the step."""


class NearDuplicatesStep(Section):
    """Drop rows that nearly repeat an earlier one (MinHash with banding, verified on the texts)."""

    step: Literal["near_duplicates"] = "near_duplicates"
    """Name of the step."""
    threshold: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of word bigrams, over all languages of a row, from which it counts as a repetition."""
    permutations: int = Field(64, ge=16, le=256)
    """Slots of a MinHash signature."""


def _named(value: Any) -> Any:
    return {"step": value} if isinstance(value, str) else value


Step = Annotated[
    NormaliseStep
    | CharactersStep
    | EmptyStep
    | IdenticalStep
    | LengthStep
    | RatioStep
    | ScriptStep
    | LanguageStep
    | NumbersStep
    | LinksStep
    | DuplicatesStep
    | NearDuplicatesStep,
    Discriminator("step"),
]


def _default_steps() -> list[Any]:
    return [
        NormaliseStep(),
        CharactersStep(),
        EmptyStep(),
        IdenticalStep(),
        LengthStep(),
        ScriptStep(),
        DuplicatesStep(),
        RatioStep(),
    ]


class CleaningConfig(Section):
    """Steps that parallel text goes through, in this order; dropped texts are counted and kept per step."""

    steps: list[Annotated[Step, BeforeValidator(_named)]] = Field(default_factory=_default_steps)
    """Names (`normalise`) or settings (`{step: length, max_words: 100}`); `[]` switches cleaning off. Known:
    normalise, characters, empty, identical, length, script, language, numbers, links, ratio, duplicates,
    near_duplicates."""

    @property
    def form(self) -> str | None:
        """Unicode form of the corpus, and so of every text that the model reads; None without `normalise`."""
        forms = [step.form for step in self.steps if isinstance(step, NormaliseStep)]
        return forms[-1] if forms else None


class ProtectedSet(DataSource):
    """A test set that is not scored here but must not be trained on either."""

    name: str
    """Short name in reports."""
    columns: list[str] = Field(min_length=1)
    """Columns that hold its texts, in whatever language."""


class DecontaminationConfig(Section):
    """Search corpora and replay for sentences of evaluation sets, in any language, and drop them from training."""

    exact: bool = True
    """Drop what equals an evaluation sentence, ignoring case, width, punctuation and spacing."""
    ngram: int = Field(5, ge=2)
    """Words of an n-gram; in scripts without spaces, characters."""
    threshold: float | None = Field(0.5, gt=0, le=1)
    """Share of an evaluation sentence's n-grams from which a text that contains them is a leak; null disables it."""
    sets: list[ProtectedSet] = Field(default_factory=list)
    """Test sets to protect in addition to the suites of `evaluate`."""
