"""Request models of `context`: the name of a context that the model carries, or settings with a request's own pool."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from ialign_ray.config.slots import MOST_SLOTS
from ialign_ray.serving.api.body import MOST_ITEMS, Body, Filled, Name, Text, few_entries, one_sentence, refused


def _or_name(schema: dict[str, Any]) -> None:
    schema["anyOf"].insert(0, {"type": "string", "minLength": 1, "maxLength": 256})


CONTEXT_FIELD: Final[Any] = Field(None, json_schema_extra=_or_name)
"""Default of a request's `context`, whose schema also allows a name."""


class ContextSettings(Body):
    """Settings that contexts of exemplars and of pairs share."""

    name: Name | None = None
    """Name of a context of the model, instead of all other settings; the whole context may be this text."""
    retriever: Literal["bm25", "characters", "overlap", "random"] = "bm25"
    """Search for the examples most similar to the text."""
    k: int | None = Field(None, ge=1)
    """Number of examples. Default: as many as fit, 32 at most."""
    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Seed of `random`, with which a text draws the same examples each time."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    def check_pool(self, pool: str) -> None:
        """Raise an error unless either a name or a pool of examples is given."""
        if self.name is not None and len(self.model_fields_set) > 1:
            raise refused("context.name", f"a context with a name has its settings; remove those, or give {pool} alone")
        if self.name is None and getattr(self, pool) is None:
            raise refused(f"context.{pool}", f"context has neither a name nor {pool}; give one of them")


class RequestExemplar(Body):
    """A labelled text."""

    text: Annotated[
        Filled | Annotated[dict[Name, Text], Field(min_length=1), few_entries(MOST_SLOTS)],
        one_sentence("a text, or an object with a text for each slot of the prompt; not empty"),
    ]
    """The text, or an object if the prompt has several slots."""
    label: Name
    """Name of its label."""
    id: Name | None = None
    """Name in the answer. Default: its number, from 0."""


class ExemplarContext(ContextSettings):
    """Labelled exemplars before a text to classify."""

    exemplars: list[RequestExemplar] | None = Field(None, min_length=1, max_length=MOST_ITEMS, fail_fast=True)
    """Texts with their labels, from which the exemplars of each text are taken."""
    form: Literal["lines", "turns", "table"] = "lines"
    """Layout: the prompt filled for each exemplar and followed by its label, turns of a conversation, or columns."""
    balanced: bool = False
    """Take the same number of each label, as far as k allows."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        self.check_pool("exemplars")
        return self


class RequestPair(Body):
    """A text and its translation."""

    source: Filled
    """The text, in the language of the texts of the request."""
    target: Filled
    """Its translation."""
    id: Name | None = None
    """Name in the answer. Default: its number, from 0."""


class PairContext(ContextSettings):
    """Translation pairs before a request."""

    pairs: list[RequestPair] | None = Field(None, min_length=1, max_length=MOST_ITEMS, fail_fast=True)
    """Pairs, from which those that are similar to a text are taken."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        self.check_pool("pairs")
        return self
