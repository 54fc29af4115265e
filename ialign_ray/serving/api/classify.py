"""`/v1/classify`: labels by the likelihood of their words, scored as suites are; `/v1/score`: continuations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any
from weakref import ref

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from scipy.special import softmax

from ialign_ray.config.serve import LimitsConfig
from ialign_ray.config.slots import filled_length, slots_of
from ialign_ray.inference.calibration import CONTENT_FREE, Scorer, label_values
from ialign_ray.inference.scoring import LabelScores
from ialign_ray.serving.api.contexts import (
    OWN_POOL,
    LabelContext,
    fitted_context,
    label_head,
    named_context,
    own_exemplars,
    room_of,
)
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import language_of
from ialign_ray.serving.api.request import Call, TheCall, bounded
from ialign_ray.serving.api.respond import as_json, check_count, check_length
from ialign_ray.serving.api.responses import Classification, Classifications, Score, Scores, Usage, UsedContext
from ialign_ray.serving.api.schemas import ClassifyRequest, ScoreRequest
from ialign_ray.serving.api.state import Service, TheService
from ialign_ray.serving.api.tokeniser import Tokeniser
from ialign_ray.serving.protocol import LabelSums, Served
from ialign_ray.tasks.templating import fill

router = APIRouter(tags=["ialign"])


@dataclass(frozen=True)
class Question:
    """The question asked about each text: prompt and labels."""

    template: str
    labels: tuple[str, ...]
    """Names of the labels in the answer."""
    words: tuple[str, ...]
    """Word of each label, whose likelihood the model gives."""
    language: str = "eng"
    """Language of the prompt."""

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """Slots of the template."""
        return tuple(dict.fromkeys(slots_of(self.template)))

    @cached_property
    def digest(self) -> bytes:
        """Hash of the question, stored between requests instead of the question, which may be as long as a body."""
        return hashlib.sha256(repr((self.template, self.words)).encode("utf-8", "surrogatepass")).digest()

    def filling(self, text: str | dict[str, str]) -> dict[str, str]:
        """Return the text of each slot. Raises ApiError (400) if the text has other slots."""
        texts = {self.slots[0]: text} if isinstance(text, str) else text
        if set(texts) != set(self.slots):
            expected = ", ".join(self.slots)
            raise wrong("texts", f"the prompt has the slots {expected}; give each text as an object with these")
        return texts

    def check(self, texts: Sequence[dict[str, str]], limits: LimitsConfig) -> int:
        """Return the characters of all prompts, before any is filled.

        Raises ApiError (400) if they, or the labels in all answers, would be longer than the longest body.
        """
        characters = sum(filled_length(self.template, text) for text in texts)
        if characters > limits.body_bytes:
            message = f"the prompt with its texts has {characters:,} characters, and {limits.body_bytes:,} are accepted"
            raise wrong("prompt", f"{message}; use its slot fewer times, or send fewer texts at a time")
        if len(texts) * sum(map(len, self.labels)) > limits.body_bytes:
            raise wrong("labels", "each answer names all labels, which are too long for so many texts; shorten them")
        return characters

    def content_free(self) -> list[dict[str, str]]:
        """Content-free texts, whose label scores are the prior."""
        return [dict.fromkeys(self.slots, text) for text in CONTENT_FREE]


@router.post("/v1/classify", response_model=Classifications, responses=ASKING)
async def classify(body: ClassifyRequest, request: Request, call: TheCall, service: TheService) -> Response:
    """Return the likeliest label of each text, and the probability of every label."""
    async with bounded(request):
        check_count(len(body.texts), service.limits, "texts")
        served = await service.open(call, body.model)
        question = _question(body, served)
        if len(question.labels) > service.limits.labels:
            raise wrong(
                "labels", f"there are {len(question.labels)} labels; this server accepts {service.limits.labels}"
            )
        scorer = body.scorer or _usual_scorer(served)
        texts = [question.filling(text) for text in body.texts]
        context, question = label_context(body, served, question, service.limits)
        if context is not None:
            values, used = await _values_in_context(call, served, question, context, texts, scorer, service)
        else:
            found, call.tokens_in = await _sums(call, served, question, texts, service)
            prior = await _prior(call, served, question, service) if scorer == "calibrated" else None
            values = label_values(_array(found), scorer, None if prior is None else _array(prior))
            used = [None] * len(texts)
    data = _classifications(question, values, used)
    usage = Usage.of(call.tokens_in, 0)
    answer = Classifications(model=call.model or "", scorer=scorer, prompt=question.template, data=data, usage=usage)
    return as_json(answer)


def _question(body: ClassifyRequest, served: Served) -> Question:
    if body.suite is not None:
        return _suite_question(body.suite, body.prompt_language, served)
    template, labels = body.prompt or "", body.labels or []
    if unknown := [s for s in slots_of(template) if s != "text" and all(isinstance(t, str) for t in body.texts)]:
        raise wrong("prompt", f"the prompt has the slot {{{unknown[0]}}}; use {{text}}, or give texts as objects")
    words = tuple(labels.values()) if isinstance(labels, dict) else tuple(labels)
    return Question(template, tuple(labels), words)


def _suite_question(name: str, prompt_language: str | None, served: Served) -> Question:
    suites = served.experiment.evaluate.suites if served.experiment is not None else []
    known = {suite.name: suite for suite in suites if suite.kind == "classification"}
    if name not in known:
        have = ", ".join(known) or "none"
        raise wrong("suite", f"the model's experiment has no classification suite of that name; it has {have}")
    suite = known[name]
    spoken = None if prompt_language is None else language_of(prompt_language, "prompt_language", served.experiment)
    prompts = [prompt for prompt in suite.prompts if spoken in (None, prompt.language)]
    if not prompts:
        have = ", ".join(dict.fromkeys(prompt.language for prompt in suite.prompts))
        raise wrong("prompt_language", f"the suite has no prompt in that language; it has {have}")
    words = tuple(words[prompts[0].language] for words in suite.labels.values())
    return Question(prompts[0].text, tuple(suite.labels), words, prompts[0].language)


def _usual_scorer(served: Served) -> Scorer:
    """Scorer of a request that names none: that of the experiment, if it scores each text alone."""
    usual: Scorer = "calibrated"
    if served.experiment is not None and served.experiment.evaluate.scorer != "batch":
        usual = served.experiment.evaluate.scorer
    return usual


def label_context(
    body: ClassifyRequest, served: Served, question: Question, limits: LimitsConfig
) -> tuple[LabelContext | None, Question]:
    """The context of a request, and its question with the label words of that context.

    A suite that the model's context was judged on has it by default. Raises ApiError (400) if the context is unknown,
    or has other labels than the question.
    """
    names = served.experiment.languages.names if served.experiment is not None else {}
    about: dict[str, Any] = {"template": question.template, "spoken": question.language, "names": names}
    own = dict(zip(question.labels, question.words, strict=True))
    if body.language is not None:
        about["language"] = language_of(body.language, "language", served.experiment)
    if body.context is not None and body.context.name is None:
        stored = own_exemplars(body.context, question.slots, own, limits)
        return LabelContext(stored, None, OWN_POOL, words=own, **about), question
    kept = named_context(body.context, served) if body.context is not None else served.context
    if kept is None or (body.context is None and body.suite not in kept.pools):
        return None, question
    fits = [
        name
        for name, pool in kept.pools.items()
        if body.suite in (None, name) and set(pool.words) == set(own) and set(pool.slots) == set(question.slots)
    ]
    if not fits:
        have = "; ".join(f"{name} ({', '.join(pool.words)})" for name, pool in kept.pools.items()) or "none"
        raise wrong("context", f"context {kept.name!r} has no exemplars with these labels and texts; it has {have}")
    settings, pool = kept.settings.labels, kept.pools[fits[0]]
    shown = own
    if body.suite is not None and settings is not None:
        shown = {label: words[settings.exemplars or question.language] for label, words in pool.words.items()}
        answers = tuple(pool.words[label][settings.answers or question.language] for label in question.labels)
        question = replace(question, words=answers)
    head = label_head(kept, fits[0], question.language, names) if body.suite is not None else []
    return LabelContext(kept, kept.name, fits[0], words=shown, head=head, **about), question


async def _sums(
    call: Call, served: Served, question: Question, texts: Sequence[dict[str, str]], service: Service
) -> tuple[LabelSums, int]:
    """Return label scores for each text, and the number of tokens read."""
    characters = question.check(texts, service.limits)

    def work(tokeniser: Tokeniser) -> tuple[list[list[int]], list[list[int]]]:
        labels = tokeniser.labels(question.words)
        return labels, [tokeniser.prompt(fill(question.template, text)[0]) for text in texts]

    labels, asked = await service.tokenised(call, served, work, characters=characters)
    if not all(labels):
        raise wrong("labels", "a label has no tokens of this model; give another word")
    for prompt in asked:
        check_length(served, prompt, max(len(label) for label in labels), service.limits)
    tokens = sum(len(prompt) for prompt in asked)
    if not call.tokens_in:  # the prior is not charged: it is cached for all requests with the same question
        await service.reserve(call, tokens)
    async with call.turn():
        return await served.engine.score_labels(asked, labels, served.adapter), tokens


async def _prior(call: Call, served: Served, question: Question, service: Service) -> LabelSums:
    # The id alone is not enough: after a promotion `base` may be another model, but then in another engine.
    key = (ref(served.engine), served.id, served.adapter, question.digest)
    found = service.priors.get(key)
    if found is None:
        found, _ = await _sums(call, served, question, question.content_free(), service)
        service.priors.keep(key, found)
    return found


async def _values_in_context(
    call: Call,
    served: Served,
    question: Question,
    context: LabelContext,
    texts: Sequence[dict[str, str]],
    scorer: Scorer,
    service: Service,
) -> tuple[NDArray[np.float64], list[UsedContext | None]]:
    """Return the values [n, L] of the labels after each text's examples, and these examples.

    The prior of `calibrated` is that under the same examples, so it is read for each text, and charged.
    """
    question.check(texts, service.limits)
    found = await service.beside(call, lambda: [context.of(text) for text in texts])
    characters = sum(context.characters(one, text) for one, text in zip(found, texts, strict=True))
    if characters > service.limits.body_bytes:
        message = f"the prompts with their examples have {characters:,} characters, and "
        raise wrong("context", f"{message}{service.limits.body_bytes:,} are accepted; lower k, or send fewer texts")
    priors = question.content_free() if scorer == "calibrated" else []

    def work(tokeniser: Tokeniser) -> tuple[list[list[int]], list[list[list[int]]], list[UsedContext | None]]:
        labels = tokeniser.labels(question.words)
        if not all(labels):
            raise wrong("labels", "a label has no tokens of this model; give another word")
        room = room_of(served, max(map(len, labels)), service.limits, service.settings.max_batch_tokens)
        asked: list[list[list[int]]] = []
        used: list[UsedContext | None] = []
        for one, text in zip(found, texts, strict=True):
            # a content-free text may be longer than the text itself
            longest = max((text, *priors), key=lambda each: sum(map(len, each.values())))
            whole = partial(context.prompt, tokeniser, texts=longest)
            kept, shown = fitted_context(tokeniser, one, room, context.block_text, whole)
            asked.append([context.prompt(tokeniser, kept, each) for each in (text, *priors)])
            used.append(shown)
        return labels, asked, used

    labels, asked, used = await service.tokenised(call, served, work, characters=characters * (1 + len(priors)))
    for prompt, *_ in asked:
        check_length(served, prompt, max(map(len, labels)), service.limits)
    prompts = [prompt for each in asked for prompt in each]
    call.tokens_in = sum(map(len, prompts))
    await service.reserve(call, call.tokens_in)
    async with call.turn():
        sums = _array(await served.engine.score_labels(prompts, labels, served.adapter))
    size = 1 + len(priors)
    values = []
    for k in range(len(texts)):
        own, free = slice(k * size, k * size + 1), slice(k * size + 1, (k + 1) * size)
        prior = LabelScores(sums.log_prob[free], sums.tokens[free]) if priors else None
        values.append(label_values(LabelScores(sums.log_prob[own], sums.tokens[own]), scorer, prior)[0])
    return np.stack(values), used


def _classifications(
    question: Question, values: NDArray[np.float64], used: Sequence[UsedContext | None]
) -> list[Classification]:
    return [
        Classification(
            index=index,
            label=question.labels[int(np.argmax(row))],
            probabilities=dict(zip(question.labels, softmax(row).tolist())),
            scores=dict(zip(question.labels, row.tolist())),
            context=context,
        )
        for index, (row, context) in enumerate(zip(values, used, strict=True))
    ]


def _array(sums: LabelSums) -> LabelScores:
    return LabelScores(np.array(sums.log_prob, np.float64), np.array(sums.tokens, np.int64))


@router.post("/v1/score", response_model=Scores, responses=ASKING)
async def score(body: ScoreRequest, request: Request, call: TheCall, service: TheService) -> Response:
    """Return the log-probability of each continuation."""
    async with bounded(request):
        check_count(len(body.continuations), service.limits, "continuations")
        served = await service.open(call, body.model)
        prompt, texts = await service.tokenised(call, served, lambda tokeniser: _tokens(tokeniser, body))
        if not all(texts):
            raise wrong("continuations", "a continuation has no tokens of this model; give another text")
        check_length(served, prompt, max(len(text) for text in texts), service.limits)
        call.tokens_in = len(prompt) + sum(len(text) for text in texts)
        await service.reserve(call, call.tokens_in)
        async with call.turn():
            found = await served.engine.score_labels([prompt], texts, served.adapter)
    pairs = zip(found.log_prob[0], found.tokens[0])
    data = [Score(index=index, log_prob=value, tokens=count) for index, (value, count) in enumerate(pairs)]
    return as_json(Scores(model=call.model or "", data=data, usage=Usage.of(call.tokens_in, 0)))


def _tokens(tokeniser: Tokeniser, body: ScoreRequest) -> tuple[list[int], list[list[int]]]:
    """Return token ids of the prompt and of each continuation."""
    prompt = tokeniser.plain(body.prompt) if body.raw else tokeniser.prompt(body.prompt)
    return prompt, [tokeniser.label(text, "continuations") for text in body.continuations]
