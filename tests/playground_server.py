"""A playground's server for the tests in a browser: a champion that a search made, whose every `a` is markup."""

import asyncio
import shutil
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import uvicorn
from runs import CONTROL, STRENGTHS, make_run, small_experiment
from serving_app import CHAT_TEMPLATE, until
from tokenizers import decoders
from transformers import AutoTokenizer

from ialign_ray.config import override
from ialign_ray.registry.promotion import promote_run
from ialign_ray.serving.api import build_app
from ialign_ray.serving.engine import open_engine
from ialign_ray.serving.keys import new_key
from ialign_ray.serving.model_library import ModelLibrary
from ialign_ray.storage import write_json

MARKUP = "<img src=x onerror=window.broken=1>"
SECRET, ENTRY = new_key("tests")


def marked(model, folder):
    """The model with a tokenizer that writes an image for each `a`, and takes conversations."""
    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    images = decoders.Replace("a", MARKUP)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), images])
    tokenizer.save_pretrained(folder)
    return folder


def champion(folder, model):
    experiment = override(
        small_experiment(folder, model),
        {"languages.names": {"jav": {"eng": f"Java {MARKUP}"}}, "promotion.better_on": ["mood"]},
    )
    run = make_run(experiment, "found", STRENGTHS["good"])
    control = make_run(experiment, "control-s0", CONTROL, ratio=1.0)
    search = run.parent / "search"
    (search / "trials").mkdir(parents=True)
    control.rename(search / "control-s0")
    rows = [("trial-1", 2.0, 0.4, False), ("found", 1.5, 0.1, True)]
    write_json(search / "front.json", [point(*row) for row in rows])
    why = f"the largest gain {MARKUP}"
    write_json(search / "winner.json", {"trial": "found", "why": why, "tolerance": 0.2, "against": "base", "trials": 2})
    promote_run(experiment, run.rename(search / "trials" / "found"), print)


def point(trial, gain, forgetting, feasible):
    ends = {f"{name}_{end}": value + way for name, value in (("gain", gain), ("forgetting", forgetting))
            for end, way in (("low", -0.1), ("high", 0.1))}  # fmt: skip
    settings = {"replay.ratio": 0.5, "note": MARKUP}
    return {"trial": trial, "point": settings, "gain": gain, "forgetting": forgetting, "feasible": feasible, **ends}


@contextmanager
def serving(settings, registry, keys):
    """A library and its server in one event loop, as a replica has them."""
    found = SimpleNamespace(server=None)

    async def run():
        found.library = ModelLibrary(settings, registry, open_engine)
        await found.library.start()
        app = build_app(found.library, settings, keys)
        found.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
        await found.server.serve()
        await found.library.close(1)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    until(lambda: found.server is not None and found.server.started, 300)
    found.url = f"http://127.0.0.1:{found.server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        found.server.should_exit = True
        thread.join(20)
