"""Evaluation suites: the data, prompts and metrics, with one small class per kind.

An installed package adds a kind by an entry point of the group `ialign.suites` (`evaluation.scoring.suite_kinds`); its
fields are read by the class that the entry has as `config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ialign_ray.config.base import Section
from ialign_ray.config.data import DataSource, InstructionSource, Scalar
from ialign_ray.config.languages import ByLanguage, LanguageCode, LanguageList
from ialign_ray.config.slots import slots_of
from ialign_ray.errors import ConfigError
from ialign_ray.plugins import Extensible

TEXT = "text"
"""Slot of a suite with one text per row."""

Texts = str | dict[str, str]
"""A column, or slot -> column if a row has several texts: `{premise: premise_en, hypothesis: hypothesis_en}`."""


def _measures(kind: str, *built_in: str) -> AfterValidator:
    """Check that a suite's `metric` is built in, or added to its kind by an installed package."""
    known: Extensible[object] = Extensible("ialign.metrics", object, dict.fromkeys(built_in))

    def checked(value: str) -> str:
        try:
            entry = known.find(value, "metric")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if value not in built_in and kind not in getattr(entry, "kinds", ()):
            raise ValueError(f"metric is {value!r}, which does not measure suites of kind {kind!r}; name another")
        return value

    return AfterValidator(checked)


_OF_LABELS = ("f1_weighted", "f1_macro", "accuracy", "auc", "auc_ovr")
_OF_TEXT = ("chrf", "bleu", "spbleu")
LabelMetric = Annotated[
    str, _measures("classification", *_OF_LABELS), Field(json_schema_extra={"enum": list(_OF_LABELS)})
]
TextMetric = Annotated[
    str,
    _measures("translation", "bits_per_byte", *_OF_TEXT),
    Field(json_schema_extra={"enum": ["bits_per_byte", *_OF_TEXT]}),
]


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
    join: str | None = None
    """Column whose equal values are the same sentence in several languages; they are then resampled together."""


class _Clustered(DataSource):
    cluster: str | list[str] | None = None
    """Column (or several) whose equal values mark dependent sentences, such as those of one article or premise: they
    are resampled together, and a mismatched source never has the same value."""
    cluster_optional: bool = False
    """Accept a file without the column, whose sentences then count as independent, as in the bundled suites; false
    makes that an error."""


class SuiteSource(_Clustered):
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

    def _one_text(self) -> None:
        if self.slots != (TEXT,):
            raise ValueError(f"a suite of kind {getattr(self, 'kind', '')!r} takes one text per row; name one column")


def _keys_as_text(value: Any) -> Any:
    """Convert labels 0, 1, 2 of a YAML file to "0", "1", "2"."""
    if not isinstance(value, Mapping):
        return value
    return {str(key) if isinstance(key, int) and not isinstance(key, bool) else key: v for key, v in value.items()}


class ClassificationSuite(SuiteSource):
    """Zero-shot classification by the likelihood of the label words."""

    kind: Literal["classification"] = "classification"
    """Kind of the suite."""
    label: str = "label"
    """Column of the label."""
    split_column: str | None = "split"
    """Column that separates training from test rows; null if all rows are test rows."""
    train: Scalar | None = "train"
    """Value of `split_column` for the rows that the baselines learn from; null if there are no such rows: each fifth of
    the test rows is then predicted by baselines that learned from the other four."""
    test: Scalar = "test"
    """Value of `split_column` for the rows that are scored."""
    together: str | None = None
    """Column whose equal values stay in one fifth where `train` is null, such as the premise of three hypotheses."""
    labels: Annotated[dict[str, ByLanguage[str]], BeforeValidator(_keys_as_text), Field(min_length=2)]
    """Label -> the word for it in each prompt language; in order from worst to best, if they are ordered."""
    prompts: list[PromptConfig] = Field(min_length=1)
    """Several wordings; results are given per prompt and averaged."""
    prompt_languages: LanguageList | None = None
    """Ask only by the prompts in these languages."""
    metric: LabelMetric = "f1_weighted"
    """Chief metric of the suite, shown first."""

    @model_validator(mode="after")
    def _verbalised(self) -> Self:
        for prompt in self.prompts:
            _check_slots(prompt, self.slots)
            for label, words in self.labels.items():
                if prompt.language not in words:
                    raise ValueError(
                        f"label {label!r} has no word in {prompt.language!r}, which prompt {prompt.name!r} needs"
                    )
            said = [words[prompt.language].strip() for words in self.labels.values()]
            if twice := [word for word in said if said.count(word) > 1]:
                raise ValueError(
                    f"two labels are {twice[0]!r} in {prompt.language!r}, and no model can choose between them; give "
                    "each its own word"
                )
        return self

    @model_validator(mode="after")
    def _asked(self) -> Self:
        _once([p.name for p in self.prompts])
        if not self.asked:
            raise ValueError(f"no prompt is in {self.prompt_languages}; the suite's are in {_languages(self.prompts)}")
        return self

    @property
    def asked(self) -> list[PromptConfig]:
        """The prompts that are used."""
        return [p for p in self.prompts if self.prompt_languages is None or p.language in self.prompt_languages]

    @property
    def crossed(self) -> bool:
        """Return True if the baselines are fitted on the other fifths of the test rows."""
        return self.train is None or self.split_column is None


class _Directed(SuiteSource):
    directions: list[tuple[LanguageCode, LanguageCode]] = Field(default_factory=list)
    """Pairs of languages, source first."""
    pivot: LanguageCode | None = None
    """Language paired with every other one, in both directions; replaces `directions`."""

    @model_validator(mode="after")
    def _directed(self) -> Self:
        self._one_text()
        if bool(self.directions) == (self.pivot is not None):
            raise ValueError("give exactly one of `directions` and `pivot`")
        for code in {c for pair in self.directions for c in pair} | ({self.pivot} if self.pivot else set()):
            if code not in self.known:
                raise ValueError(f"language {code!r} has no column; add it to `columns` or leave it out")
        if not self.pairs:
            raise ValueError(f"no direction joins two of its languages ({', '.join(self.spoken)}); see `languages`")
        return self

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Directions between languages that are measured."""
        spoken, pivot = self.spoken, self.pivot
        if pivot is None:
            return [(a, b) for a, b in self.directions if a in spoken and b in spoken]
        others = [c for c in spoken if c != pivot] if pivot in spoken else []
        return [pair for other in others for pair in ((pivot, other), (other, pivot))]

    @property
    def measured(self) -> set[str]:
        """Languages of a direction that is measured."""
        return {code for pair in self.pairs for code in pair}


PLAIN = PromptConfig(
    name="plain", text="Translate the following text from {source_language} to {target_language}.\n{source}"
)


class TranslationSuite(_Directed):
    """Bits per byte of held-out translations, given the right and a mismatched source; and generated translations."""

    kind: Literal["translation"] = "translation"
    """Kind of the suite."""
    prompts: list[PromptConfig] = Field(default_factory=lambda: [PLAIN], min_length=1)
    """Several wordings of the request; names of languages come in the prompt's language."""
    prompt_languages: LanguageList | None = None
    """Ask only by the prompts in these languages."""
    generate: bool = False
    """Also generate translations, which takes long: chrF++, BLEU, copies, output in another language."""
    max_new_tokens: int = Field(128, ge=1)
    """The longest translation that is generated."""
    metric: TextMetric = "bits_per_byte"
    """Chief metric of the suite, shown first."""

    @model_validator(mode="before")
    @classmethod
    def _one_prompt(cls, data: Any) -> Any:
        """`prompt: TEXT` is short for one English prompt."""
        if isinstance(data, Mapping) and isinstance(data.get("prompt"), str) and "prompts" not in data:
            rest = {k: v for k, v in data.items() if k != "prompt"}
            return rest | {"prompts": [{"name": PLAIN.name, "text": data["prompt"]}]}
        return data

    @model_validator(mode="after")
    def _asked(self) -> Self:
        _once([p.name for p in self.prompts])
        for prompt in self.prompts:
            _check_slots(prompt, ("source",), ("source_language", "target_language"))
        if not self.asked:
            raise ValueError(f"no prompt is in {self.prompt_languages}; the suite's are in {_languages(self.prompts)}")
        if self.metric in _OF_TEXT and not self.generate:
            raise ValueError(f"`metric` is {self.metric!r}, which needs generated text; set generate: true")
        return self

    @property
    def asked(self) -> list[PromptConfig]:
        """The prompts that are used."""
        return [p for p in self.prompts if self.prompt_languages is None or p.language in self.prompt_languages]


class PerplexitySuite(SuiteSource):
    """Bits per byte of texts in each language, without a prompt: how well the model knows the language."""

    kind: Literal["perplexity"] = "perplexity"
    """Kind of the suite."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        self._one_text()
        return self


class RetrievalSuite(_Directed):
    """Retrieval of the nearest sentence of another language in the model's hidden space: a direct measure of
    alignment."""

    kind: Literal["retrieval"] = "retrieval"
    """Kind of the suite."""
    layer: Literal["middle", "last"] | int = "middle"
    """Layer whose hidden states are averaged over a sentence's tokens; 0 is the embeddings."""
    centre: bool = True
    """Subtract each language's mean vector first: it encodes which language a sentence is in, not its meaning
    (Libovický et al. 2020, arXiv 2004.05160). SmolLM2-135M finds .20 instead of .08 of 60
    sentences with it."""


class InstructionSuite(_Clustered, InstructionSource):
    """Loss on held-out instructions: how much the model remembers of what it was tuned on."""

    kind: Literal["instructions"] = "instructions"
    """Kind of the suite."""
    name: str
    """Short name in results."""
    seen: bool = True
    """True if replay contains instructions of these sources; unseen ones measure forgetting more purely."""


KINDS: dict[str, type[DataSource]] = {
    "classification": ClassificationSuite,
    "translation": TranslationSuite,
    "perplexity": PerplexitySuite,
    "retrieval": RetrievalSuite,
    "instructions": InstructionSuite,
}
_KINDS: Extensible[object] = Extensible("ialign.suites", object, KINDS)


def _of_its_kind(value: Any, built_in: ValidatorFunctionWrapHandler) -> Any:
    """Build a suite from plain data, of a built-in kind or of one that an installed package adds."""
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    if not isinstance(kind, str) or kind in KINDS:
        return built_in(value)
    try:
        config = getattr(_KINDS.find(kind, "kind"), "config", None)
        if not (isinstance(config, type) and issubclass(config, SuiteSource)):
            raise ConfigError(f"kind is {kind!r}, but its plug-in has no `config` that is a SuiteSource")
    except ConfigError as error:
        reason = str(error).removeprefix(f"kind is {kind!r}, ").removeprefix("but ").replace("which", "it", 1)
        unknown = PydanticCustomError("suite_kind", "{reason}", {"reason": reason})
        raise ValidationError.from_exception_data(kind, [{"type": unknown, "loc": ("kind",), "input": kind}]) from error
    return config.model_validate(value)


Suite = SerializeAsAny[
    Annotated[
        Annotated[
            ClassificationSuite | TranslationSuite | PerplexitySuite | RetrievalSuite | InstructionSuite,
            Field(discriminator="kind"),
        ],
        WrapValidator(_of_its_kind),
    ]
]


def _check_slots(prompt: PromptConfig, needed: tuple[str, ...], allowed: tuple[str, ...] = ()) -> None:
    found = slots_of(prompt.text)
    if missing := [slot for slot in needed if slot not in found]:
        raise ValueError(
            f"prompt {prompt.name!r}: `text` lacks the slot {{{missing[0]}}}; put it where the sentence belongs"
        )
    if unknown := [slot for slot in found if slot not in (*needed, *allowed)]:
        slots = ", ".join(f"{{{s}}}" for s in (*needed, *allowed))
        raise ValueError(f"prompt {prompt.name!r}: `text` has the unknown slot {{{unknown[0]}}}; use {slots}")


def _once(names: list[str]) -> None:
    if twice := [n for n in names if names.count(n) > 1]:
        raise ValueError(f"the prompt name {twice[0]!r} is used twice; rename one")


def _languages(prompts: list[PromptConfig]) -> str:
    return ", ".join(dict.fromkeys(p.language for p in prompts))
