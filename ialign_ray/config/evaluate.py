"""`evaluate`: suites, and `compare`: the arms of an experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.bundled import expand_suites
from ialign_ray.config.contexts import ContextConfig, distinct_contexts
from ialign_ray.config.suites import Suite


def _expand(items: Any) -> Any:
    from ialign_ray.errors import ConfigError

    try:
        return expand_suites(items)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("evaluate.suites: ")) from error


class HarnessConfig(Section):
    """Tasks of lm-evaluation-harness; their texts are not known to decontamination."""

    tasks: list[str] = Field(default_factory=list)
    """Tasks or groups by the harness' names."""
    include_path: str | None = None
    """Folder with additional task files."""
    num_fewshot: int | None = Field(None, ge=0)
    """Number of few-shot examples; the task's default if omitted."""
    limit: int | None = Field(None, ge=1)
    """Score only this many first rows of each task."""


class RetentionConfig(Section):
    """The retention number, declared before anything is measured: one score that decides if old skills were kept."""

    suite: str | None = None
    """Suite that it is read from; if omitted, the average of all suites with right and wrong answers."""
    metric: str | None = None
    """Metric; the chief metric of the kind of suite if omitted."""
    group: Literal["L1", "all"] = "L1"
    """Languages that count; `all` for a suite of instructions."""
    tolerance: float | None = Field(None, ge=0)
    """Loss that still counts as retained; `evaluate.tolerance` if omitted."""


class PrimaryConfig(Section):
    """The primary comparison of an experiment, declared before anything is measured; all others are exploratory."""

    suite: str
    """Suite that it is read from."""
    metric: str | None = None
    """Metric; the chief metric of the kind of suite if omitted."""
    group: Literal["L1", "L2", "L3", "all"] = "L2"
    """Languages that count; `all` for a suite of instructions."""
    against: Literal["control", "base"] = "control"
    """Run that each arm is compared with."""


class MembershipConfig(Section):
    """Hints that the base has read a suite (Min-K% Prob, Shi et al. 2024, arXiv 2310.16789)."""

    k: float = Field(0.2, gt=0, le=1)
    """Share of a text's tokens, the least likely ones, whose log-probabilities are averaged."""
    tokens: int = Field(32, ge=8)
    """Number of first tokens of each text that are read, so that long texts do not differ for their length."""
    fresh: str | None = None
    """YAML file of sentences that the model cannot have read: `written: DATE` and `sentences: {jav: [...]}`, ten or
    more for each language. Default: our own, in English and Indonesian."""


def _switched(value: Any) -> Any:
    return {} if value is True else None if value is False else value


class EvaluateConfig(Section):
    """Suites, scorer and statistics of an evaluation."""

    suites: Annotated[list[Suite], BeforeValidator(_expand)] = Field(default_factory=list)
    """Evaluation suites; their sentences are kept out of training. Each is the name of a bundled one, the path of a
    YAML file that holds one, `{use: NAME, ...}` with some fields changed, or all its fields."""
    contexts: Annotated[list[ContextConfig], AfterValidator(distinct_contexts)] = Field(default_factory=list)
    """Exemplars, translation pairs or words before the question. Each is measured with every model on the
    classification suites, as MODEL + CONTEXT, next to the question alone."""
    lm_eval: HarnessConfig = Field(default_factory=HarnessConfig)
    """Tasks of lm-evaluation-harness, run in addition to the suites."""
    scorer: Literal["sum", "mean", "calibrated", "batch"] = "calibrated"
    """The scorer that the summary and the verdict use; all of them are computed. `batch` is relative to the mean over
    the suite's rows (Batch Calibration, Zhou et al. 2024, arXiv 2309.17249)."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples."""
    tolerance: float = Field(0.02, ge=0)
    """Loss of old-task F1 that still counts as kept."""
    retention: RetentionConfig = Field(default_factory=RetentionConfig)
    """The declared retention number."""
    primary: PrimaryConfig | None = None
    """The primary end point; report and tables mark every other comparison as exploratory."""
    seed_spread: Annotated[float, Field(ge=0)] | dict[str, Annotated[float, Field(ge=0)]] | None = None
    """Standard deviation of a score over training seeds, known from earlier runs: one number, or metric -> number. It
    is used for arms with one training seed; without it, a single seed shows nothing about a recipe."""
    membership: Annotated[MembershipConfig | None, BeforeValidator(_switched)] = None
    """Compare the base's likelihood of each suite's texts with that of fresh sentences; `true` for the defaults."""
    batch_tokens: int = Field(4096, ge=64)
    """Padded tokens of one scoring batch."""
    shard_rows: int = Field(256, ge=1)
    """Rows of similar length that are predicted and stored together; a kill loses at most one shard per replica."""
    replicas: int | None = Field(None, ge=1)
    """Model replicas that score in parallel on Ray, each with a GPU if there are any, or a share of the cores; if
    omitted, one per GPU, or only this process if there is no second GPU."""

    @model_validator(mode="after")
    def _retention_measured(self) -> Self:
        names = [suite.name for suite in self.suites]
        pools = {f"contexts.{c.name}.exemplars": c.exemplars.suite for c in self.contexts if c.exemplars}
        chosen = pools | {"retention": self.retention.suite, "primary": self.primary and self.primary.suite}
        for field, suite in chosen.items():
            if suite is not None and suite not in names:
                known = ", ".join(names) or "none"
                raise ValueError(f"{field}.suite is {suite!r}, which is not a suite here; use one of {known}")
        return self


class CompareConfig(Section):
    """Arms that `ialign compare` trains and evaluates."""

    arms: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {
            "control": {"replay.ratio": 1.0},
            "ratio-0": {"replay.ratio": 0.0},
            "ratio-0.5": {"replay.ratio": 0.5},
        }
    )
    """Arm -> overrides; `control` is the replay-only run that the others are measured against."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Training seeds; every arm runs once with each."""
