"""The whole experiment file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.bundled import expand_suites, grouped
from ialign_ray.config.cleaning import CleaningConfig, DecontaminationConfig
from ialign_ray.config.data import CorpusConfig, ReplayConfig, TasksConfig
from ialign_ray.config.evaluate import CompareConfig, EvaluateConfig
from ialign_ray.config.languages import LanguagesConfig
from ialign_ray.config.model import ModelSettings
from ialign_ray.config.search import SearchConfig
from ialign_ray.config.serve import ServeConfig
from ialign_ray.config.suite_source import SuiteSource
from ialign_ray.config.train import ScalingConfig, TrainConfig
from ialign_ray.errors import ConfigError


class StorageConfig(Section):
    """Folders that data is read from and runs are written to."""

    data: str = "."
    """Folder that relative data paths start from; the working directory if omitted."""
    runs: str = "runs"
    """Folder of all runs; it must be shared by all nodes of a cluster."""
    cache_encoded: bool = True
    """Keep encoded examples in `encoded` in `runs`, for later epochs, resumes and other trials: about 0.5 MB for 1,000
    examples of 100 tokens, for each epoch of the pairs and once for replay."""
    corpora: str | None = None
    """Folder of built corpora and their cached steps; `corpora` in `runs` if omitted."""
    mirror: str | None = None
    """Address such as `s3://bucket/folder` that each checkpoint of `ialign align` is copied to, and from which a run
    resumes after losing its disk. Credentials come from the environment."""

    @field_validator("data", "mirror")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        if value and "://" in value and "@" in urlsplit(value).netloc:
            raise ValueError(
                "credentials in an address end up in every run's files; set them in the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        return value


class TrackingConfig(Section):
    """Curves of every run, and the registry of its versions."""

    mlflow: bool = True
    """Log to MLflow."""
    mlflow_uri: str | None = None
    """Tracking server and model registry; a SQLite file in `storage.runs` if omitted. For every command,
    MLFLOW_TRACKING_URI in the environment overrides this field, and `--registry` overrides both."""
    artifacts: str | None = None
    """Folder or `s3://` address of registered versions; `registry` in `storage.runs`, or the server's default, if
    omitted. It is fixed by a model's first registration."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run."""


VARIED = ("tasks.", "replay.", "corpora.", "train.", "model.lora.", "model.tuning", "model.vocabulary")
"""Fields that decide a run's weights; everything else is the same for all runs."""


class AblateConfig(Section):
    """Settings that `ialign ablate` trains and compares in one table."""

    axes: dict[str, list[Any]] = Field(default_factory=dict)
    """Field -> its values, e.g. `{replay.ratio: [0, 0.5], tasks.mix: [tlm, mt], "corpora.*.share": [0.1]}`."""
    one_at_a_time: bool = True
    """Vary one field and keep the file's own values for the others; false trains every combination."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Training seeds; every setting runs once with each."""

    @field_validator("axes")
    @classmethod
    def _decides_weights(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for field, values in axes.items():
            if not field.startswith(VARIED) or field == "train.seed":
                raise ValueError(f"{field!r} cannot be an axis; use fields of {', '.join(VARIED)} and `seeds`")
            if not values:
                raise ValueError(f"{field!r} has no values; list some or remove it")
        return axes


class PromotionConfig(Section):
    """Limits of the gate, declared before the scores are known, in addition to `evaluate.scorer` and
    `evaluate.tolerance`."""

    better_on: Annotated[list[str], Field(min_length=1)] | None = None
    """Suites on each of which new languages (L2) must be better; if omitted, all classification suites with such a
    language, or all translation suites if there are no such ones. On other suites they must not be shown to be
    worse."""
    loss_tolerance: float = Field(0.1, ge=0)
    """Largest acceptable rise of loss on old work: nats/token of old instructions, bits/byte of old translations. The
    verdict of an evaluation uses the same limit."""
    min_rows: int = Field(30, ge=2)
    """Fewest sentences in common for a decision."""
    least_gain: Annotated[float, Field(ge=0)] | dict[str, Annotated[float, Field(ge=0)]] = 0.0
    """The smallest gain on new languages that is worth a promotion, in the metric's unit: the interval must be above
    it. One number, or suite -> number."""
    attempts: int | None = Field(None, ge=1)
    """Number of models that will be tried on these test sentences: each may spend .05 / attempts. If omitted, attempt k
    may spend .05 * 6 / (pi^2 k^2), for any number of attempts."""


class Experiment(Section):
    """One file drives every command: model, data, training, evaluation."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the folder under `storage.runs`; letters, digits, dot, dash and underscore."""
    preset: Literal["paper"] | None = None
    """`paper` fills omitted fields with the published hyper-parameters (arXiv 2305.13627)."""
    languages: LanguagesConfig = Field(default_factory=LanguagesConfig)
    """Old, new and unseen languages."""
    model: ModelSettings
    """The base model and how it is tuned."""
    corpora: list[CorpusConfig] = Field(min_length=1)
    """Parallel corpora."""
    cleaning: CleaningConfig = Field(default_factory=CleaningConfig)
    """Cleaning of the corpora before training."""
    decontamination: DecontaminationConfig = Field(default_factory=DecontaminationConfig)
    """Search of corpora and replay for sentences of evaluation sets."""
    replay: ReplayConfig = Field(default_factory=lambda: ReplayConfig(ratio=0.0))
    """Old instructions."""
    tasks: TasksConfig = Field(default_factory=TasksConfig)
    """The mix of alignment tasks and their wording."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """Optimisation."""
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)
    """Workers."""
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    """Suites and statistics."""
    compare: CompareConfig = Field(default_factory=CompareConfig)
    """Arms and seeds of `ialign compare`."""
    promotion: PromotionConfig = Field(default_factory=PromotionConfig)
    """Limits that a candidate must meet to become the champion."""
    ablate: AblateConfig = Field(default_factory=AblateConfig)
    """Settings that `ialign ablate` varies."""
    search: SearchConfig | None = None
    """Space, budget and objective of `ialign tune`; null if nothing is searched."""
    serve: ServeConfig = Field(default_factory=ServeConfig)
    """Models and limits of `ialign serve`."""
    storage: StorageConfig = Field(default_factory=StorageConfig)
    """Paths."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    """MLflow and TensorBoard."""

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking server and registry: from the environment, the file, or SQLite in `storage.runs`.

        A folder of runs means the SQLite file in it, as for `--registry`.
        """
        named = os.environ.get("MLFLOW_TRACKING_URI") or self.tracking.mlflow_uri or self.storage.runs
        return named if "://" in named else f"sqlite:///{Path(named).absolute()}/mlflow.db"

    @property
    def served(self) -> ServeConfig:
        """The `serve` section, with a plain `champion` resolved to this experiment's champion."""
        models = [f"{self.name}@{m}" if m == "champion" else m for m in self.serve.models]
        return self.serve.model_copy(update={"models": models})

    @field_validator("evaluate", mode="before")
    @classmethod
    def _held_to_groups(cls, value: Any, info: ValidationInfo) -> Any:
        """Restrict bundled suites to the languages of the experiment."""
        languages = info.data.get("languages")
        if not isinstance(value, dict) or not isinstance(languages, LanguagesConfig):
            return value
        try:
            suites = expand_suites(value.get("suites"))
        except ConfigError:
            return value  # the section itself reports it
        held = [grouped(s, languages.groups()) for s in suites] if isinstance(suites, list) else suites
        return value if held is None else value | {"suites": held}

    @model_validator(mode="after")
    def _names_unique(self) -> Self:
        for field, names in {
            "corpora": [c.name for c in self.corpora],
            "evaluate.suites": [s.name for s in self.evaluate.suites],
        }.items():
            if twice := [n for n in names if names.count(n) > 1]:
                raise ValueError(f"{field}: the name {twice[0]!r} is used twice; rename one")
        return self

    @model_validator(mode="after")
    def _languages_grouped(self) -> Self:
        """Check that every language of a corpus is old or new; an unseen one must not get parallel text."""
        groups = self.languages.groups()
        for corpus in self.corpora:
            for code in corpus.languages:
                if code not in groups:
                    raise ValueError(
                        f"corpora.{corpus.name}: language {code!r} is in no group; add it to languages.l1 or "
                        "languages.l2"
                    )
                if groups[code] == "L3":
                    raise ValueError(
                        f"corpora.{corpus.name}: language {code!r} is unseen (languages.l3) but has a column here; "
                        "remove the column or move the language to languages.l2"
                    )
        return self

    def check_suites(self) -> None:
        """Raise ConfigError for a suite that measures a language of no group, before anything is trained for it.

        No validator, since runs that were trained under such a file still load.
        """
        from ialign_ray.languages import tag_distance  # CLDR's tables

        groups = self.languages.groups()
        for suite in self.evaluate.suites:
            for code in sorted(suite.measured - set(groups)) if isinstance(suite, SuiteSource) else ():
                near = [c for c in groups if tag_distance(c, code) is not None]
                cure = f"write {near[0]} here, as the group does" if near else "add it to l1, l2 or l3 of languages"
                raise ConfigError(
                    f"evaluate.suites.{suite.name}: language {code!r} is in no group; {cure}, or leave it out by "
                    "`languages` of the suite"
                )

    @model_validator(mode="after")
    def _promotion_measured(self) -> Self:
        measuring = [s.name for s in self.evaluate.suites if s.kind != "instructions"]
        if unknown := [n for n in self.promotion.better_on or () if n not in measuring]:
            raise ValueError(
                f"promotion.better_on: {unknown[0]!r} is not a suite that measures languages; name one of {measuring}"
            )
        return self

    @model_validator(mode="after")
    def _workers_fed(self) -> Self:
        if self.scaling.workers > self.train.batch_size:
            raise ValueError(
                f"scaling.workers is {self.scaling.workers}, but a step has only {self.train.batch_size} examples; "
                "raise train.batch_size or use fewer workers"
            )
        return self

    @model_validator(mode="after")
    def _whole_if_quantized(self) -> Self:
        if self.model.quantization and self.scaling.strategy == "fsdp":
            raise ValueError(
                f"scaling.strategy is fsdp, but weights of model.quantization {self.model.quantization} cannot be "
                "sharded over workers; set strategy to ddp, or quantization to null"
            )
        return self


PAPER: dict[str, object] = {
    # BLOOMZ rows of table 2 and appendix of arXiv 2305.13627; fp16 there, whose range needs loss scaling.
    "model": {"tuning": "full", "precision": "bf16"},
    "replay": {"ratio": 0.5, "pool_size": 100_000},
    "tasks": {"mix": "tlm"},
    "train": {
        "steps": 48_700,
        "batch_size": 32,
        "learning_rate": 1e-5,
        "warmup": 0.0,
        "schedule": "linear",
        "weighting": "tokens",
        "loss_on": "prompt_and_target",
        "max_prompt_tokens": 128,
        "max_target_tokens": 128,
    },
}
