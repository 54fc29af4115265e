"""`/v1/classify`: labels by the likelihood of their words, scored as suites are; `/v1/score`: continuations."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import ref

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from scipy.special import softmax

from ialign_ray.config.serve import LimitsConfig
from ialign_ray.config.slots import filled_length, slots_of
from ialign_ray.inference.calibration import CONTENT_FREE, Scorer, label_values
from ialign_ray.inference.scoring import LabelScores
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import language_of
from ialign_ray.serving.api.request import Call, TheCall, bounded
from ialign_ray.serving.api.respond import as_json, check_count, check_length
from ialign_ray.serving.api.responses import Classification, Classifications, Score, Scores, Usage
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
        scorer = body.scorer or (served.experiment.evaluate.scorer if served.experiment else "calibrated")
        texts = [question.filling(text) for text in body.texts]
        found, call.tokens_in = await _sums(call, served, question, texts, service)
        prior = await _prior(call, served, question, service) if scorer == "calibrated" else None
    data = _classifications(question, found, scorer, prior)
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
    return Question(prompts[0].text, tuple(suite.labels), words)


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


def _classifications(
    question: Question, sums: LabelSums, scorer: Scorer, prior: LabelSums | None
) -> list[Classification]:
    values = label_values(_array(sums), scorer, None if prior is None else _array(prior))
    return [
        Classification(
            index=index,
            label=question.labels[int(np.argmax(row))],
            probabilities=dict(zip(question.labels, softmax(row).tolist())),
            scores=dict(zip(question.labels, row.tolist())),
        )
        for index, row in enumerate(values)
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
