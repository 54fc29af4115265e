"""Sections `corpora`, `replay` and `tasks`: the training data and its wording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.languages import ByLanguage, LanguageList
from ialign_ray.config.slots import slots_of
from ialign_ray.config.tasks import resolve_mix

Scalar = str | int | float | bool


def _column(value: Any) -> Any:
    """Return a whole number as text: the columns of a file without a header row are numbered."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _named_columns(value: Any) -> Any:
    return {_column(key): item for key, item in value.items()} if isinstance(value, Mapping) else value


def _or_none(value: Any) -> Any:
    """Return the text `none` for an empty value: YAML reads `quote: null` and `quote:` as one."""
    return "none" if value is None or value == "" else value


def _joined_value(value: Any) -> Any:
    """Return the values of several columns as one."""
    return "_".join(map(str, value)) if isinstance(value, list) else value


Column = Annotated[str, BeforeValidator(_column)]
"""Name of a column; in nested data a path such as `translation.en` or `srcs.0`, where no column has that very name."""


class DataSource(Section):
    """Rows of files in any of the known formats, of a `pocket:` set, or of a hub data set."""

    path: str | None = None
    """File, glob or folder, local (relative to `storage.data`) or a URL such as `s3://bucket/key`; `{language}` is the
    part of the name that depends on the language (`dev/{language}.dev`); or
    `pocket:parallel|sentiment|instructions|following`."""
    hub: str | None = None
    """Hub data set id, instead of `path`; `id/config` and `id@revision` are understood."""
    split: str = "train"
    """Split of a hub data set."""
    format: str = "auto"
    """Format of the files: `auto` decides by their names; otherwise `parquet`, `jsonl`, `csv`, `tsv`, `tmx`, `xliff`,
    `po`, `sheet`, or one that an installed plug-in adds. `lines` is one text file per language, aligned line by line
    (Moses, FLORES); `articles` the same with blank lines between articles; `disk` a saved `datasets` folder."""
    text: Column = "text"
    """Column of the text in files of one language each, such as `{language}.jsonl`; their rows are joined by `id`, or
    by their place in the file."""
    encoding: str = "utf-8"
    """Encoding of text files, as Python names it."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """`refuse` stops at a malformed row with its file and line; `drop` drops and counts it."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """Character between the fields of a `csv` or `tsv` file; if omitted a tab for `tsv`, and for `csv` whichever of
    comma, semicolon and tab divides its first rows."""
    quote: Annotated[str, BeforeValidator(_or_none)] = "auto"
    """Character around fields of a `csv` or `tsv` file that hold a delimiter or a line end; `none` where a quotation
    mark is part of the text. `auto` is `none` for fields divided by tabs, and `"` for others."""
    header: Annotated[int, Field(ge=1)] | Literal["none"] = 1
    """Line of a `csv`, `tsv` or `sheet` file that names the columns; `none` if no line does: the columns are then
    called 1, 2, 3 and so on."""
    sheet: int | str = 1
    """Sheet of a spreadsheet, by its number or its name."""
    links: str | None = None
    """Table of the links between sentences, a path like `path`, for the format `tatoeba`."""
    where: Annotated[dict[str, Scalar | list[Scalar]], BeforeValidator(_named_columns)] = Field(default_factory=dict)
    """Keep only rows whose column equals the value (or one of the values)."""
    limit: int | None = Field(None, ge=1)
    """Keep a seeded sample of at most this many rows."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of `path` and `hub`")
        return self

    @field_validator("header", mode="before")
    @classmethod
    def _no_header(cls, value: Any) -> Any:
        return _or_none(value)

    @model_validator(mode="after")
    def _marks_differ(self) -> Self:
        for name, mark in (("delimiter", self.delimiter), ("quote", self.quote)):
            if mark in {None, "auto", "none"}:
                continue
            if len(str(mark)) != 1 or not str(mark).isascii() or str(mark) in "\r\n\0":
                raise ValueError(f"{name} is {mark!r}; give one ASCII character that is not a line end")
        if self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote are both {self.quote!r}; they must differ")
        return self

    @property
    def origin(self) -> str:
        """The path or hub id, for messages."""
        return self.path or f"hub:{self.hub}"


class LongLayout(Section):
    """Layout with one language per row: one column names the language, another contains the text."""

    language: Column | list[Column]
    """Column that names the language, or several whose values together do: `[iso_639_3, iso_15924]`."""
    text: Column
    """Column of the text."""
    values: ByLanguage[Annotated[str, BeforeValidator(_joined_value)]]
    """Language code -> value in the `language` column; of several columns a list of values, or these joined by `_`
    (`ace_Arab`). Rows of other languages are left out."""
    join: Column | None = None
    """Column (an article's number, a sentence's id) whose equal values make one row of several languages; without it
    each row is a pair with the corpus' `columns`."""

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: dict[str, str]) -> dict[str, str]:
        for code, value in values.items():
            if twice := [c for c, v in values.items() if v == value and c != code]:
                raise ValueError(
                    f"{code} and {twice[0]} have the same value {value!r}; if another column separates them, name both "
                    "columns in `language`, as in [iso_639_3, iso_15924]"
                )
        return values

    @property
    def languages(self) -> list[str]:
        """The columns that name the language."""
        return [self.language] if isinstance(self.language, str) else self.language


class CorpusConfig(DataSource):
    """A parallel corpus: one row per sentence, one column per language."""

    name: str = Field(pattern=r"^[^:/]+$")
    """Short name without colon or slash; it prefixes sentence ids and names the source in curves."""
    columns: ByLanguage[Column] = Field(default_factory=dict)
    """Language code -> column (or file name part, or `xml:lang` of a TMX file); at least two languages."""
    long: LongLayout | None = None
    """Layout of files with one language per row; null for one column per language."""
    units: bool = False
    """Split texts at line feeds into smaller pairs if all languages of a row have the same number of lines."""
    id: Column | None = None
    """Column with the sentence id; without it the text of the first language identifies the sentence."""
    pivots: LanguageList = Field(default_factory=lambda: ["eng"])
    """L1 languages that the others are paired with, in both directions."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """Share of sentence ids kept from training, over all languages and directions at once."""
    share: float = Field(1.0, gt=0, le=1)
    """Share of the remaining sentence ids to train on, for ablations; a smaller share is a subset of a larger one."""

    @model_validator(mode="after")
    def _languages_known(self) -> Self:
        if len(self.languages) < 2:
            raise ValueError("a parallel corpus needs at least two languages")
        if missing := [p for p in self.pivots if p not in self.languages]:
            raise ValueError(f"pivot {missing[0]!r} has no column; name it in `columns` or choose another pivot")
        return self

    @property
    def languages(self) -> list[str]:
        """Codes of all languages of this corpus, in the order of the file."""
        return list(dict.fromkeys([*self.columns, *(self.long.values if self.long else {})]))


InstructionPart = Literal["inputs", "targets", "system", "turns"]


class InstructionSource(DataSource):
    """Instructions or conversations, one per row; the usual forms are recognised by their columns (docs/data.md)."""

    columns: dict[InstructionPart, str] = Field(default_factory=dict)
    """Part -> its column, for files of another form: `inputs` and `targets`, or `turns`; `system` text if there is
    any."""
    template: str | None = None
    """Text of the request with columns in braces, instead of `columns.inputs`: `"{instruction}\\n\\n{input}"`."""

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        named = set(self.columns) - {"system"}
        if self.template is not None and not slots_of(self.template):
            raise ValueError("`template` names no column; write one in braces, such as {instruction}")
        if self.template is not None and named != {"targets"}:
            raise ValueError("`template` is the request, so `columns` must name targets, and neither inputs nor turns")
        if self.template is None and self.columns and named not in ({"turns"}, {"inputs", "targets"}):
            raise ValueError("`columns` must name either inputs (or a `template`) and targets, or turns")
        return self


class ReplayConfig(Section):
    """Old instructions, replayed in training so that the model does not forget them."""

    sources: list[InstructionSource] = Field(default_factory=list)
    """Files of instructions or conversations; their form is recognised by their columns, or named."""
    loss_on: Literal["all_turns", "last_turn"] = "all_turns"
    """Learned answers of a conversation of several turns: every assistant turn, or the last one."""
    ratio: float = Field(0.5, ge=0, le=1)
    """Replay ratio: share of training examples that are replay, from 0 to 1; 1 is the replay-only control."""
    pool_size: int | None = Field(None, ge=1)
    """Number of distinct replay examples (diversity); all of them if omitted."""

    @model_validator(mode="after")
    def _has_sources(self) -> Self:
        if self.ratio > 0 and not self.sources:
            raise ValueError("`ratio` is above 0 but `sources` is empty; name an instruction file or set ratio: 0")
        return self


class TasksConfig(Section):
    """The continual instruction-tuning tasks (InstructAlign, arXiv 2305.13627, section 3)."""

    mix: str | dict[str, float] = "pair"
    """A named mix (`mlm`, `tlm`, `mt`, `xss`, `pair`, `random`, each also with `-xss`) or weights per task;
    tasks of installed plug-ins too."""
    templates: list[str] = Field(default_factory=lambda: ["eng"], min_length=1)
    """Template sets: `eng`, `ind`, or paths of your YAML files, with templates for each task of the mix."""
    directions: Literal["both", "from-pivot", "to-pivot"] = "both"
    """Directions in which a pivot and a new language are paired."""

    @field_validator("mix")
    @classmethod
    def _known_mix(cls, value: str | dict[str, float]) -> str | dict[str, float]:
        from ialign_ray.errors import ConfigError

        try:
            resolve_mix(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return value
