"""Response models: OpenAI's objects, and ours in the same style.

Written here and not imported from `openai.types`: those cost 2.4 s, 650 modules and 25 MiB at import, allow unknown
fields, refuse two things that we send (`finish_reason: null` while a completion streams, `null` for the first token of
an echoed prompt), and make the document of a chat answer four times as long with fields that we never fill. A test
checks answers against them instead.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ialign_ray.serving.protocol import Finish


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(use_attribute_docstrings=True, ser_json_inf_nan="null")


def _absent(value: object) -> bool:
    return value is None


class UsedExemplar(Answer):
    """An exemplar that was in a prompt."""

    id: str
    language: str | None = Field(None, exclude_if=_absent)
    text: str | dict[str, str]
    """The text, or one for each slot."""
    label: str


class UsedPair(Answer):
    """A translation pair that was in a prompt."""

    id: str
    source: str
    target: str
    source_language: str | None = Field(None, exclude_if=_absent)
    target_language: str | None = Field(None, exclude_if=_absent)


class UsedContext(Answer):
    """Examples that were in the prompt of one text."""

    name: str | None
    """Name of the model's context; null for examples of the request."""
    exemplars: list[UsedExemplar] = Field(default_factory=list)
    """Order of the prompt, the most similar one last."""
    pairs: list[UsedPair] = Field(default_factory=list)
    """Order of the prompt, the most similar one last."""
    dropped: int
    """Examples that did not fit the model."""
    refused: int
    """Examples that are the text, its translation, or nearly its text."""


class Usage(Answer):
    """Token counts of prompt and answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, read: int, made: int) -> Usage:
        """Build it from the two counts."""
        return cls(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)


class Alternative(Answer):
    """A token and its natural log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8 bytes; null for a token that is only part of a character."""


class TokenLogprob(Alternative):
    """A token of a chat answer."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Answer):
    """Log-probabilities of a chat answer."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(Answer):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish


class Generated(Answer):
    """Fields that every generated answer begins with."""

    id: str
    object: str
    created: int
    """Unix seconds."""
    model: str
    """Requested name."""
    system_fingerprint: str
    """The exact model that answered, as in `x-model-version`."""


class ChatCompletion(Generated):
    """Answer of `/v1/chat/completions`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage
    context: UsedContext | None = Field(None, exclude_if=_absent)
    """Examples in the prompt; absent without a context."""


class Delta(Answer):
    """The new part of a message; unchanged fields are omitted."""

    role: Literal["assistant"] | None = Field(None, exclude_if=_absent)
    content: str | None = Field(None, exclude_if=_absent)


class ChatChunkChoice(Answer):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None


class ChatChunk(Generated):
    """An event of a streamed chat answer."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    context: UsedContext | None = Field(None, exclude_if=_absent)
    """Set in the first event of a request with a context."""


class Logprobs(Answer):
    """Log-probabilities of a completion, by token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of a text, which nothing precedes."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Character offset of each token in the text."""


class Choice(Answer):
    """One completion, or a piece of it in a stream."""

    index: int
    """Position in prompt order: the `n` answers of the first prompt come first."""
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Finish | None = None


class Completion(Generated):
    """Answer of `/v1/completions`, and an event of its stream."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[Choice]
    usage: Usage | None = None


class Translation(Answer):
    """Result for one text."""

    index: int
    text: str
    finish_reason: Finish
    """`length` if the translation was cut off."""
    context: UsedContext | None = Field(None, exclude_if=_absent)
    """Examples in the prompt; absent without a context."""


class Translations(Answer):
    """Answer of `/v1/translate`."""

    object: Literal["translation.list"] = "translation.list"
    model: str
    source: str
    """Recognised ISO 639-3 code, with the script if it is not the usual one."""
    target: str
    data: list[Translation]
    usage: Usage


class Classification(Answer):
    """Result for one text."""

    index: int
    label: str
    """The likeliest label."""
    probabilities: dict[str, float]
    """Probability of each label among these labels: softmax over the scores."""
    scores: dict[str, float]
    """Score of each label, in nats."""
    context: UsedContext | None = Field(None, exclude_if=_absent)
    """Examples in the prompt; absent without a context."""


class Classifications(Answer):
    """Answer of `/v1/classify`."""

    object: Literal["classification.list"] = "classification.list"
    model: str
    scorer: str
    prompt: str
    """The prompt that was used, with its slots."""
    data: list[Classification]
    usage: Usage


class Score(Answer):
    """Result for one continuation."""

    index: int
    log_prob: float
    """Summed over its tokens, natural logarithm."""
    tokens: int


class Scores(Answer):
    """Answer of `/v1/score`."""

    object: Literal["score.list"] = "score.list"
    model: str
    data: list[Score]
    usage: Usage


class ModelCard(Answer):
    """One model."""

    id: str
    """Value of a request's `model`."""
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["ialign_ray"] = "ialign_ray"
    version: str
    """The exact model behind the name at the moment, as in `x-model-version`."""
    kind: Literal["base", "adapter", "full"]
    details: dict[str, Any] = Field(default_factory=dict)
    """Details from the registry."""


class ModelList(Answer):
    """Answer of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Answer):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok", "ready"]
