"""The OpenAPI document of one server: FastAPI's, with this server's limits and keys in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ialign_ray.config.serve import LimitsConfig
from ialign_ray.serving.api.middleware import PROTECTED
from ialign_ray.serving.api.state import Service


def document(app: FastAPI, service: Service) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schemas = found["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's 422, which we do not answer
            schemas.pop(name, None)
        for path, methods in found["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if service.keys is not None and path.startswith(PROTECTED):
                    operation["security"] = [{"key": []}]
        if service.keys is not None:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for field, name, most in _limits(service.limits):
            for schema in schemas.values():
                _limit(schema, field, name, most)
        app.openapi_schema = found
    return app.openapi_schema


def _limits(limits: LimitsConfig) -> Iterator[tuple[str, str, int]]:
    """(parameter, keyword of JSON Schema, value)"""
    yield from ((name, "maximum", limits.new_tokens) for name in ("max_tokens", "max_completion_tokens"))
    yield "n", "maximum", limits.texts
    yield from ((name, "maxItems", limits.texts) for name in ("texts", "continuations"))
    yield "labels", "maxItems", limits.labels


def _limit(schema: dict[str, Any], field: str, keyword: str, most: int) -> None:
    """Set it on the field's numbers or lists, in requests alone."""
    if schema.get("additionalProperties") is not False or field not in schema["properties"]:
        return
    own = schema["properties"][field]
    for one in own.get("anyOf", [own]):
        if one.get("type") == ("integer" if keyword == "maximum" else "array"):
            one[keyword] = most
