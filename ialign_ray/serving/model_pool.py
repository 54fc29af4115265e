"""Engines and adapters in memory: loaded once, held by requests, unloaded when others need the memory."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ModelError
from ialign_ray.incontext.stored import read_context
from ialign_ray.modeling.load import load_config, load_tokenizer
from ialign_ray.serving.bounded import in_thread
from ialign_ray.serving.chat_template import template_of
from ialign_ray.serving.model_sources import ModelSource
from ialign_ray.serving.protocol import Engine, Served
from ialign_ray.tokens.encode import Encoder

log = logging.getLogger(__name__)
Weights = tuple[str, ...]
Key = tuple[str, ...]
OpenEngine = Callable[..., Engine]
IDLE_S = 60.0
"""Seconds after its last request until an engine that no name of `serve.models` needs is closed."""
_TOKENIZER = "tokenizer_config.json"
_UNBOUNDED = 1 << 30  # the API limits prompts; the encoder shortens nothing


@dataclass
class Loaded:
    """A model in memory."""

    source: ModelSource
    served: Served
    weights: Weights
    leases: int = 0
    used: int = 0
    """Clock of the last use; the smallest is the least recently used."""


@dataclass
class Opened:
    """An engine in memory."""

    engine: Engine
    config: Any
    tokenizer: Any
    idle_since: float = field(default_factory=time.monotonic)


class EnginePool:
    """One engine for each base or full model, and the adapters in it. All methods belong to one event loop.

    A model that a request holds is never unloaded. An engine holds up to `max_adapters`; while an alias moves, one
    more, alongside the old version.
    """

    def __init__(
        self, settings: ServeConfig, open_engine: OpenEngine, fresh: Callable[[ModelSource], ModelSource]
    ) -> None:
        """`fresh` restores the files of a model if they are damaged or missing, as far as possible."""
        self._settings = settings
        self._fresh = fresh
        self._open_engine = open_engine
        self._engines: dict[Weights, Opened] = {}
        self._loaded: dict[Key, Loaded] = {}
        self._loading: dict[Key, asyncio.Task[None]] = {}
        self._locks: defaultdict[Weights, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._released = asyncio.Event()
        self._clock = itertools.count(1)
        self._left: defaultdict[Key, list[Future[Any]]] = defaultdict(list)
        """Threads of loads that took too long."""
        self._cleaning: set[asyncio.Task[None]] = set()
        self.keep: Collection[Key] = ()
        """Keys of the models to keep in memory; unloaded last."""

    async def hold(self, source: ModelSource) -> Loaded:
        """Lease a model for one request, loading it first if necessary. Raises ModelError."""
        while (loaded := self._loaded.get(source.key)) is None:
            await self.load(source)
        loaded.leases += 1
        loaded.used = next(self._clock)
        return loaded

    def release(self, loaded: Loaded) -> None:
        """Give a lease back."""
        loaded.leases -= 1
        if opened := self._engines.get(loaded.weights):
            opened.idle_since = time.monotonic()
        self._released.set()

    async def load(self, source: ModelSource, *, beside: bool = False) -> None:
        """Load a model; concurrent callers wait for one load. Raises ModelError.

        `beside` allows one more than `max_adapters`, until the previous version is no longer in use.
        """
        if source.key in self._loaded:
            return
        task = self._loading.get(source.key)
        if task is None:
            task = asyncio.create_task(self._load(source, beside))
            self._loading[source.key] = task
            task.add_done_callback(lambda done: self._forget_task(source.key, done))
        await asyncio.shield(task)  # a client that disconnects must not cancel the load that others wait for

    def engines(self) -> list[Engine]:
        """Engines in memory."""
        return [opened.engine for opened in self._engines.values()]

    async def trim(self) -> None:
        """Unload adapters beyond `max_adapters` and close engines that nothing needs, unless they are in use."""
        for weights in list(self._engines):
            async with self._locks[weights]:
                while (victim := self._spare(weights, self._settings.max_adapters + 1)) is not None:
                    await self._unload(victim)
                if self._disused(weights):
                    await self._close(weights, grace=self._settings.drain_s)

    async def close(self, grace: float) -> None:
        """Let running requests end within `grace` seconds, and stop all engines."""
        for task in list(self._loading.values()):
            task.cancel()
        await asyncio.gather(*(self._close(weights, grace) for weights in list(self._engines)))

    async def _load(self, source: ModelSource, beside: bool) -> None:
        seconds = self._settings.load_s
        try:
            async with asyncio.timeout(seconds), self._locks[source.weights]:
                await self._load_alone(source, beside)
        except TimeoutError as error:
            raise ModelError(
                f"{source.id} did not load within {seconds:g} s (serve.load_s); check its files, or allow more time"
            ) from error
        log.info("loaded %s", source.id)

    async def _load_alone(self, source: ModelSource, beside: bool) -> None:
        left = self._left[source.key]
        left[:] = [thread for thread in left if not thread.done()]
        if left:  # a second attempt would hang like the first, and so would a third
            raise ModelError(f"{source.id} did not load in time, and the attempt has not ended; check its files")
        source = await in_thread(partial(self._fresh, source), left)
        opened = self._engines.get(source.weights) or await self._open(source, left)
        adapter = source.id if source.kind == "adapter" else None
        served = await in_thread(partial(_served, source, opened, adapter), left)
        if adapter is not None and source.folder is not None:
            await self._make_room(source.weights, self._settings.max_adapters + (1 if beside else 0))
            await self._load_adapter(opened.engine, adapter, source.folder)
        self._loaded[source.key] = Loaded(source, served, source.weights, used=next(self._clock))

    async def _load_adapter(self, engine: Engine, adapter: str, folder: Path) -> None:
        """Load an adapter into its engine; one that arrives too late is unloaded again."""
        loading = asyncio.create_task(engine.load(adapter, folder))
        try:
            await asyncio.shield(loading)
        except asyncio.CancelledError:

            def unload(done: asyncio.Task[None]) -> None:
                if not done.cancelled() and done.exception() is None:
                    self._later(engine.unload(adapter))

            loading.add_done_callback(unload)
            raise

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._cleaning.add(task)  # a task without a reference may be garbage-collected
        task.add_done_callback(self._cleaning.discard)

    async def _open(self, source: ModelSource, left: list[Future[Any]]) -> Opened:
        settings, folder = source.settings, source.folder if source.kind == "full" else None
        serve = self._settings
        config = await in_thread(partial(load_config, settings, _folder_with(folder, "config.json")), left)
        tokenizer = await in_thread(partial(load_tokenizer, settings, _folder_with(folder, _TOKENIZER)), left)
        sizes = {"max_batch": serve.max_batch, "max_batch_tokens": serve.max_batch_tokens}
        sizes |= {"queue": serve.limits.queue, "max_adapters": serve.max_adapters + 1}
        opening = partial(self._open_engine, settings, folder, **sizes)
        engine = await in_thread(opening, left, drop=lambda late: self._later(late.close(0)))
        opened = self._engines[source.weights] = Opened(engine, config, tokenizer)
        return opened

    async def _make_room(self, weights: Weights, room: int) -> None:
        """Unload the least recently used adapters until one more fits; wait while all are in use."""
        while len(self._adapters(weights)) >= room:
            if (victim := self._spare(weights, room)) is not None:
                await self._unload(victim)
            else:
                self._released.clear()
                await self._released.wait()

    def _spare(self, weights: Weights, room: int) -> Loaded | None:
        """Choose the adapter to unload if there are `room` or more: unused ones, those in `keep` last, oldest first."""
        adapters = self._adapters(weights)
        free = [a for a in adapters if not a.leases]
        if len(adapters) < room or not free:
            return None
        return min(free, key=lambda a: (a.source.key in self.keep, a.used))

    def _adapters(self, weights: Weights) -> list[Loaded]:
        return [m for m in self._loaded.values() if m.weights == weights and m.served.adapter is not None]

    async def _unload(self, victim: Loaded) -> None:
        del self._loaded[victim.source.key]  # before the first await, so that no request can lease it
        await self._engines[victim.weights].engine.unload(victim.source.id)
        log.info("unloaded %s", victim.source.id)

    def _disused(self, weights: Weights) -> bool:
        models = [m for m in self._loaded.values() if m.weights == weights]
        idle = time.monotonic() - self._engines[weights].idle_since
        needed = any(m.leases or m.source.key in self.keep for m in models)
        return not needed and idle >= IDLE_S

    async def _close(self, weights: Weights, grace: float) -> None:
        opened = self._engines.pop(weights)
        for name in [name for name, model in self._loaded.items() if model.weights == weights]:
            del self._loaded[name]
        await opened.engine.close(grace)

    def _forget_task(self, key: Key, done: asyncio.Task[None]) -> None:
        self._loading.pop(key, None)
        if not done.cancelled():
            done.exception()  # marks it as seen: asyncio warns about an error that no waiter fetched


def _served(source: ModelSource, opened: Opened, adapter: str | None) -> Served:
    own = _folder_with(source.folder, _TOKENIZER) if adapter else None
    tokenizer = load_tokenizer(source.settings, own) if own else opened.tokenizer
    settings, seq2seq = source.settings, bool(getattr(opened.config, "is_encoder_decoder", False))
    template = None
    if settings.chat == "auto" and tokenizer.chat_template:
        template = template_of(tokenizer, settings.chat_template_kwargs, settings.chat_date.isoformat())
        template.check(source.id)
    encoder = Encoder.of_model(
        tokenizer,
        settings,
        max_prompt=_UNBOUNDED,
        max_target=_UNBOUNDED,
        seq2seq=seq2seq,
        form=source.experiment.cleaning.form if source.experiment else None,
        render=template.render if template is not None else None,
    )
    context = None
    if source.context is not None:
        context = read_context(source.context)
        context.check_tokenizer(tokenizer, source.id)
    return Served(
        id=source.id,
        engine=opened.engine,
        adapter=adapter,
        encoder=encoder,
        max_positions=getattr(opened.config.get_text_config(), "max_position_embeddings", None),
        experiment=source.experiment,
        threads=template.threads if template is not None else None,
        context=context,
    )


def _folder_with(folder: Path | None, file: str) -> str | None:
    """Return the folder if it has the file."""
    return str(folder) if folder is not None and (folder / file).exists() else None
