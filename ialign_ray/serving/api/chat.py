"""`/v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ialign_ray.incontext.prompts import Context
from ialign_ray.serving.api.contexts import PairMemory, before_request, fitted_context, line_text, room_of
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import chat_prompt
from ialign_ray.serving.api.request import Call, TheCall, bounded
from ialign_ray.serving.api.respond import (
    Ask,
    Whole,
    about,
    as_events,
    as_json,
    ask,
    begun,
    check_count,
    check_scores,
    collect,
    new_tokens,
    sampling,
)
from ialign_ray.serving.api.responses import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    Delta,
    Usage,
    UsedContext,
)
from ialign_ray.serving.api.schemas import ChatRequest
from ialign_ray.serving.api.state import Service, TheService
from ialign_ray.serving.api.tokeniser import Tokeniser
from ialign_ray.serving.api.tokens import chat_logprobs, pieces_of
from ialign_ray.serving.protocol import Served, TextDelta, TokenScore

router = APIRouter(tags=["OpenAI"])
TEMPERATURE = 1.0
"""OpenAI's default."""
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "The answer, whole or in parts."}
}
"""`responses` of a route that may stream."""


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=EVENTS | ASKING)
async def chat(body: ChatRequest, request: Request, call: TheCall, service: TheService) -> Response:
    """Answer the last turn of a conversation."""
    async with bounded(request):
        check_count(body.n or 1, service.limits, "n")
        served = await service.open(call, body.model)
        memory = PairMemory.of(body.context, served, service.limits)
        if memory is None:
            used = None
            prompt = await service.tokenised(call, served, lambda tokeniser: chat_prompt(tokeniser, body.messages))
        else:
            prompt, used = await _with_pairs(call, served, service, body, memory)
        longest = new_tokens(served, prompt, body.longest, service.limits)
        top = (body.top_logprobs or 0) if body.logprobs else None
        check_scores((body.n or 1) * longest, top, "top_logprobs")
        asks = [Ask(prompt, sampling(body, longest, TEMPERATURE, i, top)) for i in range(body.n or 1)]
        call.tokens_in = len(prompt)
        await service.reserve(call, len(prompt) + longest * len(asks))
        if body.stream:
            pieces = await begun(ask(call, served, asks))
            return as_events(call, _chunks(call, served, pieces, body, used))
        found = await collect(call, served, asks)
        if top is None:
            return as_json(_whole(call, served, body, found, used))
        return await service.beside(call, lambda: as_json(_whole(call, served, body, found, used)))


async def _with_pairs(
    call: Call, served: Served, service: Service, body: ChatRequest, memory: PairMemory
) -> tuple[list[int], UsedContext]:
    """Return the prompt of a conversation with pairs before its last turn of the user, and these pairs."""
    places = [k for k, message in enumerate(body.messages) if message.role == "user"]
    if not places:
        raise wrong("messages", "a context precedes the last turn of the user, and there is no such turn; add one")
    last = body.messages[places[-1]]
    found = await service.beside(call, lambda: memory.find(last.text))
    room = room_of(served, body.longest or 1, service.limits, service.settings.max_batch_tokens)

    def work(tokeniser: Tokeniser) -> tuple[list[int], UsedContext]:
        def prompt(context: Context) -> list[int]:
            turn = last.model_copy(update={"content": before_request(context, last.text)})
            return chat_prompt(tokeniser, [*body.messages[: places[-1]], turn, *body.messages[places[-1] + 1 :]])

        kept, used = fitted_context(tokeniser, found, room, line_text, prompt)
        return prompt(kept), used

    return await service.tokenised(call, served, work, characters=call.bytes_in + found.characters)


def _whole(
    call: Call, served: Served, body: ChatRequest, found: Sequence[Whole], used: UsedContext | None
) -> ChatCompletion:
    choices = [
        ChatChoice(
            index=index,
            message=ChatMessage(content=answer.text),
            logprobs=_logprobs(served, body, answer.scores),
            finish_reason=answer.finish,
        )
        for index, answer in enumerate(found)
    ]
    usage = Usage.of(call.tokens_in, call.tokens_out)
    return ChatCompletion(**about(call, served, "chatcmpl"), choices=choices, usage=usage, context=used)


async def _chunks(
    call: Call,
    served: Served,
    pieces: AsyncIterator[tuple[int, TextDelta]],
    body: ChatRequest,
    used: UsedContext | None,
) -> AsyncIterator[ChatChunk]:
    head = about(call, served, "chatcmpl")

    def chunk(index: int, delta: Delta, **more: Any) -> ChatChunk:
        return ChatChunk(**head, choices=[ChatChunkChoice(index=index, delta=delta, **more)])

    for index in range(body.n or 1):
        first = chunk(index, Delta(role="assistant", content=""))
        yield first if index else first.model_copy(update={"context": used})
    async for index, piece in pieces:
        if piece.text or piece.tokens:
            yield chunk(index, Delta(content=piece.text), logprobs=_logprobs(served, body, piece.tokens))
        if piece.finish:
            yield chunk(index, Delta(), finish_reason=piece.finish)
    if body.counts:
        yield ChatChunk(**head, choices=[], usage=Usage.of(call.tokens_in, call.tokens_out))


def _logprobs(served: Served, body: ChatRequest, scores: list[TokenScore] | tuple[TokenScore, ...]) -> Any:
    if not body.logprobs:
        return None
    return chat_logprobs(pieces_of(served.encoder.tokenizer), scores) if scores else ChatLogprobs(content=[])
