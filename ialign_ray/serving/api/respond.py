"""Answers to prompts: length checks, sampling parameters, and the merged engine streams of a request."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from fastapi.responses import Response, StreamingResponse

from ialign_ray.config.serve import LimitsConfig
from ialign_ray.serving.api.errors import ApiError, to_api_error, wrong
from ialign_ray.serving.api.request import Call
from ialign_ray.serving.api.responses import Answer
from ialign_ray.serving.api.schemas import Decoding
from ialign_ray.serving.protocol import Finish, Sampling, Served, TextDelta, TokenScore

Item = TypeVar("Item")
COLDEST: Final = 0.01
"""Lower temperatures become 0: logits divided by less overflow, and the likeliest token is almost certain."""
MOST_SCORES: Final = 500_000
"""Log-probabilities in one answer; each takes about 100 bytes until it is sent."""
Pieces = AsyncGenerator[tuple[int, TextDelta], None]
"""Pairs of answer index and its next piece."""


@dataclass(frozen=True)
class Ask:
    """One requested answer."""

    prompt: list[int]
    sampling: Sampling


@dataclass
class Whole:
    """One whole answer."""

    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    finish: Finish = "length"

    def add(self, piece: TextDelta) -> None:
        """Append the next piece."""
        self.text += piece.text
        self.scores += piece.tokens
        self.finish = piece.finish or self.finish


def check_count(count: int, limits: LimitsConfig, param: str) -> None:
    """Raise ApiError (400) if a request has more than `limits.texts` parts."""
    if count > limits.texts:
        raise wrong(param, f"{param} asks for {count} at once; this server accepts {limits.texts}, so split it")


def check_scores(tokens: int, top: int | None, param: str) -> None:
    """Raise ApiError (400) if an answer of so many tokens would have more than `MOST_SCORES` log-probabilities."""
    if top is not None and (count := tokens * (1 + top)) > MOST_SCORES:
        message = f"{count:,} log-probabilities are requested, but at most {MOST_SCORES:,} are sent; request fewer"
        raise wrong(param, f"{message} tokens, choices or alternatives")


def check_length(served: Served, prompt: Sequence[int], answer: int, limits: LimitsConfig) -> None:
    """Raise ApiError (400) if a prompt and `answer` tokens after it do not fit."""
    size, room = len(prompt), served.max_positions
    if limits.prompt_tokens is not None and size > limits.prompt_tokens:
        raise _too_long("prompt", f"the prompt has {size} tokens; this server accepts {limits.prompt_tokens}")
    if room is None:
        return
    if size > room:
        raise _too_long("prompt", f"the prompt has {size} tokens; the model accepts {room}, so shorten it")
    apart = served.encoder.seq2seq  # an encoder-decoder counts the two sides separately
    if (answer if apart else size + answer) > room:
        message = f"{size} tokens of prompt and {answer} of answer do not fit the model's {room}; ask for fewer"
        raise _too_long("max_tokens", message)


def _too_long(param: str, message: str) -> ApiError:
    return wrong(param, message, "context_length_exceeded")


def new_tokens(served: Served, prompt: Sequence[int], wanted: int | None, limits: LimitsConfig) -> int:
    """Return the most tokens of an answer: as requested, or the default as far as the model has room.

    Raises ApiError (400) if the request does not fit."""
    if wanted is not None:
        if wanted > limits.new_tokens:
            message = f"max_tokens is {wanted}; this server generates at most {limits.new_tokens}, so ask for fewer"
            raise wrong("max_tokens", message)
        check_length(served, prompt, wanted, limits)
        return wanted
    check_length(served, prompt, 1, limits)
    default = min(limits.default_new_tokens, limits.new_tokens)
    if served.max_positions is None:
        return default
    return min(default, served.max_positions - (0 if served.encoder.seq2seq else len(prompt)))


def sampling(body: Decoding, longest: int, temperature: float, choice: int = 0, top: int | None = None) -> Sampling:
    """Return the engine's parameters for one choice; `temperature` is the default."""
    heat = temperature if body.temperature is None else float(body.temperature)
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return Sampling(
        max_new_tokens=longest,
        temperature=heat if heat >= COLDEST else 0.0,
        top_p=1.0 if body.top_p is None else float(body.top_p),
        top_k=body.top_k or 0,
        repetition_penalty=1.0 if body.repetition_penalty is None else float(body.repetition_penalty),
        seed=None if body.seed is None else body.seed + choice,
        stop=stop,
        top_log_probs=top,
    )


def ask(
    call: Call, served: Served, asks: Sequence[Ask], *, whole: bool = False
) -> AsyncIterator[tuple[int, TextDelta]]:
    """Start all answers and yield their pieces as they are generated, until the call's deadline."""
    return call.in_time(call.hold(_merged(call, served, asks, whole)))


async def collect(call: Call, served: Served, asks: Sequence[Ask]) -> list[Whole]:
    """Collect whole answers."""
    found = [Whole() for _ in asks]
    async for index, piece in ask(call, served, asks, whole=True):
        found[index].add(piece)
    return found


async def together(work: Iterable[Coroutine[Any, Any, Item]]) -> list[Item]:
    """Run coroutines concurrently, so that the engine can batch them; the first failure cancels the others."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _merged(call: Call, served: Served, asks: Sequence[Ask], whole: bool) -> Pieces:
    """Yield the pieces of all answers. The first failure ends them all, as does closing the generator."""
    queue: asyncio.Queue[tuple[int, TextDelta] | BaseException | None] = asyncio.Queue()

    async def run(index: int, one: Ask) -> None:
        try:
            async with call.turn():
                how = replace(one.sampling, ends=served.encoder.ends)
                stream: Any = served.engine.stream(one.prompt, how, served.adapter, whole=whole)
                async with aclosing(stream):
                    async for piece in stream:
                        queue.put_nowait((index, piece))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(run(index, one)) for index, one in enumerate(asks)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
                continue
            call.count(item[1])
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def new_id(prefix: str) -> str:
    """Create an id for an answer."""
    return f"{prefix}-{uuid.uuid4().hex}"


def about(call: Call, served: Served, prefix: str) -> dict[str, Any]:
    """Return the fields that every OpenAI object begins with."""
    fixed = {"id": new_id(prefix), "created": int(time.time()), "model": call.model or ""}
    return fixed | {"system_fingerprint": served.id}


def as_json(answer: Answer) -> Response:
    """Return an answer as an HTTP response."""
    return Response(answer.model_dump_json(), media_type="application/json")


def as_events(call: Call, answers: AsyncIterator[Answer]) -> StreamingResponse:
    """Return answers as server-sent events. An error after the first one is the last event."""
    call.streams = True

    async def lines() -> AsyncIterator[str]:
        try:
            async for answer in answers:
                yield f"data: {answer.model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"
        except Exception as error:
            failed = to_api_error(error)
            call.failure = failed.reason
            yield f"data: {failed.body.model_dump_json()}\n\n"

    # X-Accel-Buffering: nginx would hold events back to fill its buffer
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def begun(pieces: AsyncIterator[tuple[int, TextDelta]]) -> AsyncIterator[tuple[int, TextDelta]]:
    """Wait for the first piece of a stream, so that an error before it still gets its own HTTP status."""
    first = await anext(pieces)

    async def again() -> AsyncIterator[tuple[int, TextDelta]]:
        yield first
        async for item in pieces:
            yield item

    return again()
