"""The access log: one JSON line a request, with nothing of what users wrote."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import orjson

from ialign_ray.serving.api.call import Call

log = logging.getLogger("ialign_ray.access")


def open_log() -> None:
    """Write the log to stderr, unless the process has a place for it."""
    log.setLevel(logging.INFO)
    if not log.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)


def write(method: str, route: str, status: int, seconds: float, call: Call) -> None:
    """One line. `route` is the route's pattern: a path may hold anything."""
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
