"""The HTTP API as an ASGI application, for uvicorn or Ray Serve's ingress, and its OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.serving.api import chat, classify, completions, errors, middleware, models, pages, translate
from ialign_ray.serving.api.middleware import PROTECTED, ApiMiddleware
from ialign_ray.serving.api.state import Service
from ialign_ray.serving.keys import KeyRing
from ialign_ray.serving.ledger import KeyLedger, LimitCounter, LocalCounter
from ialign_ray.version import __version__

if TYPE_CHECKING:  # it brings MLflow, which the API itself does not need
    from ialign_ray.serving.model_library import ModelLibrary

_ROUTES = (models, chat, completions, translate, classify, pages)


class _Api(FastAPI):
    """An application whose OpenAPI document has this server's limits and keys."""

    def openapi(self) -> dict[str, Any]:
        """Return FastAPI's document with this server's limits and keys, without the 422 that it never answers."""
        if self.openapi_schema is None:
            self.openapi_schema = _document(self, self.state.service)
        return self.openapi_schema


def build_app(
    library: ModelLibrary, settings: ServeConfig, keys: KeyRing | None, counter: LimitCounter | None = None
) -> FastAPI:
    """Return the application; its routes share `app.state.service`.

    With `keys` every request to a model must carry one. Without keys, anyone who reaches the port is served: see
    `check_exposure`. `counter` knows the keys and counts their requests; by default only for this process.
    """
    if keys is not None and counter is None:
        counter = LocalCounter(KeyLedger(keys))
    service = Service(library, settings, counter)
    # FastAPI's own documentation pages load scripts from other hosts, which a server without network cannot reach.
    app = _Api(
        title="ialign_ray",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        middleware=[Middleware(ApiMiddleware, service=service)],
    )
    app.state.service = service
    for part in _ROUTES:
        app.include_router(part.router)
    errors.install(app)
    middleware.open_log()
    return app


def _document(app: FastAPI, service: Service) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = found["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's 422; `errors.invalid` answers 400
        schemas.pop(name, None)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            if service.counter is not None and path.startswith(PROTECTED):
                operation["security"] = [{"key": []}]
    if service.counter is not None:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for field, keyword, most in _limits(service.limits):
        for schema in schemas.values():
            _limit(schema, field, keyword, most)
    return found


def _limits(limits: LimitsConfig) -> Iterator[tuple[str, str, int]]:
    """Yield (parameter, keyword of JSON Schema, value)."""
    yield from ((name, "maximum", limits.new_tokens) for name in ("max_tokens", "max_completion_tokens"))
    yield "n", "maximum", limits.texts
    yield from ((name, "maxItems", limits.texts) for name in ("texts", "continuations"))
    yield "labels", "maxItems", limits.labels
    yield from ((name, "maxItems", limits.exemplars) for name in ("exemplars", "pairs"))


def _limit(schema: dict[str, Any], field: str, keyword: str, most: int) -> None:
    """Set the keyword on the field's numbers or lists, in requests only (they alone forbid unknown fields)."""
    if schema.get("additionalProperties") is not False or field not in schema["properties"]:
        return
    own = schema["properties"][field]
    for one in own.get("anyOf", [own]):
        if one.get("type") == ("integer" if keyword == "maximum" else "array"):
            one[keyword] = most
