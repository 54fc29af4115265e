"""`/v1/models`, and for operators `/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ialign_ray.serving.api.errors import documented, not_ready
from ialign_ray.serving.api.request import TheCall
from ialign_ray.serving.api.respond import as_json
from ialign_ray.serving.api.responses import Health, ModelCard, ModelList
from ialign_ray.serving.api.state import TheService, unknown
from ialign_ray.serving.protocol import ModelInfo

router = APIRouter()


@router.get("/v1/models", tags=["OpenAI"], response_model=ModelList, responses=documented(401, 429, 500))
async def models(call: TheCall, service: TheService) -> Response:
    """List the models that this key may use; the first answers requests that name none."""
    return as_json(ModelList(data=[_card(info) for info in service.infos(call.key)]))


@router.get(
    "/v1/models/{name:path}", tags=["OpenAI"], response_model=ModelCard, responses=documented(401, 404, 429, 500)
)
async def model(name: str, call: TheCall, service: TheService) -> Response:
    """Return one model; names may hold a slash (`NAME/3`)."""
    for info in service.infos(call.key):
        if info.name == name:
            return as_json(_card(info))
    raise unknown(name)


def _card(info: ModelInfo) -> ModelCard:
    return ModelCard(id=info.name, created=info.created, version=info.id, kind=info.kind, details=info.details)


@router.get("/healthz", tags=["operation"], responses=documented(500))
async def healthz() -> Health:
    """Return ok while the process answers."""
    return Health(status="ok")


@router.get("/readyz", tags=["operation"], responses=documented(500, 503))
async def readyz(service: TheService) -> Health:
    """Return ready if models are loaded."""
    if not service.library.infos():
        raise not_ready("no model is loaded yet")
    return Health(status="ready")


_PAGE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "All metrics."}
}


@router.get("/metrics", tags=["operation"], response_class=Response, responses=_PAGE | documented(401, 429, 500))
async def metrics(call: TheCall, service: TheService) -> Response:
    """Return the metrics of the models that this key may use in Prometheus' text format; all if it may use all."""
    limited = call.key is not None and call.key.models is not None
    text = service.metrics.text(call.key.allows if call.key and limited else None)
    return Response(text, media_type=CONTENT_TYPE_LATEST)
