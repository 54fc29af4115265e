"""`/v1/completions`, as the `openai` client and lm-evaluation-harness' `local-completions` use it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ialign_ray.serving.api.chat import EVENTS, TEMPERATURE
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import known_ids
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
    check_length,
    check_scores,
    collect,
    new_tokens,
    sampling,
    together,
)
from ialign_ray.serving.api.responses import Choice, Completion, Logprobs, Usage
from ialign_ray.serving.api.schemas import CompletionRequest
from ialign_ray.serving.api.state import Service, TheService
from ialign_ray.serving.api.tokeniser import Tokeniser
from ialign_ray.serving.api.tokens import Offsets, logprobs, pieces_of
from ialign_ray.serving.protocol import Served, TextDelta, TokenScore

router = APIRouter(tags=["OpenAI"])


@dataclass(frozen=True)
class Prompted:
    """A prompt, with its tokens' scores if it is echoed with log-probabilities."""

    ids: list[int]
    text: str
    scores: Sequence[TokenScore] = ()


@router.post("/v1/completions", response_model=Completion, responses=EVENTS | ASKING)
async def complete(body: CompletionRequest, request: Request, call: TheCall, service: TheService) -> Response:
    """Continue texts."""
    async with bounded(request):
        given = _given(body)
        check_count(len(given) * (body.n or 1), service.limits, "prompt")
        served = await service.open(call, body.model)
        prompts = await service.tokenised(call, served, lambda tokeniser: [_prompted(tokeniser, one) for one in given])
        asks = _asks(served, prompts, body, service)
        call.tokens_in = sum(len(prompt.ids) for prompt in prompts)
        echoed = call.tokens_in * (body.n or 1) if body.echo else 0
        most = sum(one.sampling.max_new_tokens for one in asks)
        check_scores(echoed + most, body.logprobs, "logprobs")
        await service.reserve(call, call.tokens_in + most)
        if body.echo and body.logprobs is not None:
            prompts = await together(_scored(call, served, prompt, body.logprobs) for prompt in prompts)
        writer = _CompletionWriter(call, served, body, prompts)
        if body.echo:
            await service.beside(call, writer.begin)
        if body.stream:
            pieces = await begun(ask(call, served, asks)) if asks else None
            return as_events(call, _chunks(call, served, writer, pieces, body))
        found = await collect(call, served, asks) if asks else [Whole() for _ in range(writer.count)]
        if body.echo and body.logprobs is not None:
            await together(
                _append_end(call, served, prompts[i // (body.n or 1)], answer, body) for i, answer in enumerate(found)
            )
        if body.logprobs is None:
            return as_json(writer.answer(found))
        return await service.beside(call, lambda: as_json(writer.answer(found)))


def _given(body: CompletionRequest) -> Sequence[str | list[int]]:
    """Return the prompts of a request."""
    given: Any = body.prompt
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


def _prompted(tokeniser: Tokeniser, given: str | list[int]) -> Prompted:
    if isinstance(given, str):
        return Prompted(tokeniser.plain(given), given)
    tokeniser.call.check()
    ids = known_ids(tokeniser.served, given)
    return Prompted(ids, pieces_of(tokeniser.served.encoder.tokenizer).decode(ids))


def _asks(served: Served, prompts: list[Prompted], body: CompletionRequest, service: Service) -> list[Ask]:
    """Return one `Ask` for each answer; an empty list if only the echo is requested."""
    if body.max_tokens == 0:
        for prompt in prompts:
            check_length(served, prompt.ids, 0, service.limits)
        return []
    lengths = [new_tokens(served, prompt.ids, body.max_tokens, service.limits) for prompt in prompts]
    return [
        Ask(prompt.ids, sampling(body, length, TEMPERATURE, choice, body.logprobs))
        for prompt, length in zip(prompts, lengths)
        for choice in range(body.n or 1)
    ]


async def _scored(call: Call, served: Served, prompt: Prompted, top: int) -> Prompted:
    if served.encoder.seq2seq:
        message = "this model is an encoder-decoder, whose prompt has no log-probabilities; remove echo or logprobs"
        raise wrong("echo", message)
    async with call.turn():
        return Prompted(prompt.ids, prompt.text, await served.engine.read(prompt.ids, top, served.adapter))


async def _append_end(call: Call, served: Served, prompt: Prompted, answer: Whole, body: CompletionRequest) -> None:
    """Append the end-of-sequence token of an answer, which the engine leaves out.

    lm-evaluation-harness asks for one token after an echoed prompt and drops the last token of the answer, whatever
    it is, so there must be one.
    """
    if answer.finish != "stop" or body.stop:  # a stop text may have ended it just as well
        return
    end = int(served.encoder.tokenizer.eos_token_id)
    ids = [*prompt.ids, *(score.token for score in answer.scores), end]
    async with call.turn():
        answer.scores.append((await served.engine.read(ids, body.logprobs or 0, served.adapter))[-1])


class _CompletionWriter:
    """Builds the choices of one request; an echoed prompt comes first and shifts the offsets."""

    def __init__(self, call: Call, served: Served, body: CompletionRequest, prompts: list[Prompted]) -> None:
        self._call, self._served = call, served
        self._body, self._prompts, self._n = body, prompts, body.n or 1
        self._pieces = pieces_of(served.encoder.tokenizer)
        self._offsets = [Offsets(self._pieces) for _ in range(self.count)]
        self.begins = [Choice(index=index, text="") for index in range(self.count)]
        """The echoed prompts as choices; empty without `echo`."""

    def begin(self) -> None:
        """Build `begins`; in a thread, since each token of an echoed prompt with log-probabilities is decoded."""
        for index in range(self.count):
            self._call.check()
            prompt = self._prompts[index // self._n]
            scored = self._logprobs(index, prompt.scores)
            self.begins[index] = Choice(index=index, text=prompt.text, logprobs=scored)

    def answer(self, found: Sequence[Whole]) -> Completion:
        """Return the whole answer."""
        choices = [self.whole(index, answer) for index, answer in enumerate(found)]
        usage = Usage.of(self._call.tokens_in, self._call.tokens_out)
        return Completion(**about(self._call, self._served, "cmpl"), choices=choices, usage=usage)

    @property
    def count(self) -> int:
        """Number of choices."""
        return len(self._prompts) * self._n

    def whole(self, index: int, answer: Whole) -> Choice:
        """Return a whole choice."""
        self._call.check()
        begin = self.begins[index]
        scored = self._logprobs(index, answer.scores)
        if begin.logprobs is not None and scored is not None:
            scored = Logprobs(**{name: [*value, *getattr(scored, name)] for name, value in begin.logprobs})
        return Choice(index=index, text=begin.text + answer.text, logprobs=scored, finish_reason=answer.finish)

    def piece(self, index: int, piece: TextDelta) -> Choice:
        """Return the next piece of a choice."""
        scored = self._logprobs(index, piece.tokens)
        return Choice(index=index, text=piece.text, logprobs=scored, finish_reason=piece.finish)

    def _logprobs(self, index: int, scores: Sequence[TokenScore]) -> Logprobs | None:
        return None if self._body.logprobs is None else logprobs(self._pieces, self._offsets[index], scores)


async def _chunks(
    call: Call,
    served: Served,
    writer: _CompletionWriter,
    pieces: AsyncIterator[tuple[int, TextDelta]] | None,
    body: CompletionRequest,
) -> AsyncIterator[Completion]:
    head = about(call, served, "cmpl")
    if body.echo:
        for index in range(writer.count):
            end = {"finish_reason": "length"} if pieces is None else {}
            yield Completion(**head, choices=[writer.begins[index].model_copy(update=end)])
    if pieces is not None:
        async for index, piece in pieces:
            yield Completion(**head, choices=[writer.piece(index, piece)])
    if body.counts:
        yield Completion(**head, choices=[], usage=Usage.of(call.tokens_in, call.tokens_out))
