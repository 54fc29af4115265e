"""`/v1/translate`: texts from one language into another, prompted as in training."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ialign_ray.serving.api.errors import ASKING
from ialign_ray.serving.api.prompts import Wording, language_of
from ialign_ray.serving.api.request import TheCall, bounded
from ialign_ray.serving.api.respond import Ask, as_json, check_count, collect, new_tokens, sampling
from ialign_ray.serving.api.responses import Translation, Translations, Usage
from ialign_ray.serving.api.schemas import TranslateRequest
from ialign_ray.serving.api.state import TheService

router = APIRouter(tags=["ialign"])
TEMPERATURE = 0.0
"""Default: greedy, the likeliest translation."""


@router.post("/v1/translate", response_model=Translations, responses=ASKING)
async def translate(body: TranslateRequest, request: Request, call: TheCall, service: TheService) -> Response:
    """Translate each text."""
    async with bounded(request):
        check_count(len(body.texts), service.limits, "texts")
        served = await service.open(call, body.model)
        languages = [
            language_of(name, side, served.experiment)
            for side, name in (("source", body.source), ("target", body.target))
        ]
        wording = Wording(served, body.prompt_language)
        prompts = await service.tokenised(
            call, served, lambda tokeniser: [tokeniser.prompt(wording.of(text, *languages)) for text in body.texts]
        )
        lengths = [new_tokens(served, prompt, body.max_tokens, service.limits) for prompt in prompts]
        call.tokens_in = sum(len(prompt) for prompt in prompts)
        await service.reserve(call, call.tokens_in + sum(lengths))
        asks = [Ask(ids, sampling(body, longest, TEMPERATURE)) for ids, longest in zip(prompts, lengths)]
        found = await collect(call, served, asks)
    data = [
        Translation(index=index, text=answer.text.strip(), finish_reason=answer.finish)
        for index, answer in enumerate(found)
    ]
    usage = Usage.of(call.tokens_in, call.tokens_out)
    source, target = languages
    return as_json(Translations(model=call.model or "", source=source, target=target, data=data, usage=usage))
