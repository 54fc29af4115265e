"""A library of served models on a real registry with real engines, and what its tests ask of it."""

from contextlib import asynccontextmanager

from ialign_ray.config.serve import ServeConfig
from ialign_ray.serving.engine import open_engine
from ialign_ray.serving.model_library import ModelLibrary
from ialign_ray.serving.protocol import Sampling
from ialign_ray.workflows.predict import answer

QUESTION = "Translate the following text from English to Indonesian."
TOKENS = 24
OPENED = []
"""Engines of the library that was started last; each with `loads`, the keys of its adapters as they were loaded."""


def open_noted(*arguments, **limits):
    engine = open_engine(*arguments, **limits)
    engine.loads, load = [], engine.load

    async def noted(adapter, folder):
        await load(adapter, folder)
        engine.loads.append(adapter)

    engine.load = noted
    OPENED.append(engine)
    return engine


def settings(*models, **fields):
    return ServeConfig.model_validate({"models": list(models) or ["champion"], "follow_s": 1000, **fields})


@asynccontextmanager
async def serving(registry, *models, opening=open_noted, **fields):
    OPENED.clear()
    made = ModelLibrary(settings(*models, **fields), registry.uri, opening)
    try:
        await made.start()
        yield made
    finally:
        await made.close(1)


async def ask(models, name=""):
    """(what answered, its text)"""
    async with models.lease(name) as served:
        return served.id, await text_of(served)


async def text_of(served):
    prompt = served.encoder.prompt(QUESTION)
    return "".join([p.text async for p in served.engine.stream(prompt, Sampling(TOKENS), served.adapter)])


def kinds(models):
    return {info.name: (info.id, info.kind) for info in models.infos()}


def of_base(folder):
    """What a base or full model says by itself."""
    return answer(QUESTION, None, str(folder), TOKENS, 0.0)


def of_run(run):
    """What a run says by itself."""
    return answer(QUESTION, run, None, TOKENS, 0.0)


def expected(library, run):
    return of_run(library / "runs" / "small" / run)
