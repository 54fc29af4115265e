"""The engine's interface and the plain data that engine, model library and API exchange. No torch, no ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from ialign_ray.errors import IalignError

Finish = Literal["stop", "length"]
Kind = Literal["base", "adapter", "full"]


class BusyError(IalignError):
    """The queue is full; try again in `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnknownModelError(IalignError):
    """No model of that name is served."""


class EngineError(IalignError):
    """The engine failed or stopped while it computed; nothing is wrong with the request, which may be sent again."""


@dataclass(frozen=True)
class Sampling:
    """How a text is continued. A request's text depends on these, its prompt and its adapter, not on its batch."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    """Of this request's own generator; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    top_log_probs: int | None = None
    """How many alternatives a token is told with; None leaves log-probabilities out."""


@dataclass(frozen=True)
class TokenScore:
    """One token and its natural log-probability under the model (before temperature and nucleus)."""

    token: int
    log_prob: float | None
    """None for the first token of a text, which nothing precedes, and where none was asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens, best first."""


@dataclass(frozen=True)
class TextDelta:
    """A part of an answer, as it comes: pieces joined are the answer."""

    text: str
    """Whole characters only; may be empty while a character or a possible stop text is incomplete."""
    tokens: tuple[TokenScore, ...] = ()
    """Those that begin in `text`, with or without log-probabilities; the end-of-sequence token is none of them."""
    finish: Finish | None = None
    """In the last piece alone."""


@dataclass(frozen=True)
class LabelSums:
    """Summed log-probabilities of continuations after prompts."""

    log_prob: list[list[float]]
    """[prompt][label]"""
    tokens: list[list[int]]
    """[prompt][label]: tokens of each."""


class Engine(Protocol):
    """One base model in memory and adapters beside it. All requests of all adapters share it and its batches.

    Every call names the adapter by the key it was loaded under; None is the base itself. A call raises
    `BusyError` where the queue is full, `ModelError` where a prompt and its answer do not fit, `UnknownModelError`
    where the adapter is not loaded, and `EngineError` where the engine failed. Cancelling the task, or closing the
    iterator (`aclose`), takes the request out of its batch.
    """

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, adapter: str | None = None, *, whole: bool = False
    ) -> AsyncIterator[TextDelta]:
        """The answer to a prompt of token ids, piece by piece; the last piece has `finish`.

        `whole`: nobody reads it before its end, so it comes as an empty piece at the first token and one at the end,
        which is cheaper.
        """

    async def score_labels(
        self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], adapter: str | None = None
    ) -> LabelSums:
        """Log-probabilities of each label after each prompt, the prompt computed once."""

    async def read(self, ids: Sequence[int], top: int, adapter: str | None = None) -> list[TokenScore]:
        """Log-probability of each token of a text after those before it (`echo` with `logprobs`)."""

    async def load(self, adapter: str, folder: Path) -> None:
        """Load a PEFT adapter folder under a key; raises ModelError, and nothing changes, where it does not load."""

    async def unload(self, adapter: str) -> None:
        """Forget an adapter once no request uses it."""

    def loaded(self) -> tuple[str, ...]:
        """Keys of the adapters in memory."""

    def stats(self) -> dict[str, float]:
        """Queue length, running requests, batch size, tokens generated, cache use: for metrics and scaling."""

    async def close(self, grace: float = 30.0) -> None:
        """Take no more requests, let those under way end within `grace` seconds, then stop."""


@dataclass(frozen=True)
class Served:
    """A model as one request sees it, from its first token to its last, whatever is promoted meanwhile."""

    id: str
    """What exactly answers: `base`, `NAME/VERSION` of the registry, or the name of a run or folder."""
    engine: Engine
    adapter: str | None
    """Key in the engine; None where the engine's own weights are the model."""
    encoder: Any
    """`ialign_ray.tokens.encode.Encoder`: how the model is asked; its `tokenizer` decodes."""
    max_positions: int | None
    """Prompt and answer together; None where the model has no limit."""
    experiment: Any = None
    """`ialign_ray.config.Experiment` it was trained by; None for a base without one."""


@dataclass(frozen=True)
class ModelInfo:
    """One line of `/v1/models`."""

    name: str
    """What a request's `model` says."""
    id: str
    """What it stands for now, as `Served.id`."""
    kind: Kind
    created: int
    """Unix seconds."""
    details: dict[str, Any] = field(default_factory=dict)
    """Languages by group, dose, suites' scores with intervals: whatever the registry tells of it."""
