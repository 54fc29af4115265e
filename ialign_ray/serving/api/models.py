"""`/v1/models`: what can be asked for."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from ialign_ray.serving.api.answering import as_json
from ialign_ray.serving.api.answers import ModelCard, ModelList
from ialign_ray.serving.api.call import TheCall
from ialign_ray.serving.api.errors import documented
from ialign_ray.serving.api.service import TheService, unknown
from ialign_ray.serving.contract import Card

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models", response_model=ModelList, responses=documented(401, 429, 500))
async def models(call: TheCall, service: TheService) -> Response:
    """All models that this key may use; the first answers requests that name none."""
    return as_json(ModelList(data=[_card(card) for card in service.cards(call.key)]))


@router.get("/v1/models/{name:path}", response_model=ModelCard, responses=documented(401, 404, 429, 500))
async def model(name: str, call: TheCall, service: TheService) -> Response:
    """One model; names may hold a slash (`NAME/3`)."""
    for card in service.cards(call.key):
        if card.name == name:
            return as_json(_card(card))
    raise unknown(name)


def _card(card: Card) -> ModelCard:
    return ModelCard(id=card.name, created=card.created, version=card.id, kind=card.kind, details=card.details)
