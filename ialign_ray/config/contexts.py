"""`evaluate.contexts`: what is put into the prompt before the question, as exemplars, translation pairs or words."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ialign_ray.config.base import Section
from ialign_ray.config.data import DataSource
from ialign_ray.config.languages import LanguageCode

NO_CONTEXT = "none"
"""Name of the question alone, which is always measured."""
OWN, ANY = "own", "any"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Sizes = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(_listed)]
Names = Annotated[list[str], BeforeValidator(_listed)]


class ExemplarConfig(Section):
    """Labelled exemplars, from the training rows of a classification suite."""

    retriever: Names = Field(default_factory=lambda: ["bm25"], min_length=1)
    """Search for them: `random`, `overlap` (of words), `bm25`, `characters` (TF-IDF of n-grams), `encoder:ID` (an id or
    folder of a sentence-transformers model), `model:LAYER` (the evaluated model's own hidden states; a number, `middle`
    or `last`), or one of an installed package; of several, by the sum of their reciprocal ranks (Cormack et al.
    2009)."""
    language: LanguageCode | Literal["own", "any"] = OWN
    """Language of the exemplars: that of the question (`own`), `any` of the pool, or a code."""
    suite: str | None = None
    """Classification suite whose training rows are the pool; each suite's own if omitted."""
    k: Sizes | Literal["auto"] = Field(default_factory=lambda: [4], min_length=1)
    """Number of exemplars; of a list, each number is another context, called NAME-kK. `auto` is as many as fit, 32 at
    most (`max_tokens`)."""
    balanced: bool = False
    """Take the same number of each label, as far as k allows."""
    diversity: float = Field(0.0, ge=0, lt=1)
    """Weight of the similarity to exemplars already taken, which is subtracted (maximal marginal relevance, Carbonell
    and Goldstein 1998); 0 takes the nearest."""
    through: Literal["pairs"] | None = None
    """`pairs` finds the most similar sentence of the parallel corpora first, and then the exemplars that are similar to
    its translation into `language` (T-ICL of Cahyawijaya et al. 2024, arXiv 2403.16512)."""
    form: Literal["lines", "turns", "table"] = "lines"
    """`lines` fills the question's own prompt for each exemplar, followed by its label; `turns` makes each a turn of
    the user and one of the assistant, by the chat template; `table` lists texts and labels in columns."""
    labels: Literal["true", "permuted"] = "true"
    """`permuted` exchanges the labels of the pool's rows at random: a control that shows if the model reads them (Min
    et al. 2022, arXiv 2202.12837)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.balanced and self.diversity:
            raise ValueError("`balanced` and `diversity` choose differently; set one of them")
        if self.through and self.language in (OWN, ANY):
            raise ValueError("`through: pairs` needs the `language` of the exemplars, which the pairs lead to")
        return self


class ContextPairs(Section):
    """Translation pairs from the experiment's corpora, similar to the question."""

    retriever: Names = Field(default_factory=lambda: ["bm25"], min_length=1)
    """Search for them; see `exemplars.retriever`."""
    language: LanguageCode | None = None
    """Language of the translations; the first of `languages.l1` that has pairs if omitted."""
    k: int = Field(4, ge=1)
    """Number of pairs."""
    place: Literal["before", "after"] = "before"
    """Before or after the exemplars."""


class DictionaryConfig(DataSource):
    """Words of the question with their translations."""

    language: str = "language"
    """Column of the word's language; a column that is absent means that all words are in one language."""
    word: str = "word"
    """Column of the word."""
    translation: str = "translation"
    """Column of its translation."""
    entries: int = Field(20, ge=1)
    """Most entries of a prompt; the rarest words of the dictionary first."""


class ContextLabels(Section):
    """Languages of the label words."""

    exemplars: LanguageCode | None = None
    """Language of the label words of exemplars; the prompt's if omitted."""
    answers: LanguageCode | None = None
    """Language of the label words that are scored; the prompt's if omitted."""
    line: bool = False
    """Begin with a line that says which label word of one language is which of the other."""


class ContextConfig(Section):
    """One way to fill the prompt before the question."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Name in results."""
    exemplars: ExemplarConfig | None = None
    """Labelled exemplars."""
    pairs: ContextPairs | None = None
    """Translation pairs."""
    dictionary: DictionaryConfig | None = None
    """Translations of words."""
    labels: ContextLabels | None = None
    """Languages of the label words."""
    max_tokens: int | None = Field(None, ge=1)
    """Most tokens of a prompt; the model's window if omitted. Whole exemplars and pairs are dropped, the farthest
    first, and counted."""
    seed: int = 0
    """Seed of what is drawn: `random` exemplars, by each question's id, and permuted labels."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.name == NO_CONTEXT:
            raise ValueError(f"{NO_CONTEXT!r} is the question alone, which is always measured; choose another name")
        if not (self.exemplars or self.pairs or self.dictionary or self.labels):
            raise ValueError(f"context {self.name!r} is empty; give it exemplars, pairs, dictionary or labels")
        if self.labels and self.labels.line and not (self.labels.exemplars or self.labels.answers):
            raise ValueError("`labels.line` needs two languages; set `labels.exemplars` or `labels.answers`")
        if self.pairs and self.exemplars and self.exemplars.form == "turns" and self.pairs.place == "after":
            raise ValueError("pairs cannot follow exemplars that are turns; set `pairs.place: before`")
        return self

    @property
    def retrievers(self) -> list[str]:
        """Names of all retrievers."""
        return [name for side in (self.exemplars, self.pairs) if side for name in side.retriever]

    @property
    def searched_by_model(self) -> bool:
        """True if the evaluated model itself is needed for the search."""
        return any(name.startswith("model:") for name in self.retrievers)

    @property
    def variants(self) -> list[ContextConfig]:
        """One context for each number of exemplars."""
        sizes = self.exemplars.k if self.exemplars else []
        if self.exemplars is None or sizes == "auto" or len(sizes) < 2:
            return [self]
        return [
            self.model_copy(
                update={"name": f"{self.name}-k{k}", "exemplars": self.exemplars.model_copy(update={"k": [k]})}
            )
            for k in sizes
        ]


def distinct_contexts(contexts: list[ContextConfig]) -> list[ContextConfig]:
    """The contexts, if their variants have different names; a ValueError otherwise."""
    names = [variant.name for context in contexts for variant in context.variants]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two contexts are called {twice[0]!r}; rename one")
    return contexts
