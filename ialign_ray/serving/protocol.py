"""The engine's interface and the plain data that engine, model library and API exchange. No torch, no ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ialign_ray.errors import IalignError

if TYPE_CHECKING:  # it brings pyarrow
    from ialign_ray.incontext.stored import StoredContext

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
    """The engine failed or stopped during the computation; the request is fine and may be sent again."""


class NotANumberError(IalignError):
    """The model computed NaN or infinity for this request; the same request to the same model fails again."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. An answer depends on these, its prompt and its adapter, never on its batch."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    """Seed of the request's own generator; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it."""
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer, in addition to those of the model and tokenizer: the end of a template's turn."""
    top_log_probs: int | None = None
    """Number of alternatives returned for each token; None omits log-probabilities."""


@dataclass(frozen=True)
class TokenScore:
    """One token and its natural log-probability under the model (before temperature and nucleus)."""

    token: int
    log_prob: float | None
    """None for the first token of a text, which nothing precedes, and if none was requested."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens, best first."""


@dataclass(frozen=True)
class TextDelta:
    """A piece of an answer; the pieces joined are the answer."""

    text: str
    """Whole characters only; may be empty while a character or a possible stop text is incomplete."""
    tokens: tuple[TokenScore, ...] = ()
    """Tokens that begin in `text`, with or without log-probabilities, without the end-of-sequence token."""
    finish: Finish | None = None
    """Set on the last piece only."""


@dataclass(frozen=True)
class LabelSums:
    """Summed log-probabilities of continuations after prompts."""

    log_prob: list[list[float]]
    """[prompt][label]"""
    tokens: list[list[int]]
    """[prompt][label]: number of tokens."""


class Engine(Protocol):
    """One base model in memory and its adapters. All requests of all adapters share it and its batches.

    Every call names the adapter by the key it was loaded under; None is the base itself. A call raises `BusyError` if
    the queue is full, `ModelError` if a prompt and its answer do not fit, `UnknownModelError` if the adapter is not
    loaded, `NotANumberError` if the model computes NaN for it, and `EngineError` if the engine failed. Cancelling the
    task, or closing the iterator (`aclose`), takes the request out of its batch.
    """

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, adapter: str | None = None, *, whole: bool = False
    ) -> AsyncIterator[TextDelta]:
        """Yield the answer to a prompt of token ids piece by piece; the last piece has `finish`.

        `whole`: the caller needs no partial text, so there are two pieces only, an empty one at the first token and
        the whole answer at the end, which is cheaper.
        """

    async def score_labels(
        self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], adapter: str | None = None
    ) -> LabelSums:
        """Sum the log-probabilities of each label after each prompt; each prompt is computed once."""

    async def read(self, ids: Sequence[int], top: int, adapter: str | None = None) -> list[TokenScore]:
        """Return the log-probability of each token of a text given those before it (`echo` with `logprobs`)."""

    async def load(self, adapter: str, folder: Path) -> None:
        """Load a PEFT adapter folder under a key. Raises ModelError, and changes nothing, if it does not load."""

    async def unload(self, adapter: str) -> None:
        """Remove an adapter once no request uses it."""

    def loaded(self) -> tuple[str, ...]:
        """Keys of the adapters in memory."""

    def stats(self) -> dict[str, float]:
        """Return queue length, running requests, batch size, tokens and cache use, for metrics and scaling."""

    async def close(self, grace: float = 30.0) -> None:
        """Accept no more requests, let running ones end within `grace` seconds, then stop."""


@dataclass(frozen=True)
class Served:
    """A model as one request sees it, the same version from first token to last, whatever is promoted in between."""

    id: str
    """The exact model: `base`, `NAME/VERSION` of the registry, or the name of a run or folder."""
    engine: Engine
    adapter: str | None
    """Key in the engine; None if the engine's own weights are the model."""
    encoder: Any
    """`ialign_ray.tokens.encode.Encoder`, which builds the prompts; its `tokenizer` decodes."""
    max_positions: int | None
    """Most tokens of prompt and answer together; None if the model has no limit."""
    experiment: Any = None
    """`ialign_ray.config.Experiment` that trained it; None for a base without one."""
    threads: Executor | None = None
    """Thread in which its chat template is rendered; None without a template."""
    context: StoredContext | None = None
    """Examples that belong to the version; None for a model without them."""


@dataclass(frozen=True)
class ModelInfo:
    """One entry of `/v1/models`."""

    name: str
    """Value of a request's `model`."""
    id: str
    """`Served.id` of the model behind the name at the moment."""
    kind: Kind
    created: int
    """Unix seconds."""
    details: dict[str, Any] = field(default_factory=dict)
    """Languages by group, replay ratio, suites' scores with intervals, and other facts from the registry."""
