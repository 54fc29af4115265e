"""`/v1/score`: how likely continuations are after a prompt."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ialign_ray.serving.api.answering import as_json, fits, many
from ialign_ray.serving.api.answers import Score, Scores, Usage
from ialign_ray.serving.api.call import TheCall, bounded
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import read, tokenised
from ialign_ray.serving.api.schemas import ScoreRequest
from ialign_ray.serving.api.service import TheService
from ialign_ray.serving.contract import Served

router = APIRouter(tags=["ialign"])


@router.post("/v1/score", response_model=Scores, responses=ASKING)
async def score(body: ScoreRequest, request: Request, call: TheCall, service: TheService) -> Response:
    """Tell the log-probability of each continuation."""
    async with bounded(request):
        many(len(body.continuations), service.limits, "continuations")
        served = await service.open(call, body.model)
        prompt, texts = await tokenised(call, served, lambda: _tokens(served, body))
        if not all(texts):
            raise wrong("continuations", "a continuation has no tokens of this model; give another text")
        fits(served, prompt, max(len(text) for text in texts), service.limits)
        call.tokens_in = len(prompt) + sum(len(text) for text in texts)
        found = await served.engine.score_labels([prompt], texts, served.adapter)
    pairs = zip(found.log_prob[0], found.tokens[0])
    data = [Score(index=index, log_prob=value, tokens=count) for index, (value, count) in enumerate(pairs)]
    return as_json(Scores(model=call.model or "", data=data, usage=Usage.of(call.tokens_in, 0)))


def _tokens(served: Served, body: ScoreRequest) -> tuple[list[int], list[list[int]]]:
    """Of the prompt, and of each continuation."""
    prompt = read(served, body.prompt) if body.raw else served.encoder.prompt(body.prompt)
    return prompt, [served.encoder.label(text) for text in body.continuations]
