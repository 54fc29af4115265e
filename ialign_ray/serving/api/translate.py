"""`/v1/translate`: texts from one language into another, prompted as in training."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ialign_ray.incontext.prompts import Context
from ialign_ray.serving.api.contexts import (
    PairMemory,
    PromptContext,
    before_request,
    fitted_context,
    line_text,
    room_of,
)
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import Wording, language_of
from ialign_ray.serving.api.request import Call, TheCall, bounded
from ialign_ray.serving.api.respond import Ask, as_json, check_count, collect, new_tokens, sampling
from ialign_ray.serving.api.responses import Translation, Translations, Usage, UsedContext
from ialign_ray.serving.api.schemas import TranslateRequest
from ialign_ray.serving.api.state import Service, TheService
from ialign_ray.serving.api.tokeniser import Tokeniser
from ialign_ray.serving.protocol import Served

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
        about = {"spoken": wording.language, "names": wording.names}
        memory = PairMemory.of(body.context, served, service.limits, source=languages[0], target=languages[1], **about)
        requests = [wording.of(text, *languages) for text in body.texts]
        if memory is None:
            used: list[UsedContext | None] = [None] * len(requests)
            prompts = await service.tokenised(call, served, lambda tokeniser: [tokeniser.prompt(r) for r in requests])
        else:
            found = await service.beside(call, lambda: [memory.find(text) for text in body.texts])
            prompts, used = await _with_pairs(call, served, service, requests, found, body.max_tokens or 1)
        lengths = [new_tokens(served, prompt, body.max_tokens, service.limits) for prompt in prompts]
        call.tokens_in = sum(len(prompt) for prompt in prompts)
        await service.reserve(call, call.tokens_in + sum(lengths))
        asks = [Ask(ids, sampling(body, longest, TEMPERATURE)) for ids, longest in zip(prompts, lengths)]
        answers = await collect(call, served, asks)
    data = [
        Translation(index=index, text=answer.text.strip(), finish_reason=answer.finish, context=context)
        for index, (answer, context) in enumerate(zip(answers, used, strict=True))
    ]
    usage = Usage.of(call.tokens_in, call.tokens_out)
    source, target = languages
    return as_json(Translations(model=call.model or "", source=source, target=target, data=data, usage=usage))


async def _with_pairs(
    call: Call, served: Served, service: Service, requests: Sequence[str], found: Sequence[PromptContext], longest: int
) -> tuple[list[list[int]], list[UsedContext | None]]:
    """Return the prompts of requests with as many pairs as fit before an answer of `longest` tokens, and these."""
    characters = sum(map(len, requests)) + sum(one.characters for one in found)
    if characters > service.limits.body_bytes:
        message = f"the requests with their pairs have {characters:,} characters, and "
        raise wrong("context", f"{message}{service.limits.body_bytes:,} are accepted; lower k, or send fewer texts")
    room = room_of(served, longest, service.limits, service.settings.max_batch_tokens)

    def work(tokeniser: Tokeniser) -> tuple[list[list[int]], list[UsedContext | None]]:
        prompts: list[list[int]] = []
        used: list[UsedContext | None] = []
        for one, request in zip(found, requests, strict=True):

            def prompt(context: Context, request: str = request) -> list[int]:
                return tokeniser.prompt(before_request(context, request))

            kept, shown = fitted_context(tokeniser, one, room, line_text, prompt)
            prompts.append(prompt(kept))
            used.append(shown)
        return prompts, used

    return await service.tokenised(call, served, work, characters=characters)
