"""Middleware around every route: request id, key, rate and size limits before it, access log and metrics after it.

Plain ASGI, since it must see the response to its last byte: the model's lease and the engine's streams are released
there, also when the client disconnects in the middle. `asgi-correlation-id` would replace four lines (the request id)
and take another middleware for it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ialign_ray.serving.api import middleware
from ialign_ray.serving.api.errors import GONE, ApiError, GoneError, internal, log_bug, response, too_busy
from ialign_ray.serving.api.request import Call
from ialign_ray.serving.api.shares import Shares
from ialign_ray.serving.api.state import Service

PROTECTED: Final = ("/v1/", "/metrics")
"""Paths that need a key if there are keys. Health, documentation and the page hold nothing about users or models."""
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CALM_S: Final = 0.25
"""Seconds before a 429 is sent: a client that asks again at once would keep the event loop busy with refusals."""
_SLACK_S: Final = 10.0  # beyond the timeout, for a client to read the end of its answer


class ApiMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        async with AsyncExitStack() as held:
            call = Call(name, self.service.limits.timeout_s, held)
            # a copy: the server may share one dict for all requests
            scope["state"] = {**scope.get("state", {}), "call": call}
            wire = Wire(call, receive, send, self.service.limits.body_bytes)
            held.callback(self._account, scope, wire)
            with self.service.metrics.running.track_inprogress():
                await self._answer(scope, headers, wire)

    async def _answer(self, scope: Scope, headers: Headers, wire: Wire) -> None:
        try:
            path = inner_path(scope)
            if path.startswith(PROTECTED):
                await self._admit(headers, wire.call)
            wire.check_length(headers)
            if scope["method"] != "POST" or not path.startswith(PROTECTED):  # no other route reads a body
                await self.app(scope, wire.receive, wire.send)
                return
            with _place(self.service.bodies, wire.call, "bodies arrive"):
                await wire.read(self.service.limits.body_s)
            with _place(self.service.queue, wire.call, "requests are under way"):
                await self.app(scope, wire.receive, wire.send)
        except (GoneError, ClientDisconnect):
            await wire.give_up(scope)
        except ApiError as error:
            if error.status_code == 429:
                await asyncio.sleep(_CALM_S)
            await wire.refuse(scope, error)
        except asyncio.CancelledError:
            wire.status = wire.status or GONE
            raise
        except Exception as error:
            log_bug(error)
            await wire.refuse(scope, internal())

    async def _admit(self, headers: Headers, call: Call) -> None:
        """Check the key. Raises ApiError: 401 without a known key, 429 above the key's rates."""
        if self.service.counter is not None:
            scheme, _, secret = headers.get("authorization", "").partition(" ")
            await self.service.enter(call, secret.strip() if scheme.lower() == "bearer" else "")

    def _account(self, scope: Scope, wire: Wire) -> None:
        call, seconds = wire.call, time.perf_counter() - wire.call.started
        call.ended = True
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        self.service.settle(call)
        self.service.metrics.finished(route, wire.status, seconds, call)
        middleware.write(scope["method"], route, wire.status, seconds, call)


@contextmanager
def _place(shares: Shares, call: Call, what: str) -> Iterator[None]:
    """Hold a place of the request's key. Raises ApiError (429)."""
    owner = call.owner
    if not shares.take(owner):
        raise too_busy(
            f"the limit of {what} of this server, or of one of its keys, is reached; try again", 1.0, "server_busy"
        )
    try:
        yield
    finally:
        shares.give(owner)


def inner_path(scope: Scope) -> str:
    """Return the path that routes match, without the prefix under which the app is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


@dataclass
class Wire:
    """The two directions of a request, with size and time limits."""

    call: Call
    incoming: Receive
    outgoing: Send
    most: int
    """Largest allowed body in bytes."""
    status: int = 0
    """0 until a response starts."""
    _whole: bool = False
    _body: bytes | None = None
    _sent: bool = False

    def check_length(self, headers: Headers) -> None:
        """Raise ApiError (413) if Content-Length is above the limit."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.most:
            raise self._too_large()

    async def read(self, seconds: float) -> None:
        """Read the body. Raises ApiError: 413 if it is too large, 408 if it takes too long."""
        parts = []
        try:
            async with asyncio.timeout_at(min(self.call.deadline, asyncio.get_running_loop().time() + seconds)):
                while not self._whole:
                    message = self._noted(await self.incoming())
                    if message["type"] == "http.disconnect":
                        raise GoneError
                    parts.append(message.get("body", b""))
                    self.call.bytes_in += len(parts[-1])
                    if self.call.bytes_in > self.most:
                        raise self._too_large()
                    self._whole = not message.get("more_body", False)
        except TimeoutError as error:
            raise ApiError(408, "the body did not arrive in time", code="timeout") from error
        self._body = b"".join(parts)

    async def receive(self) -> Message:
        """Return the body that was read, then what the client sends after it: that it has disconnected."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return self._noted(await self.incoming())

    async def send(self, message: Message) -> None:
        """Pass a message to the client, with the call's headers. Raises GoneError if it does not read in time."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            sent = MutableHeaders(scope=message)
            sent["x-request-id"] = self.call.id
            if self.call.version is not None:
                sent["x-model-version"] = self.call.version.encode("ascii", "backslashreplace").decode()
        try:
            async with asyncio.timeout_at(self.call.deadline + _SLACK_S):
                await self.outgoing(message)
        except TimeoutError as error:
            raise GoneError from error
        self._sent = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, scope: Scope, error: ApiError) -> None:
        """Answer with an error; a response that has started can only be broken off."""
        self.call.failure = error.reason
        if not self.status:
            await response(error)(scope, self.incoming, self.send)

    async def give_up(self, scope: Scope) -> None:
        """End a request whose client has disconnected or does not read. Servers still expect a response."""
        self.call.failure = "client_gone"
        if not self.status:
            await JSONResponse(None, GONE)(scope, self.incoming, self.send)

    def _noted(self, message: Message) -> Message:
        if message["type"] == "http.disconnect" and not self._sent:
            self.call.failure = "client_gone"
        return message

    def _too_large(self) -> ApiError:
        message = f"the body is larger than the {self.most:,} bytes that this server accepts; send less at a time"
        return ApiError(413, message, code="request_too_large")


log = logging.getLogger("ialign_ray.access")


def open_log() -> None:
    """Write the access log to stderr, unless the process has configured logging."""
    log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)


def write(method: str, route: str, status: int, seconds: float, call: Call) -> None:
    """Write one line. `route` is the route's pattern, since a path may hold anything."""
    line: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": call.id,
        "key": call.key.name if call.key else None,
        "model": call.model,
        "version": call.version,
        "route": f"{method} {route}",
        "status": status,
        "error": call.failure,
        "tokens_in": call.tokens_in,
        "tokens_out": call.tokens_out,
        "ms": round(seconds * 1000, 1),
        "first_token_ms": None if call.first_token is None else round(call.first_token * 1000, 1),
    }
    log.info("%s", orjson.dumps(line).decode())
