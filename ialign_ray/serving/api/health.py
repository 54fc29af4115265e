"""`/healthz`, `/readyz`, `/metrics`: for those who operate the server."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ialign_ray.serving.api.answers import Health
from ialign_ray.serving.api.errors import documented, not_ready
from ialign_ray.serving.api.service import TheService

router = APIRouter(tags=["operation"])


@router.get("/healthz", responses=documented(500))
async def healthz() -> Health:
    """The process answers."""
    return Health(status="ok")


@router.get("/readyz", responses=documented(500, 503))
async def readyz(service: TheService) -> Health:
    """There are models."""
    if not service.library.cards():
        raise not_ready("no model is there yet")
    return Health(status="ready")


_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "All metrics."}
}


@router.get("/metrics", response_class=Response, responses=_PAGE | documented(401, 429, 500))
async def metrics(service: TheService) -> Response:
    """Prometheus' text format."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
