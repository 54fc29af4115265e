"""What waits and runs in the engine: rows that are written, labels that are scored, texts that are read."""

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
    """One call of the engine's, on its way through the model thread and back to its event loop."""

    adapter: str | None
    loop: asyncio.AbstractEventLoop
    answers: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    cancelled: bool = False
    """Set by the event loop's thread when nobody waits for the answer any more."""
    ended: bool = False
    """Whether the engine has let go of it, which it does once."""

    @abstractmethod
    def positions(self) -> int:
        """Tokens of keys and values that it may need, for the queue's order."""


@dataclass(eq=False, kw_only=True)
class GenerationRow(EngineRequest):
    """A prompt and what was written after it so far."""

    prompt: Ids
    sampling: Sampling
    text: AnswerText
    ends: frozenset[int]
    start: int | None
    """The id before the answer on the decoder's side of an encoder-decoder."""
    whole: bool = False
    """Whether the answer is told in one piece, and its first token by an empty one."""
    forced: tuple[int | None, int | None] = (None, None)
    """The first and the last token that an answer must have, as the folders of some encoder-decoders say."""
    written: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator: torch.Generator | None = row_generator(self.sampling)
        self.complete = False

    def positions(self) -> int:
        """Prompt and longest answer."""
        return len(self.prompt) + self.sampling.max_new_tokens

    def seen(self) -> Ids:
        """The decoder's side so far."""
        return [*(self.prompt if self.start is None else [self.start]), *self.written]

    def must(self) -> int | None:
        """The next token where the model has no choice."""
        first, last = self.forced
        if not self.written and first is not None:
            return first
        return last if len(self.written) == self.sampling.max_new_tokens - 1 else None

    def accept(self, score: TokenScore) -> TextDelta | None:
        """Take the next token; a piece where there is something to tell. `complete` says whether it was the last."""
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
    """Prompts that all score the same number of labels."""

    prompts: Sequence[Ids]
    labels: Sequence[Ids]
    done: int = 0

    def __post_init__(self) -> None:
        self.sums = np.zeros((len(self.prompts), len(self.labels)))

    def positions(self) -> int:
        """The longest prompt with its labels."""
        return max(map(len, self.prompts), default=0) + self.label_tokens

    @property
    def label_tokens(self) -> int:
        """Tokens of all labels: each prompt reads them."""
        return sum(map(len, self.labels))

    def result(self) -> LabelSums:
        """What was asked for, once `done` is the number of prompts."""
        return LabelSums(self.sums.tolist(), [[len(label) for label in self.labels] for _ in self.prompts])


@dataclass(eq=False, kw_only=True)
class Text(EngineRequest):
    """A text whose tokens are scored."""

    ids: Ids
    top: int

    def positions(self) -> int:
        """Its tokens."""
        return len(self.ids)


Reading = Labels | Text


@dataclass(eq=False)
class Order:
    """Work on the model itself, done by its thread between two steps."""

    work: Callable[[], None]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    after: str | None = None
    """An adapter that no request may use any more before."""


class Outbox:
    """Answers of one step; every event loop is woken once, whatever the number of rows."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Any], Any]]] = defaultdict(list)

    def put(self, request: EngineRequest, item: object) -> None:
        """Keep an answer until `send`."""
        self._waiting[request.loop].append((request.answers, item))

    def send(self) -> None:
        """Hand all answers over."""
        waiting, self._waiting = self._waiting, defaultdict(list)
        for loop, items in waiting.items():
            in_loop(loop, _deliver, items)


def _deliver(items: Sequence[tuple[asyncio.Queue[Any], Any]]) -> None:
    for answers, item in items:
        answers.put_nowait(item)


def in_loop(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    """Call in the loop's thread; nothing where the loop has ended and with it whoever waited."""
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise
