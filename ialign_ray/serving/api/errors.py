"""Errors in the form that OpenAI's clients expect: a status and `{"error": {message, type, param, code}}`.

A message names the parameter, what is wrong and the cure. It never holds a traceback, a path of the server or a
text that a user sent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from ialign_ray.errors import IalignError
from ialign_ray.serving.protocol import BusyError, EngineError, NotANumberError, UnknownModelError

log = logging.getLogger("ialign_ray.serving")

INVALID: Final = "invalid_request_error"
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ROUTING: Final = {
    404: "there is nothing at this address; see /docs",
    405: "this address takes another method; see /docs",
}
"""Messages for Starlette's own errors."""
GONE: Final = 499
"""Status in the access log if the client disconnected; nobody receives it."""


class ErrorDetail(BaseModel):
    """Details of an error."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    message: str
    """One sentence for people."""
    type: str
    """Kind of error, for programs."""
    param: str | None = None
    """The wrong parameter, if there is one."""
    code: str | None = None
    """The exact reason, for programs."""


class ErrorBody(BaseModel):
    """Answer to a failed request."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An error as an answer. Derived from Starlette's exception, which FastAPI lets through while it reads a body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code

    @property
    def reason(self) -> str:
        """Code for the log."""
        return self.code or str(self.status_code)

    @property
    def body(self) -> ErrorBody:
        """The response's body."""
        return error_body(self.status_code, str(self.detail), self.param, self.code)


class GoneError(Exception):
    """The client disconnected before its answer was ready."""


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> ErrorBody:
    """Build the body of an error with this status."""
    kind = _TYPES.get(status) or ("server_error" if status >= 500 else INVALID)
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code))


def response(error: ApiError) -> JSONResponse:
    """Build the HTTP response of an error."""
    return JSONResponse(error.body.model_dump(), error.status_code, error.headers)


def wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """400: a wrong parameter."""
    return ApiError(400, message, param=param, code=code)


def too_busy(message: str, seconds: float, code: str) -> ApiError:
    """429, with the seconds until the next try."""
    return ApiError(429, message, code=code, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def not_ready(message: str) -> ApiError:
    """503, worth another try."""
    return ApiError(503, message, code="not_ready", headers={"Retry-After": "2"})


def timed_out(seconds: float) -> ApiError:
    """504: the answer took too long."""
    return ApiError(504, f"the answer was not ready in {seconds:g} seconds; ask for fewer tokens", code="timeout")


def internal() -> ApiError:
    """500: a bug in the server; the client gets no details."""
    return ApiError(500, "the server failed; its log has details under this x-request-id", code="internal_error")


def to_api_error(error: Exception) -> ApiError:
    """Turn an exception into the answer to its request; an unknown one is a bug and logged without its message."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return invalid(error.errors())
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, _ROUTING.get(error.status_code, str(error.detail)), headers=error.headers)
    if isinstance(error, BusyError):
        return too_busy(str(error), error.retry_after, "server_busy")
    if isinstance(error, UnknownModelError):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, EngineError):
        return not_ready(str(error))
    if isinstance(error, NotANumberError):
        return ApiError(500, str(error), code="not_a_number")
    if isinstance(error, IalignError):
        return ApiError(400, str(error))
    log_bug(error)
    return internal()


def log_bug(error: BaseException) -> None:
    """Log the kind and place of an exception, but not its message, which may quote a user's text."""
    frames, at = [], error.__traceback__
    while at is not None:
        frames.append(f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}")
        at = at.tb_next
    log.error("%s at %s", type(error).__name__, " < ".join(reversed(frames)))


def invalid(errors: Sequence[Any]) -> ApiError:
    """400 for a body that does not match the schema; names the first wrong parameter."""
    first = errors[0]
    place = [str(part) for part in first["loc"][1:]]
    kind, param = str(first["type"]), printable(".".join(place)) or None
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']} at character {place[0]}", code=kind)
    if kind == "refused":
        return wrong(first["ctx"]["param"], first["ctx"]["reason"], first["ctx"]["code"])
    if param is None:
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json", code=kind)
    if kind == "missing":
        return wrong(param, f"{param} is missing", "missing_parameter")
    if kind == "extra_forbidden":
        return wrong(param, f"{param} is not a parameter of this request; remove it", "unknown_parameter")
    message = str(first["msg"])
    return wrong(param, f"{param}: {message[:1].lower()}{message[1:]}")


def printable(text: str, most: int = 64) -> str:
    """Make a client's name safe to send back: control characters and lone surrogates are escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown + ("…" if len(text) > most else "")


async def handle(request: Request, error: Exception) -> JSONResponse:
    """Answer an exception that a route raised."""
    failed = to_api_error(error)
    request.state.call.failure = failed.reason
    return response(failed)


def install(app: FastAPI) -> None:
    """Answer the errors of the app's routes in OpenAI's form; all others reach `ApiMiddleware`."""
    kinds: tuple[type[Exception], ...] = (HTTPException, RequestValidationError, IalignError)
    for kind in kinds:
        app.add_exception_handler(kind, handle)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route for the OpenAPI document."""
    return {status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses}


MEANINGS: Final = {
    400: "A parameter is wrong, unknown or not supported; `param` names it.",
    401: "The API key is missing or wrong.",
    404: "No such model, or this key may not use it.",
    408: "The body did not arrive in time.",
    413: "The body is larger than this server accepts.",
    429: "The queue is full, or the key's rate limit is reached; `Retry-After` says when to try again.",
    500: "A bug of the server, or the model computed NaN for this request (`not_a_number`).",
    503: "The model is not ready; `Retry-After` says when to try again.",
    504: "The answer took too long.",
}
"""Meaning of each status."""
ASKING: Final = documented(*MEANINGS)
"""Errors of every route that uses a model."""
