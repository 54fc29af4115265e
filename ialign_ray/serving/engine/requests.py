"""Requests of the engine: rows to generate, labels and texts to score, and orders between steps."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ialign_ray.serving.engine.detokenize import AnswerText
from ialign_ray.serving.engine.sampling import row_generator
from ialign_ray.serving.protocol import Finish, LabelSums, Sampling, TextDelta, TokenScore

Ids = Sequence[int]


@dataclass(eq=False)
class EngineRequest(ABC):
    """One call to the engine, on its way through the model thread and back to its event loop."""

    adapter: str | None
    loop: asyncio.AbstractEventLoop
    answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    """Set by the event loop's thread when the answer is no longer wanted."""
    ended: bool = False
    """True once the engine has released it, which happens exactly once."""

    @abstractmethod
    def positions(self) -> int:
        """Return the most places for keys and values that it can need."""


@dataclass(eq=False, kw_only=True)
class GenerationRow(EngineRequest):
    """A prompt and the answer generated so far."""

    prompt: Ids
    sampling: Sampling
    text: AnswerText
    ends: frozenset[int]
    start: int | None
    """Start token of an encoder-decoder's decoder; None for causal models."""
    whole: bool = False
    """True if the answer is sent in one piece, after an empty piece at the first token."""
    forced: tuple[int | None, int | None] = (None, None)
    """Forced first and last token of an answer, which some encoder-decoders define."""
    written: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator: torch.Generator | None = row_generator(self.sampling)
        self.complete = False

    def positions(self) -> int:
        """Return the tokens of prompt and longest answer."""
        return len(self.prompt) + self.sampling.max_new_tokens

    def seen(self) -> Ids:
        """Return the decoder's tokens so far."""
        return [*(self.prompt if self.start is None else [self.start]), *self.written]

    def must(self) -> int | None:
        """Return the next token if it is forced, else None."""
        first, last = self.forced
        if not self.written and first is not None:
            return first
        return last if len(self.written) == self.sampling.max_new_tokens - 1 else None

    def accept(self, score: TokenScore) -> TextDelta | None:
        """Append a token; return the piece to send, if any. Sets `complete` after the last token."""
        finish: Finish | None = None
        self.written.append(score.token)
        if score.token in self.ends or self.text.add(score):
            finish = "stop"
        elif len(self.written) == self.sampling.max_new_tokens:
            finish = "length"
        if finish is None and self.whole:
            return TextDelta("") if len(self.written) == 1 else None
        if finish is None:
            text, tokens = self.text.take()
            return TextDelta(text, tokens) if tokens or text else None
        self.complete = True
        self.text.end()
        text, tokens = self.text.take(last=True)
        return TextDelta(text, tokens, "stop" if self.text.stopped else finish)


@dataclass(eq=False, kw_only=True)
class Labels(EngineRequest):
    """Prompts with labels to score after each."""

    prompts: Sequence[Ids]
    labels: Sequence[Ids]
    done: int = 0

    def __post_init__(self) -> None:
        self.sums = np.zeros((len(self.prompts), len(self.labels)))

    def positions(self) -> int:
        """Return the tokens of the longest prompt with its labels."""
        return max(map(len, self.prompts), default=0) + self.label_tokens

    @property
    def label_tokens(self) -> int:
        """Count the tokens of all labels, which each prompt reads."""
        return sum(map(len, self.labels))

    def result(self) -> LabelSums:
        """Return the sums; complete once `done` is the number of prompts."""
        return LabelSums(self.sums.tolist(), [[len(label) for label in self.labels] for _ in self.prompts])


@dataclass(eq=False, kw_only=True)
class Text(EngineRequest):
    """A text whose tokens are to be scored."""

    ids: Ids
    top: int

    def positions(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


Reading = Labels | Text


@dataclass(eq=False)
class Order:
    """Work on the model itself, done by its thread between two steps."""

    work: Callable[[], None]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    after: str | None = None
    """Adapter that must be out of use before the order runs."""


class Outbox:
    """Answers of one step, collected so that each event loop is woken once per step and not once per row."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Any], Any]]] = defaultdict(list)

    def put(self, request: EngineRequest, item: object) -> None:
        """Keep an answer until `send`."""
        self._waiting[request.loop].append((request.answers, item))

    def send(self) -> None:
        """Deliver all answers."""
        waiting, self._waiting = self._waiting, defaultdict(list)
        for loop, items in waiting.items():
            in_loop(loop, _deliver, items)


def _deliver(items: Sequence[tuple[asyncio.Queue[Any], Any]]) -> None:
    for answers, item in items:
        answers.put_nowait(item)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """Call a function in the loop's thread; do nothing if the loop has been closed, as nobody waits then."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
