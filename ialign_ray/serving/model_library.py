"""The models of one deployment: names that requests use, and the versions behind them, which change while it serves."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import lru_cache, partial

from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import IalignError, ModelError, RegistryError
from ialign_ray.registry.store import MlflowError, Registry
from ialign_ray.serving.model_pool import EnginePool, OpenEngine
from ialign_ray.serving.model_sources import (
    ModelSource,
    Named,
    bases,
    fetched,
    from_version,
    locate,
    version_info,
    with_own_names,
)
from ialign_ray.serving.protocol import ModelInfo, Served, UnknownModelError

log = logging.getLogger(__name__)
_VERSION = re.compile(r"(?P<model>[^/@:]{1,200})/(?P<number>\d{1,9})")
_LISTED = 100
"""Newest versions of a registered model that `/v1/models` lists."""
_LIST_EVERY_S = 30.0
_TRY_AGAIN_S = 60.0
"""Seconds until a version that did not load is tried again: a network fault may be over, a torn file seldom is."""


class ModelLibrary:
    """The models of `serve.models`, their bases, and every version of the registered models.

    A name is exactly one version at any moment. When an alias moves, the new version is loaded alongside the old one,
    then the name is switched; running requests keep the old version to their end. A version that does not load changes
    nothing. Names from requests are only looked up, never used as a path.
    """

    def __init__(self, settings: ServeConfig, registry: str, open_engine: OpenEngine) -> None:
        """`registry`: an MLflow server, a database or a folder of runs, in which references are looked up."""
        self._settings = settings
        self._location = registry
        self._open_registry = lru_cache(Registry)
        self._pool = EnginePool(settings, open_engine, self._fresh)
        self._chosen: list[Named] = []
        self._named: dict[str, Named] = {}
        self._versions: dict[str, ModelSource] = {}
        self._listed: list[ModelInfo] = []
        self._cards: list[ModelInfo] = []
        self._listed_at = -_LIST_EVERY_S
        self._silent: set[str] = set()
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find and load the models of `serve.models`, then follow the registry.

        Raises the first IalignError if a model cannot be served at all.
        """
        references = self._settings.models
        found = with_own_names([await self._locate(reference) for reference in references], references)
        self._chosen = [await self._first(each, name) for each, name in zip(found, references, strict=True)]
        self._settle()
        if self._models():
            await self.refresh()
            self._following = asyncio.create_task(self._follow())

    def infos(self) -> list[ModelInfo]:
        """Entries of `/v1/models`: names of `serve.models`, bases, then versions that can be requested by number."""
        return self._cards

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncIterator[Served]:
        """Hold a model for one request, loading it first if necessary; an empty name is the first of `serve.models`.

        Raises UnknownModelError, or ModelError if it does not load.
        """
        loaded = await self._pool.hold(await self._source(name))
        try:
            yield loaded.served
        finally:
            self._pool.release(loaded)

    async def refresh(self) -> None:
        """Read the aliases and switch the names whose alias has moved. An unreachable registry changes nothing."""
        silent: list[str] = []
        parts: list[Callable[[], Awaitable[None]]] = [partial(self._refresh_aliases, m) for m in self._models()]
        for each in (*parts, self._refresh_versions):
            try:
                await each()
            except Exception as error:  # registry, database or network: the loaded models keep serving
                silent.append(_sentence(error))
        # each message is logged once, not every `follow_s` seconds while the registry is away
        for message in sorted(set(silent) - self._silent):
            log.warning("registry cannot be read, the loaded versions keep serving: %s", message)
        self._silent = set(silent)

    def check(self) -> None:
        """Raise ModelError if the replica must be replaced: an engine died, or the registry is no longer followed."""
        if any(engine.stats().get("dead") for engine in self._pool.engines()):
            raise ModelError("an engine has died; see the log of the replica")
        if self._following is not None and self._following.done():
            raise ModelError("the registry is no longer followed; see the log of the replica")

    async def close(self, grace: float) -> None:
        """Stop following, let requests end within `grace` seconds, and stop the engines."""
        if self._following is not None:
            self._following.cancel()
        await self._pool.close(grace)

    async def _locate(self, reference: str, refused: Sequence[str] = ()) -> Named:
        # in a thread: the registry's database or server may block for seconds, and answers are streamed from this loop
        return await asyncio.to_thread(locate, reference, self._location, self._open_registry, refused)

    async def _first(self, named: Named, reference: str) -> Named:
        """Load a model; if an alias's version does not load, fall back to the alias's previous versions."""
        refused: list[str] = []
        reason = named.refused
        while True:
            try:
                await self._pool.load(named.source)
                break
            except IalignError as error:
                if named.alias is None:
                    raise
                log.error("%s is refused: %s", named.source.id, error)
                reason = reason or _refusal(named.source.id, error)  # the newest version's: it is what the alias means
                refused.append(named.source.id)
            try:
                named = await self._locate(reference, refused)
            except IalignError as error:
                raise ModelError(reason) from error
        return replace(named, refused=reason, retry_at=time.monotonic() + _TRY_AGAIN_S) if reason else named

    async def _refresh_aliases(self, model: str) -> None:
        aliases = await asyncio.to_thread(self._registry.aliases, model)
        for named in [n for n in self._chosen if n.model == model and n.alias]:
            await self._switch(named, aliases.get(named.alias or ""))

    async def _switch(self, named: Named, number: int | None) -> None:
        """Serve the version that an alias points to, or record the reason why not and keep the current one."""
        present = named.source.version
        if number is None or (present is not None and number == present.number):
            gone = None if number is not None else f"alias {named.alias!r} is gone from the registry"
            if gone != named.refused:
                self._set_refused(named, gone)
            return
        target = f"{named.model}/{number}"
        # The same refused version waits for its retry; another one is tried at once.
        if named.refused is not None and named.refused.startswith(f"{target}:") and time.monotonic() < named.retry_at:
            return
        try:
            source = await self._version(named.model or "", number)
            await self._pool.load(source, beside=True)
        except Exception as error:  # whatever is wrong with the new version, the old one keeps serving
            named.retry_at = time.monotonic() + _TRY_AGAIN_S
            self._set_refused(named, _refusal(target, error))
            log.error("%s stays at %s, %s is refused: %s", named.name, named.source.id, target, _sentence(error))
            return
        log.warning("%s moves from %s to %s", named.name, named.source.id, source.id)
        # One assignment switches the name: a request resolves its name once, so none sees two versions.
        named.source = source
        self._set_refused(named, None)

    def _set_refused(self, named: Named, refused: str | None) -> None:
        named.refused = refused
        self._settle()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._settings.follow_s)
            await self.refresh()
            try:
                await self._pool.trim()
            except Exception as error:  # an engine that does not close must not end the following
                log.error("unused models could not be unloaded: %s", _sentence(error))

    async def _refresh_versions(self) -> None:
        """List the newest versions; seldom, since a list of versions costs more than reading the aliases."""
        if time.monotonic() - self._listed_at < _LIST_EVERY_S:
            return
        found = [v for m in self._models() for v in (await asyncio.to_thread(self._registry.versions, m))[-_LISTED:]]
        self._listed = [version_info(version) for version in reversed(found)]
        self._listed_at = time.monotonic()
        self._settle()

    async def _source(self, name: str) -> ModelSource:
        if not name:
            return next(iter(self._named.values())).source
        if (named := self._named.get(name)) is not None:
            return named.source
        found = _VERSION.fullmatch(name)
        if found is None or found["model"] not in self._models():
            raise UnknownModelError(f"model {name[:100]!r} is not served; use one of {', '.join(self._named)}")
        try:
            return await self._version(found["model"], int(found["number"]))
        except MlflowError as error:
            raise ModelError(f"{name} cannot be looked up at the moment: {error}") from error
        except RegistryError as error:
            raise UnknownModelError(str(error)) from error

    async def _version(self, model: str, number: int) -> ModelSource:
        title = f"{model}/{number}"
        if title not in self._versions:
            self._versions[title] = await asyncio.to_thread(from_version, self._registry, model, number)
            self._settle()  # its files hold more details than its tags
        return self._versions[title]

    def _fresh(self, source: ModelSource) -> ModelSource:
        """Fetch the files of a version again if they are damaged or missing."""
        if source.version is None:
            return source
        folder = fetched(self._registry, source.version)
        own = None if source.folder is None else folder / source.folder.name
        context = None if source.context is None else folder / source.context.name
        return replace(source, folder=own, context=context)

    def _settle(self) -> None:
        """Recompute bases, models to keep and `infos` after a change, since every request reads them."""
        self._named = {each.name: each for each in (*self._chosen, *bases(self._chosen))}
        self._pool.keep = {each.source.key for each in self._named.values()}
        known = {title: source.info(title) for title, source in self._versions.items()}
        named = [each.info() for each in self._named.values()]
        numbered = [known.get(info.name, info) for info in self._listed if info.name not in self._named]
        self._cards = named + numbered

    def _models(self) -> list[str]:
        """Names of the registered models in `serve.models`."""
        return list(dict.fromkeys(each.model for each in self._chosen if each.model))

    @property
    def _registry(self) -> Registry:
        return self._open_registry(self._location)


def _refusal(version: str, error: Exception) -> str:
    """Return `NAME/NUMBER: reason`; `_switch` recognises a refused version by its start."""
    return f"{version}: {_sentence(error).removeprefix(f'{version}: ')}"


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, IalignError) else f"{type(error).__name__}: {error}"
