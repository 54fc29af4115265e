"""Request models of each route."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from ialign_ray.config.slots import MOST_SLOTS, slots_of
from ialign_ray.inference.calibration import Scorer
from ialign_ray.serving.api.body import MOST_ITEMS, Body, Filled, Name, Text, few_entries, one_sentence, refused
from ialign_ray.serving.api.context_schemas import CONTEXT_FIELD, ExemplarContext, PairContext
from ialign_ray.serving.api.errors import printable

StopText = Annotated[Text, StringConstraints(min_length=1, max_length=256)]
Stop = Annotated[
    StopText | Annotated[list[StopText], Field(max_length=16, fail_fast=True)] | None,
    one_sentence("a text or a list of up to 16 texts, none of them empty"),
]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Prompt = Annotated[
    Text
    | Ids
    | Annotated[list[Text], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)]
    | Annotated[list[Ids], Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)],
    one_sentence(
        "a text, a list of texts, a list of token ids, or a list of lists of token ids, none empty nor too long"
    ),
]


class Asking(Body):
    """A request to a model. OpenAI's book-keeping fields are accepted and ignored."""

    model: Name | None = None
    """Name of a model (`/v1/models`). Default: the first one."""
    user: Any = None
    """Ignored."""
    metadata: Any = None
    """Ignored."""
    store: Any = None
    """Ignored."""
    service_tier: Any = None
    """Ignored."""
    safety_identifier: Any = None
    """Ignored."""
    prompt_cache_key: Any = None
    """Ignored."""
    prompt_cache_retention: Any = None
    """Ignored."""


class Decoding(Asking):
    """Sampling parameters of an answer."""

    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens. Default: the server's, as far as it fits."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0 always takes the likeliest token."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Sample from the likeliest tokens that together have this probability."""
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    """Sample from this many likeliest tokens; 0 is all. (Not part of OpenAI's API.)"""
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    """Divide the scores of tokens that occurred; 1 has no effect. (Not part of OpenAI's API.)"""
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    """The same seed gives the same answer of the same model; choice `i` of `n` is drawn with seed + i."""
    stop: Stop = None
    """Texts that end the answer and are not part of it; at most 16, since lm-evaluation-harness sends many."""


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    """Send token counts in a last event."""
    include_obfuscation: bool | None = None
    """Ignored."""


class Sampled(Decoding):
    """Parameters that chat and completions share."""

    n: int | None = Field(None, ge=1)
    """Number of answers to each prompt."""
    stream: bool | None = None
    """Send the answer as server-sent events while it is generated."""
    stream_options: StreamOptions | None = None
    """Options of the stream."""

    @model_validator(mode="after")
    def _streamed(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "stream_options needs stream: true")
        return self

    @property
    def counts(self) -> bool:
        """Return True if a stream ends with token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    """Only text is supported."""
    text: Text
    """The text."""


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """Speaker; `developer` means `system`."""
    content: Annotated[
        Text | Annotated[list[TextPart], Field(fail_fast=True)],
        one_sentence("a text, or a list of parts of type text"),
    ]
    """The turn's text."""
    name: Text | None = None
    """Ignored."""

    @model_validator(mode="before")
    @classmethod
    def _without_empty_fields(cls, data: Any) -> Any:
        """Drop an answer's empty fields, which clients send back with it."""
        if not isinstance(data, Mapping):
            return data
        return {key: value for key, value in data.items() if key in ("role", "content") or value not in (None, [])}

    @property
    def text(self) -> str:
        """The whole content as one text."""
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class ChatRequest(Sampled):
    """`/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_ITEMS, fail_fast=True)
    """The conversation, oldest turn first."""
    context: PairContext | None = CONTEXT_FIELD
    """Translation pairs before the last turn: the name of a context of the model, or `pairs`. (Not part of OpenAI's
    API.)"""
    max_completion_tokens: int | None = Field(None, ge=1)
    """OpenAI's newer name of `max_tokens`."""
    logprobs: bool | None = None
    """Return the log-probability of each token of the answer."""
    top_logprobs: int | None = Field(None, ge=0, le=20)
    """Also return this many likeliest alternatives to each token."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise refused("top_logprobs", "top_logprobs needs logprobs: true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise refused("max_tokens", "max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def longest(self) -> int | None:
        """`max_tokens`, under either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Sampled):
    """`/v1/completions`."""

    prompt: Prompt
    """One or several prompts, as text or token ids; used as they are, without template or separator."""
    max_tokens: int | None = Field(None, ge=0)
    """Longest answer in tokens; 0 is allowed with `echo` only."""
    echo: bool | None = None
    """Begin the answer with the prompt."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """Return the log-probability of each token, and of this many likeliest alternatives."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise refused(
                "max_tokens",
                "max_tokens is 0, which needs echo: true; otherwise ask for at least one token",
            )
        return self


class TranslateRequest(Decoding):
    """`/v1/translate`."""

    source: Name
    """Language of the texts: a code (`ind`, `id`, `ind_Latn`) or a name (`Indonesian`)."""
    target: Name
    """Language to translate into."""
    texts: list[Filled] = Field(min_length=1, fail_fast=True)
    """Texts to translate, each separately."""
    prompt_language: Name | None = None
    """Language of the request to the model. Default: the first that it was trained with."""
    context: PairContext | None = CONTEXT_FIELD
    """Translation memory: the name of a context of the model, or `pairs`; those most similar to each text precede its
    request."""


class ClassifyRequest(Asking):
    """`/v1/classify`: give `labels` and `prompt`, or the name of a `suite` of the model's experiment."""

    texts: Annotated[
        list[Filled | Annotated[dict[Name, Text], few_entries(MOST_SLOTS)]],
        Field(min_length=1, fail_fast=True),
        one_sentence("a list of texts, or of objects with a text for each slot of the prompt; none empty"),
    ]
    """Texts to classify; objects if the prompt has several slots: `{"premise": ..., "hypothesis": ...}`."""
    labels: Annotated[
        Annotated[list[Filled], Field(min_length=2, fail_fast=True)]
        | Annotated[dict[Name, Filled], Field(min_length=2), few_entries(MOST_ITEMS)]
        | None,
        one_sentence("at least two labels: a list of words, or an object of label -> the word for it"),
    ] = None
    """Labels as words that the model scores, or label -> word."""
    prompt: Filled | None = Field(None, json_schema_extra={"pattern": r"\{[a-z_]+\}"})
    """Prompt with a slot `{text}` for the text."""
    suite: Name | None = None
    """Name of a classification suite of the model's experiment, which gives labels, words and prompt."""
    prompt_language: Name | None = None
    """Use the suite's first prompt in this language."""
    context: ExemplarContext | None = CONTEXT_FIELD
    """Examples before each text: the name of a context of the model, `exemplars`, or `none`. Default: the model's own
    for a suite that it was judged on, otherwise none."""
    language: Name | None = None
    """Language of the texts, for a context that takes exemplars of the same language. Default: those of any."""
    scorer: Scorer | None = None
    """`sum`, `mean` (per token) or `calibrated` (against content-free texts, Zhao et al. 2021, arXiv 2102.09690).
    Default: the experiment's, otherwise `calibrated`."""

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.suite is not None and (self.labels is not None or self.prompt is not None):
            raise refused("suite", "suite has its labels and prompt; remove those, or the suite")
        if self.suite is None and (self.labels is None or self.prompt is None):
            raise refused("labels", "labels and prompt are required, or the name of a suite")
        if self.suite is None and self.prompt_language is not None:
            raise refused(
                "prompt_language",
                "prompt_language chooses a prompt of a suite; remove it, or name a suite",
            )
        words = self.labels.values() if isinstance(self.labels, dict) else self.labels or ()
        if len(set(words)) < len(words):
            raise refused("labels", "two labels have the same word; change one")
        if self.prompt is not None:
            _check_slots(self.prompt)
        return self


def _check_slots(prompt: str) -> None:
    try:
        slots = slots_of(prompt)
    except ValueError as error:
        raise refused("prompt", str(error)) from error
    if not slots:
        raise refused("prompt", "the prompt has no slot; put {text} where the text belongs")
    if unknown := [slot for slot in slots if not _SLOT_NAME.fullmatch(slot)]:
        name = printable(unknown[0])
        raise refused(
            "prompt", f"the prompt has the unknown slot {{{name}}}; a slot is a name of lower-case letters only"
        )


_SLOT_NAME: Final = re.compile(r"[a-z_]+")


class ScoreRequest(Asking):
    """`/v1/score`."""

    prompt: Text
    """Text before the continuations, formatted as in training (chat template or separator) unless `raw`."""
    continuations: list[Filled] = Field(min_length=1, fail_fast=True)
    """Texts to score, each after the prompt."""
    raw: bool | None = None
    """Use the prompt as it is, as `/v1/completions` does."""
