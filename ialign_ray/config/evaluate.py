"""`evaluate`: suites, and `compare`: the arms of an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.data import Scalar, Source
from ialign_ray.config.languages import ByLanguage, LanguageCode
from ialign_ray.config.section import Section


class PromptConfig(Section):
    """One way of asking."""

    name: str
    """Short name in results."""
    language: LanguageCode = "eng"
    """Language of the prompt; it chooses the label words."""
    text: str
    """The prompt; `{text}` stands for the sentence."""

    @model_validator(mode="after")
    def _has_slot(self) -> Self:
        if "{text}" not in self.text:
            raise ValueError("`text` lacks the slot {text}; put it where the sentence belongs")
        return self


class ClassificationSuite(Source):
    """Zero-shot classification by the likelihood of the label words."""

    kind: Literal["classification"] = "classification"
    """Which kind of suite this is."""
    name: str
    """Short name in results."""
    columns: ByLanguage[str]
    """Language code -> column of the text."""
    id: str | None = None
    """Column with the sentence id."""
    label: str = "label"
    """Column of the label."""
    split_column: str = "split"
    """Column that tells training from test rows."""
    train: Scalar = "train"
    """Value of `split_column` for the rows that the baselines learn from."""
    test: Scalar = "test"
    """Value of `split_column` for the rows that are scored."""
    labels: dict[str, ByLanguage[str]]
    """Label, in order from worst to best, -> the word for it in each prompt language."""
    prompts: list[PromptConfig] = Field(min_length=1)
    """Several wordings; results are given per prompt and averaged."""
    test_limit: int | None = Field(None, ge=1)
    """Score a seeded sample of this many sentences, the same in every language."""

    @model_validator(mode="after")
    def _verbalised(self) -> Self:
        for prompt in self.prompts:
            for label, words in self.labels.items():
                if prompt.language not in words:
                    raise ValueError(
                        f"label {label!r} has no word in {prompt.language!r}, which prompt {prompt.name!r} needs"
                    )
        return self


class TranslationSuite(Source):
    """Bits per byte of held-out translations, given the right and given a mismatched source."""

    kind: Literal["translation"] = "translation"
    """Which kind of suite this is."""
    name: str
    """Short name in results."""
    columns: ByLanguage[str]
    """Language code -> column."""
    id: str | None = None
    """Column with the sentence id."""
    directions: list[tuple[LanguageCode, LanguageCode]] = Field(min_length=1)
    """Pairs of languages, source first."""
    prompt: str = "Translate the following text from {source_language} to {target_language}.\n{source}"
    """The request; slots {source}, {source_language}, {target_language}."""


class InstructionSuite(Source):
    """Loss on held-out instructions: what the model still remembers of its old work."""

    kind: Literal["instructions"] = "instructions"
    """Which kind of suite this is."""
    name: str
    """Short name in results."""
    seen: bool = True
    """Whether replay holds instructions of these sources; unseen ones measure forgetting more purely."""


Suite = Annotated[ClassificationSuite | TranslationSuite | InstructionSuite, Field(discriminator="kind")]


class RetentionConfig(Section):
    """The one number that says whether old work was kept, declared before anything is measured."""

    suite: str | None = None
    """Suite that it is read from; all suites with right and wrong answers, averaged, when left out."""
    metric: str | None = None
    """Metric; the one that the kind of suite is judged by when left out."""
    group: Literal["L1", "all"] = "L1"
    """Languages that count; `all` for a suite of instructions."""
    tolerance: float | None = Field(None, ge=0)
    """Loss that still counts as retained; `evaluate.tolerance` when left out."""


class EvaluateConfig(Section):
    """What is measured after training."""

    suites: list[Suite] = Field(default_factory=list)
    """Evaluation suites; their sentences are kept out of training."""
    scorer: Literal["sum", "mean", "calibrated"] = "calibrated"
    """The scorer that the summary and the verdict use; all three are computed."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples."""
    tolerance: float = Field(0.02, ge=0)
    """Loss of old-task F1 that still counts as kept."""
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    """The declared retention number."""
    batch_tokens: int = Field(4096, ge=64)
    """Padded tokens of one scoring batch."""

    @model_validator(mode="after")
    def _retention_measured(self) -> Self:
        names = [suite.name for suite in self.suites]
        if self.retention.suite is not None and self.retention.suite not in names:
            known = ", ".join(names) or "none"
            raise ValueError(f"retention.suite is {self.retention.suite!r}, which is no suite here; use one of {known}")
        return self


class CompareConfig(Section):
    """Arms that `ialign compare` trains and evaluates side by side."""

    arms: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {
            "control": {"replay.ratio": 1.0},
            "ratio-0": {"replay.ratio": 0.0},
            "ratio-0.5": {"replay.ratio": 0.5},
        }
    )
    """Arm -> overrides; `control` is the replay-only run that the others are measured against."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Every arm runs once with each."""
