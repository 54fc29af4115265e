"""Token ids of one request's texts: bounded in advance, and computed outside the event loop if that takes time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.api.errors import wrong
from ialign_ray.serving.api.request import Call
from ialign_ray.serving.protocol import Served
from ialign_ray.tokens.encode import Encoder

Made = TypeVar("Made")
LONG: Final = 16_384
"""Characters whose tokenising takes about 10 ms; more are left to a thread."""
_CUT: Final = 16
"""Tokens that a cut between two pieces may add."""
_LOCKS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()


@dataclass(frozen=True)
class Tokeniser:
    """Encodes the texts of one request, each after a check of its length and of the request's deadline."""

    call: Call
    served: Served
    settings: ServeConfig

    def prompt(self, text: str) -> list[int]:
        """Encode a request as in training. Raises ApiError: 400 if it cannot fit, 504 if the request has ended."""
        return [int(i) for i in self.served.encoder.prompt(self.checked(text, "prompt"))]

    def label(self, text: str, param: str) -> list[int]:
        """Encode an answer or the word of a label. Raises ApiError as `prompt` does."""
        return [int(i) for i in self.served.encoder.label(self.checked(text, param))]

    def labels(self, words: Sequence[str]) -> list[list[int]]:
        """Encode the words of a set of labels, among which the model chooses. Raises ApiError as `prompt` does."""
        encoder: Encoder = self.served.encoder
        return encoder.labels([self.checked(word, "labels") for word in words])

    def plain(self, text: str) -> list[int]:
        """Encode a text as it is; an empty one becomes the token that begins a text. Raises ApiError."""
        encoder, tokenizer = self.served.encoder, self.served.encoder.tokenizer
        ids = [int(i) for i in encoder.plain(self.checked(text, "prompt"))]
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return ids or [int(start)]

    def checked(self, text: str, param: str) -> str:
        """Return the text. Raises ApiError: 400 if it cannot fit the model, 504 if the request has ended.

        A long text is first read in pieces, so that neither its time nor its memory grows beyond what the model reads.
        """
        self.call.check()
        if len(text) <= LONG:
            return text
        limits = (self.served.max_positions, self.settings.limits.prompt_tokens, self.settings.max_batch_tokens)
        room, tokens = min(limit for limit in limits if limit is not None), 0
        for at in range(0, len(text), LONG):
            self.call.check()
            piece = self.served.encoder.tokenizer(text[at : at + LONG], add_special_tokens=False)["input_ids"]
            tokens += len(piece) - _CUT
            if tokens > room:
                message = (
                    f"{param} has {len(text):,} characters, more than the {room:,} tokens that are read; shorten it"
                )
                raise wrong(param, message, "context_length_exceeded")
        return text


async def tokenised(
    call: Call,
    served: Served,
    settings: ServeConfig,
    threads: Executor,
    work: Callable[[Tokeniser], Made],
    *,
    characters: int = 0,
) -> Made:
    """Run work that tokenises; in a thread if it is long, may have to wait, or renders a chat template.

    `characters`: of the texts, where slots are filled with more than the body holds. An encoder-decoder's tokenizer may
    switch between source and target, so one thread at a time uses it.
    """
    tokeniser, encoder = Tokeniser(call, served, settings), served.encoder
    if max(call.bytes_in, characters) < LONG and not encoder.seq2seq and not encoder.chat:
        return work(tokeniser)
    lock = _LOCKS.setdefault(encoder.tokenizer, threading.Lock()) if encoder.seq2seq else None

    def alone() -> Made:
        if lock is None:
            return work(tokeniser)
        while not lock.acquire(timeout=0.1):
            call.check()
        try:
            return work(tokeniser)
        finally:
            lock.release()

    return await beside(call, served.threads or threads, alone)


async def beside(call: Call, threads: Executor, work: Callable[[], Made]) -> Made:
    """Run work in a thread, unless the request has ended before its turn."""

    def run() -> Made:
        call.check()
        return work()

    return await asyncio.get_running_loop().run_in_executor(threads, run)
