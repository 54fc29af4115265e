"""`/v1/classify`: labels by the likelihood of their words, scored as suites are; `/v1/score`: continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import ref

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from scipy.special import softmax

from ialign_ray.inference.calibration import CONTENT_FREE, Scorer, label_values
from ialign_ray.inference.scoring import LabelScores
from ialign_ray.serving.api.errors import ASKING, wrong
from ialign_ray.serving.api.prompts import language_of, read, tokenised
from ialign_ray.serving.api.request import Call, TheCall, bounded
from ialign_ray.serving.api.respond import as_json, check_count, check_length
from ialign_ray.serving.api.responses import Classification, Classifications, Score, Scores, Usage
from ialign_ray.serving.api.schemas import SLOTS, ClassifyRequest, ScoreRequest
from ialign_ray.serving.api.state import Service, TheService
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

    @property
    def slots(self) -> tuple[str, ...]:
        """Slots of the template."""
        return tuple(dict.fromkeys(SLOTS.findall(self.template)))

    def of(self, text: str | dict[str, str]) -> str:
        """Fill the prompt with a text. Raises ApiError (400) if the text has other slots."""
        texts = {self.slots[0]: text} if isinstance(text, str) else text
        if set(texts) != set(self.slots):
            expected = ", ".join(self.slots)
            raise wrong("texts", f"the prompt has the slots {expected}; give each text as an object with these")
        return fill(self.template, texts, {})[0]

    def content_free(self) -> list[str]:
        """Prompts with content-free texts, whose label scores are the prior."""
        return [self.of(dict.fromkeys(self.slots, text)) for text in CONTENT_FREE]


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
        prompts = [question.of(text) for text in body.texts]
        found, call.tokens_in = await _sums(call, served, question, prompts, service)
        prior = await _prior(call, served, question, service) if scorer == "calibrated" else None
    data = _classifications(question, found, scorer, prior)
    usage = Usage.of(call.tokens_in, 0)
    answer = Classifications(model=call.model or "", scorer=scorer, prompt=question.template, data=data, usage=usage)
    return as_json(answer)


def _question(body: ClassifyRequest, served: Served) -> Question:
    if body.suite is not None:
        return _suite_question(body.suite, body.prompt_language, served)
    template, labels = body.prompt or "", body.labels or []
    if unknown := [s for s in SLOTS.findall(template) if s != "text" and all(isinstance(t, str) for t in body.texts)]:
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
    call: Call, served: Served, question: Question, prompts: Sequence[str], service: Service
) -> tuple[LabelSums, int]:
    """Return label scores for each prompt, and the number of tokens read."""
    encoder = served.encoder
    labels, asked = await tokenised(
        call, served, lambda: ([encoder.label(w) for w in question.words], [encoder.prompt(p) for p in prompts])
    )
    if not all(labels):
        raise wrong("labels", "a label has no tokens of this model; give another word")
    for prompt in asked:
        check_length(served, prompt, max(len(label) for label in labels), service.limits)
    found = await served.engine.score_labels(asked, labels, served.adapter)
    return found, sum(len(prompt) for prompt in asked)


async def _prior(call: Call, served: Served, question: Question, service: Service) -> LabelSums:
    # The id alone is not enough: after a promotion `base` may be another model, but then in another engine.
    key = (ref(served.engine), served.id, served.adapter, question)
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
        prompt, texts = await tokenised(call, served, lambda: _tokens(served, body))
        if not all(texts):
            raise wrong("continuations", "a continuation has no tokens of this model; give another text")
        check_length(served, prompt, max(len(text) for text in texts), service.limits)
        call.tokens_in = len(prompt) + sum(len(text) for text in texts)
        found = await served.engine.score_labels([prompt], texts, served.adapter)
    pairs = zip(found.log_prob[0], found.tokens[0])
    data = [Score(index=index, log_prob=value, tokens=count) for index, (value, count) in enumerate(pairs)]
    return as_json(Scores(model=call.model or "", data=data, usage=Usage.of(call.tokens_in, 0)))


def _tokens(served: Served, body: ScoreRequest) -> tuple[list[int], list[list[int]]]:
    """Return token ids of the prompt and of each continuation."""
    prompt = read(served, body.prompt) if body.raw else served.encoder.prompt(body.prompt)
    return prompt, [served.encoder.label(text) for text in body.continuations]
