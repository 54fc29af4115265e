"""State of one HTTP request: the resources it holds, its counts and its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from ialign_ray.serving.api.errors import GoneError, timed_out
from ialign_ray.serving.keys import KeyEntry
from ialign_ray.serving.protocol import TextDelta

Item = TypeVar("Item")


@dataclass
class Call:
    """State of one request. `ApiMiddleware` creates it, and logs it when the response is sent."""

    id: str
    """Returned as `x-request-id`."""
    timeout_s: float
    """Seconds allowed from its start to the end of its answer."""
    held: AsyncExitStack
    """The model's lease and the engine's streams, released when the response is sent or the client disconnects."""
    started: float = field(default_factory=time.perf_counter)
    key: KeyEntry | None = None
    """API key of the request; None if the server has no keys."""
    model: str | None = None
    """Requested name, set once a model with that name is found."""
    version: str | None = None
    """`Served.id` of the model that answers."""
    bytes_in: int = 0
    """Bytes of the body received so far."""
    tokens_in: int = 0
    tokens_out: int = 0
    first_token: float | None = None
    """Seconds from the start to the first token."""
    failure: str | None = None
    """Code of the error that ended it."""
    reserved: tuple[str, int] | None = None
    """(ledger, tokens) that the key has spent for this request in advance."""
    streams: bool = False
    """True if each token is counted as it is sent; else only the end of an answer says how many there were."""
    turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    """Context in which one call of the engine runs: it waits until the key has a place in the batch."""
    ended: bool = False
    """True once nobody waits for the answer any more; set by the event loop, read by threads."""
    deadline: float = field(init=False)
    """End of `timeout_s`, on the event loop's clock."""

    def __post_init__(self) -> None:
        self.deadline = asyncio.get_running_loop().time() + self.timeout_s
        self._expires = time.monotonic() + self.timeout_s

    @property
    def owner(self) -> str:
        """Name under which this request takes places: its key's."""
        return self.key.name if self.key else ""

    def check(self) -> None:
        """Raise ApiError (504) if the request has ended or its time is over; threads check between two texts."""
        if self.ended or time.monotonic() > self._expires:
            raise timed_out(self.timeout_s)

    def count(self, piece: TextDelta) -> None:
        """Count the tokens of a piece."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.started
        self.tokens_out += len(piece.tokens)

    def hold(self, stream: AsyncGenerator[Item, None]) -> AsyncGenerator[Item, None]:
        """Close a stream at the latest when the call ends."""
        self.held.push_async_callback(stream.aclose)
        return stream

    async def in_time(self, stream: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """Yield a stream's items; raise ApiError (504) at the deadline."""
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
    """Return the call of a request."""
    call: Call = request.state.call
    return call


TheCall = Annotated[Call, Depends(call_of)]
"""Type of a route's parameter."""


@asynccontextmanager
async def bounded(request: Request) -> AsyncIterator[None]:
    """Stop the body when the client disconnects (GoneError) or at the deadline (ApiError, 504)."""
    call, gone = call_of(request), False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        limit.reschedule(0)  # expires at once; `Task.cancel` would look like a cancellation by the server

    try:
        async with asyncio.timeout_at(call.deadline) as limit:
            watcher = asyncio.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError as error:
        raise (GoneError() if gone else timed_out(call.timeout_s)) from error
