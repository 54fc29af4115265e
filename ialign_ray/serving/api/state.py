"""State that all routes share: models, settings, keys, places, metrics and priors."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar
from weakref import WeakKeyDictionary

from fastapi import Depends, Request

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.errors import IalignError
from ialign_ray.serving.api.errors import ApiError, log, not_ready, printable, too_busy
from ialign_ray.serving.api.metrics import Metrics
from ialign_ray.serving.api.request import Call
from ialign_ray.serving.api.shares import FairGate, Shares
from ialign_ray.serving.api.tokeniser import Tokeniser, beside, tokenised
from ialign_ray.serving.keys import KeyEntry, digest_of
from ialign_ray.serving.ledger import Admission, LimitCounter, LostCounterError
from ialign_ray.serving.protocol import Engine, LabelSums, ModelInfo, Served, UnknownModelError

if TYPE_CHECKING:  # it brings MLflow, which the API itself does not need
    from ialign_ray.serving.model_library import ModelLibrary

THREADS = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/-]{0,255}")


Made = TypeVar("Made")


@dataclass
class Service:
    """One app's state; `app.state.service`."""

    library: ModelLibrary
    settings: ServeConfig
    counter: LimitCounter | None
    """Keys and their remaining limits; None if the server requires no key."""
    metrics: Metrics = field(default_factory=Metrics)
    priors: Priors = field(default_factory=lambda: Priors())
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "ialign-prompts"))
    """Threads for long texts, apart from the event loop's own, which load models."""

    def __post_init__(self) -> None:
        several = self.counter is not None
        self.bodies = Shares(self.limits.bodies, several=several)
        self.queue = Shares(self.limits.queue, several=several)
        self._gates: WeakKeyDictionary[Engine, FairGate] = WeakKeyDictionary()
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def limits(self) -> LimitsConfig:
        """Limits of sizes and times."""
        return self.settings.limits

    def infos(self, key: KeyEntry | None) -> list[ModelInfo]:
        """List the models that a key may use."""
        return [info for info in self.library.infos() if key is None or key.allows(info.name)]

    async def open(self, call: Call, name: str | None) -> Served:
        """Lease a model until the call ends. Raises ApiError (404, 503)."""
        infos = self.infos(call.key)
        if not infos:
            raise not_ready("no model is ready for this key")
        name = infos[0].name if name is None else name
        # anything that cannot be a name, such as a path, never reaches the library
        if not _NAME.fullmatch(name) or ".." in name or (call.key and not call.key.allows(name)):
            raise unknown(name)
        try:
            served = await call.held.enter_async_context(self.library.lease(name))
        except UnknownModelError as error:
            raise unknown(name) from error
        except IalignError as error:
            log.warning("model %s does not load: %s", name, error)
            raise not_ready(f"the model {name} does not load at the moment; the server's log has the reason") from error
        call.model, call.version = name, served.id
        self.metrics.watch(served.engine)
        if call.key is not None:
            gate = self._gates.setdefault(served.engine, FairGate(self.settings.max_batch))
            call.turn = partial(gate.place, call.owner)
        return served

    async def tokenised(
        self, call: Call, served: Served, work: Callable[[Tokeniser], Made], *, characters: int = 0
    ) -> Made:
        """Run work that tokenises this request's texts (see `tokeniser.tokenised`)."""
        return await tokenised(call, served, self.settings, self.threads, work, characters=characters)

    async def enter(self, call: Call, secret: str) -> None:
        """Find the key of a request and count the request. Raises ApiError: 401, 429, 503."""
        assert self.counter is not None  # there are keys
        admission = await self._counted(self.counter.enter(digest_of(secret)))
        call.key = admission.key
        if call.key is None:
            what = "is not known" if secret else "is missing"
            message = f"the API key {what}; send it as Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        _check_wait(admission)

    async def reserve(self, call: Call, tokens: int) -> None:
        """Reserve the most tokens that a request may cost; unused ones are returned at its end.

        Raises ApiError (429) if the key has fewer left; otherwise concurrent requests would overdraw it.
        """
        if self.counter is not None and call.key is not None and call.key.tokens_per_minute is not None:
            admission = await self._counted(self.counter.reserve(call.key, tokens))
            _check_wait(admission)
            call.reserved = (admission.ledger, tokens)

    def settle(self, call: Call) -> None:
        """Return the reserved but unused tokens of a request. If the client disconnected, its usage is unknown."""
        if self.counter is None or call.key is None or call.reserved is None:
            return
        ledger, reserved = call.reserved
        known = call.failure is None or call.streams or not call.tokens_in
        used = call.tokens_in + call.tokens_out if known else reserved
        task = asyncio.create_task(self.counter.settle(call.key, ledger, reserved, used))
        self._settling.add(task)  # a task without a reference may be garbage-collected
        task.add_done_callback(self._settling.discard)

    async def _counted(self, asked: Awaitable[Admission]) -> Admission:
        try:
            return await asked
        except LostCounterError as error:
            raise not_ready("the limits of the API keys cannot be counted at the moment") from error

    async def beside(self, call: Call, work: Callable[[], Made]) -> Made:
        """Run other work for a request in a thread."""
        return await beside(call, self.threads, work)


class Priors:
    """Cache of label scores under content-free prompts, which all calibrated requests of a question share."""

    MOST = 256
    """Most questions in the cache; the least recently used one is dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, LabelSums] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: Hashable) -> LabelSums | None:
        """Return the scores of a question, or None."""
        if question in self._kept:
            self._kept.move_to_end(question)
        return self._kept.get(question)

    def keep(self, question: Hashable, found: LabelSums) -> None:
        """Store the scores of a question."""
        self._kept[question] = found
        while len(self._kept) > self.MOST:
            self._kept.popitem(last=False)


def _check_wait(admission: Admission) -> None:
    if admission.wait:
        message = f"this key's limit of {admission.limit} is reached"
        raise too_busy(message, admission.wait, "rate_limit_exceeded")


def unknown(name: str) -> ApiError:
    """404 for a missing model and for one that this key may not use, so that names are not revealed."""
    message = f"the model {printable(name)!r} is not served here, or not for this key; see /v1/models"
    return ApiError(404, message, param="model", code="model_not_found")


def service_of(request: Request) -> Service:
    """Return the service of a request's app."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]
"""Type of a route's parameter."""
