"""One HTTP request while it lasts: what it holds, what it has used, until when it may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from ialign_ray.serving.api.auth import KeyEntry
from ialign_ray.serving.api.errors import GoneError, timed_out
from ialign_ray.serving.protocol import TextDelta

Item = TypeVar("Item")


@dataclass
class Call:
    """What is known of a request. The front (`front.py`) makes it, and logs it when the response is sent."""

    id: str
    """Returned as `x-request-id`."""
    timeout_s: float
    """From its start to the end of its answer."""
    held: AsyncExitStack
    """The model's lease and the engine's streams: let go when the response is sent, or the client has gone."""
    started: float = field(default_factory=time.perf_counter)
    key: KeyEntry | None = None
    """Whose it is; None where the server has no keys."""
    model: str | None = None
    """Name that was asked for, once a model has it."""
    version: str | None = None
    """`Served.id` of what answers."""
    bytes_in: int = 0
    """Of the body, as far as it has come."""
    tokens_in: int = 0
    tokens_out: int = 0
    first_token: float | None = None
    """Seconds until the first token."""
    failure: str | None = None
    """Code of the error that it ended with."""
    deadline: float = field(init=False)
    """In the event loop's time."""

    def __post_init__(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + self.timeout_s

    def count(self, piece: TextDelta) -> None:
        """Note what was generated."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.started
        self.tokens_out += len(piece.tokens)

    def hold(self, stream: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
        """Close a stream at the latest when the call ends."""
        self.held.push_async_callback(stream.aclose)
        return stream

    async def in_time(self, stream: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """A stream that ends with ApiError (504) at the deadline."""
        while True:
            try:
                async with asyncio.timeout_at(self.deadline):
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise timed_out(self.timeout_s) from error
            yield item


def call_of(request: Request) -> Call:
    """The call of a request."""
    call: Call = request.state.call
    return call


TheCall = Annotated[Call, Depends(call_of)]
"""Parameter of a route."""


@asynccontextmanager
async def bounded(request: Request) -> AsyncIterator[None]:
    """Stop what is inside when the client goes away (GoneError) or the time is over (ApiError, 504)."""
    call, gone = call_of(request), False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        limit.reschedule(0)  # the time is over at once: the one way to stop a task from outside and tell why

    try:
        async with asyncio.timeout_at(call.deadline) as limit:
            watcher = asyncio.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError as error:
        raise (GoneError() if gone else timed_out(call.timeout_s)) from error
