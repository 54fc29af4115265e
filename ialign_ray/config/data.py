"""`corpora`, `replay` and `tasks`: what is learned from and in which words."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ialign_ray.config.mix import resolve_mix
from ialign_ray.config.section import Section

Scalar = str | int | float | bool


class Source(Section):
    """Rows of a file (parquet, JSONL, CSV, TSV), of a `pocket:` set, or of a hub data set."""

    path: str | None = None
    """File, relative to `storage.data`, or `pocket:parallel|sentiment|instructions`."""
    hub: str | None = None
    """Hub data set id, instead of `path`; `id/config` and `id@revision` are understood."""
    split: str = "train"
    """Split of a hub data set."""
    where: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    """Keep only rows whose column equals the value (or one of the values)."""
    limit: int | None = Field(None, ge=1)
    """Keep a seeded sample of this many rows at most."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` and `hub`")
        return self

    @property
    def origin(self) -> str:
        """The path or hub id, for messages."""
        return self.path or f"hub:{self.hub}"


class CorpusConfig(Source):
    """A parallel corpus: one row a sentence, one column a language."""

    name: str = Field(pattern=r"^[^:/]+$")
    """Short name without colon or slash; it prefixes sentence ids and names the source in curves."""
    columns: dict[str, str]
    """Language code -> column, two languages at least."""
    id: str | None = None
    """Column with the sentence id; without it the text of the first language identifies the sentence."""
    pivots: list[str] = Field(default_factory=lambda: ["eng"])
    """L1 languages that the others are paired with, in both directions."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """Share of sentence ids kept from training, over all languages and directions at once."""

    @field_validator("columns")
    @classmethod
    def _two_languages(cls, value: dict[str, str]) -> dict[str, str]:
        if len(value) < 2:
            raise ValueError("a parallel corpus needs two languages at least")
        return value

    @model_validator(mode="after")
    def _pivot_present(self) -> Self:
        if missing := [p for p in self.pivots if p not in self.columns]:
            raise ValueError(f"pivot {missing[0]!r} has no column; name it in `columns` or choose another pivot")
        return self


class ReplayConfig(Section):
    """Old instructions, replayed so that they are not forgotten."""

    sources: list[Source] = Field(default_factory=list)
    """Instruction files: `inputs`/`targets`, `prompt`/`completion` or `messages`."""
    ratio: float = Field(0.5, ge=0, le=1)
    """The dose: share of training examples that are replay, from 0 to 1; 1 is the replay-only control."""
    pool_size: int | None = Field(None, ge=1)
    """The diversity: number of distinct replay examples; all of them when left out."""

    @model_validator(mode="after")
    def _has_sources(self) -> Self:
        if self.ratio > 0 and not self.sources:
            raise ValueError("`ratio` is above 0 but `sources` is empty; name an instruction file or set ratio: 0")
        return self


class TasksConfig(Section):
    """The continual instruction-tuning tasks (InstructAlign, arXiv 2305.13627, section 3)."""

    mix: str | dict[str, float] = "pair"
    """A named mix (`mlm`, `tlm`, `mt`, `xss`, `pair`, `random`, each also with `-xss`) or weights per task."""
    templates: list[str] = Field(default_factory=lambda: ["eng"], min_length=1)
    """Template sets: `eng`, `ind`, or paths of your own YAML files."""
    directions: Literal["both", "from-pivot", "to-pivot"] = "both"
    """Which way a pivot and a new language are paired."""

    @field_validator("mix")
    @classmethod
    def _known_mix(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        from ialign_ray.errors import ConfigError

        try:
            resolve_mix(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value
