"""The whole HTTP API as an ASGI application, for uvicorn or Ray Serve's ingress."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.api import chat, classify, completions, errors, middleware, models, pages, translate
from ialign_ray.serving.api.auth import KeyRing
from ialign_ray.serving.api.middleware import ApiMiddleware
from ialign_ray.serving.api.openapi import document
from ialign_ray.serving.api.state import Service
from ialign_ray.serving.protocol import Library

_ROUTES = (models, chat, completions, translate, classify, pages)


class _Api(FastAPI):
    """An application whose document tells this server's limits and keys."""

    def openapi(self) -> dict[str, Any]:
        """The document of `/openapi.json` and `/docs`."""
        return document(self, self.state.service)


def build_app(library: Library, settings: ServeConfig, keys: KeyRing | None) -> FastAPI:
    """The application; `app.state.service` is what its routes share.

    With `keys` every request to a model must carry one. Without, anybody who reaches the port may ask: see
    `check_exposure`.
    """
    service = Service(library, settings, keys)
    # FastAPI's own documentation pages load scripts from other hosts, which a server without network cannot reach.
    app = _Api(
        title="ialign_ray",
        version=version("ialign_ray"),
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
