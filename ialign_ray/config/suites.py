"""Evaluation suites: the data, prompts and metrics, with one small class per kind.

An installed package adds a kind by an entry point of the group `ialign.suites` (`evaluation.scoring.suite_kinds`); its
fields are read by the class that the entry has as `config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ialign_ray.config.base import Section
from ialign_ray.config.data import InstructionSource, Scalar
from ialign_ray.config.generation import FollowingSuite, GenerationSuite
from ialign_ray.config.harness_suite import LmEvalSuite
from ialign_ray.config.languages import ByLanguage, LanguageCode
from ialign_ray.config.slots import slots_of
from ialign_ray.config.suite_metrics import NEURAL, OF_LABELS, OF_TEXT, measures
from ialign_ray.config.suite_source import (
    ClusteredSource,
    PromptConfig,
    PromptedSource,
    SuiteSource,
    check_slots,
)
from ialign_ray.errors import ConfigError
from ialign_ray.plugins import Extensible

LabelMetric = Annotated[str, measures("classification", *OF_LABELS), Field(json_schema_extra={"enum": list(OF_LABELS)})]
ChoiceMetric = Annotated[str, measures("choice", "accuracy"), Field(json_schema_extra={"enum": ["accuracy"]})]
TextMetric = Annotated[
    str,
    measures("translation", "bits_per_byte", *OF_TEXT, *NEURAL),
    Field(json_schema_extra={"enum": ["bits_per_byte", *OF_TEXT, *NEURAL]}),
]


def _keys_as_text(value: Any) -> Any:
    """Convert labels 0, 1, 2 of a YAML file to "0", "1", "2"."""
    if not isinstance(value, Mapping):
        return value
    return {str(key) if isinstance(key, int) and not isinstance(key, bool) else key: v for key, v in value.items()}


class ClassificationSuite(PromptedSource):
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
    metric: LabelMetric = "f1_weighted"
    """Chief metric of the suite, shown first."""

    @model_validator(mode="after")
    def _verbalised(self) -> Self:
        for prompt in self.prompts:
            check_slots(prompt, self.slots)
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

    @property
    def crossed(self) -> bool:
        """Return True if the baselines are fitted on the other fifths of the test rows."""
        return self.train is None or self.split_column is None


LETTERS = tuple("ABCDEFGHIJ")
"""Letters of options, in order."""

Options = Annotated[str | Annotated[list[str], Field(min_length=2)], Field(union_mode="left_to_right")]
"""Column with a list of options, or one column for each option."""
ChoiceForm = Literal["letter", "text"]
"""Way to score the options of a row: by the letter before each in the prompt, or by their text."""
LISTED = "choices"
"""Slot of a prompt for the options of a row, one in each line after its letter."""


class ChoiceSuite(PromptedSource):
    """Multiple choice, by the likelihood of each row's own options or of their letters."""

    kind: Literal["choice"] = "choice"
    """Kind of the suite."""
    choices: Options | ByLanguage[Options] = LISTED
    """Column with a list of options (also as JSON text, or as text with a lettered line for each option), or a list of
    columns with one option each; language -> these if the options are in other columns for each language. All rows need
    the same number of options."""
    answer: str = "answer"
    """Column of the right option: its number, its letter or its text."""
    answer_is: Literal["number", "letter", "text"] | None = None
    """Meaning of `answer`; found out if omitted, and refused if several meanings fit the rows but disagree."""
    answer_base: Literal[0, 1] | None = None
    """Number of the first option; found out if omitted, and refused if both fit the rows."""
    split_column: str | None = None
    """Column that separates test rows from others; null if all rows are test rows."""
    test: Scalar = "test"
    """Value of `split_column` for the rows that are scored."""
    together: str | None = None
    """Column whose equal values stay in one fifth when the baselines are fitted on the other four; if omitted, the
    first text of a row that has several, such as the passage of its questions."""
    by: list[ChoiceForm] | None = None
    """Ways to score options: `letter` scores the letter of each option under the prompts with the slot `{choices}`,
    `text` each option as continuation of the prompts without it, or of all if every prompt has the slot. The first is
    the suite's own score; the scorers of the second are called `letter:sum` or `text:sum`. If omitted, `letter` if the
    first prompt has the slot, otherwise `text`."""
    letters: list[str] = Field(default_factory=lambda: list(LETTERS), min_length=2)
    """Letters of the options, in order; also those of `answer`."""
    permutations: int = Field(1, ge=1)
    """Orders in which the options of a row are listed when letters are scored: the order of the file, and others that
    are rotations of it, drawn by the row's id. The score is the mean, and the share of rows whose answer depends on the
    order is reported."""
    metric: ChoiceMetric = "accuracy"
    """Chief metric of the suite, shown first."""

    @field_validator("by", mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _asked(self) -> Self:
        if LISTED in self.slots:
            raise ValueError(f"the slot {{{LISTED}}} of a prompt lists the options; rename the text {LISTED!r}")
        for prompt in self.prompts:
            check_slots(prompt, self.slots, (LISTED,))
        if "letter" in self.forms and not self.asked_by("letter"):
            raise ValueError(f"`by` is letter, but no prompt lists the options; add the slot {{{LISTED}}} to one")
        if len(set(self.letters)) < len(self.letters) or not all(letter.strip() for letter in self.letters):
            raise ValueError(f"letters is {self.letters}; give each option another letter")
        if len(set(self.forms)) < len(self.forms) or not self.forms:
            raise ValueError(f"by is {self.by}; name letter, text, or both once")
        if self.permutations > 1 and "letter" not in self.forms:
            raise ValueError("permutations changes the order in which options are listed, which needs by: letter")
        return self

    @model_validator(mode="after")
    def _optioned(self) -> Self:
        if isinstance(self.choices, dict) and (missing := [c for c in self.spoken if c not in self.choices]):
            raise ValueError(f"language {missing[0]!r} has no columns in `choices`; add them")
        return self

    @property
    def forms(self) -> list[ChoiceForm]:
        """Ways to score options; the first is the suite's own."""
        return self.by if self.by is not None else ["letter" if LISTED in slots_of(self.asked[0].text) else "text"]

    def asked_by(self, form: ChoiceForm) -> list[PromptConfig]:
        """Return the prompts under which options are scored by letter or by text."""
        listing = [p for p in self.asked if LISTED in slots_of(p.text)]
        return listing if form == "letter" else [p for p in self.asked if p not in listing] or listing

    def options_of(self, language: str) -> str | list[str]:
        """Return the column, or columns, with the options of a language."""
        return self.choices[language] if isinstance(self.choices, dict) else self.choices

    @property
    def text_columns(self) -> list[str]:
        """Every column with texts or options, including languages that are not measured: none may be trained on."""
        each = list(self.choices.values()) if isinstance(self.choices, dict) else [self.choices]
        options = [c for one in each for c in ([one] if isinstance(one, str) else one)]
        return list(dict.fromkeys([*super().text_columns, *options]))


class _Directed(SuiteSource):
    directions: list[tuple[LanguageCode, LanguageCode]] = Field(default_factory=list)
    """Pairs of languages, source first."""
    pivot: LanguageCode | None = None
    """Language paired with every other one, in both directions; replaces `directions`."""

    @model_validator(mode="after")
    def _directed(self) -> Self:
        self.one_text()
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


class TranslationSuite(_Directed, PromptedSource):
    """Bits per byte of held-out translations, given the right and a mismatched source; and generated translations."""

    kind: Literal["translation"] = "translation"
    """Kind of the suite."""
    prompts: list[PromptConfig] = Field(default_factory=lambda: [PLAIN], min_length=1)
    """Several wordings of the request; names of languages come in the prompt's language."""
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
        for prompt in self.prompts:
            check_slots(prompt, ("source",), ("source_language", "target_language"))
        needing = [name for name in self.named_metrics if name in (*OF_TEXT, *NEURAL)]
        if needing and not self.generate:
            raise ValueError(f"`metric` is {needing[0]!r}, which needs generated text; set generate: true")
        return self


class PerplexitySuite(SuiteSource):
    """Bits per byte of texts in each language, without a prompt: how well the model knows the language."""

    kind: Literal["perplexity"] = "perplexity"
    """Kind of the suite."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        self.one_text()
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


class InstructionSuite(ClusteredSource, InstructionSource):
    """Loss on held-out instructions: how much the model remembers of what it was tuned on."""

    kind: Literal["instructions"] = "instructions"
    """Kind of the suite."""
    name: str
    """Short name in results."""
    seen: bool = True
    """True if replay contains instructions of these sources; unseen ones measure forgetting more purely."""


KINDS: dict[str, type[Section]] = {
    "classification": ClassificationSuite,
    "choice": ChoiceSuite,
    "translation": TranslationSuite,
    "perplexity": PerplexitySuite,
    "retrieval": RetrievalSuite,
    "instructions": InstructionSuite,
    "lm_eval": LmEvalSuite,
    "generation": GenerationSuite,
    "following": FollowingSuite,
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
            ClassificationSuite
            | ChoiceSuite
            | TranslationSuite
            | PerplexitySuite
            | RetrievalSuite
            | InstructionSuite
            | LmEvalSuite
            | GenerationSuite
            | FollowingSuite,
            Field(discriminator="kind"),
        ],
        WrapValidator(_of_its_kind),
    ]
]
