"""State that all routes share: models, settings, keys, rates, metrics and priors."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Depends, Request

from ialign_ray.config.serve import LimitsConfig, ServeConfig
from ialign_ray.errors import IalignError
from ialign_ray.serving.api.auth import KeyEntry, KeyRing
from ialign_ray.serving.api.errors import ApiError, log, not_ready, printable
from ialign_ray.serving.api.limits import Rates
from ialign_ray.serving.api.metrics import Metrics
from ialign_ray.serving.api.request import Call
from ialign_ray.serving.api.tokeniser import Tokeniser, beside, tokenised
from ialign_ray.serving.protocol import LabelSums, ModelInfo, Served, UnknownModelError

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
    keys: KeyRing | None
    rates: Rates = field(default_factory=Rates)
    metrics: Metrics = field(default_factory=Metrics)
    priors: Priors = field(default_factory=lambda: Priors())
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "ialign-prompts"))
    """Threads for long texts, apart from the event loop's own, which load models."""

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
            raise not_ready(f"the model {name} does not load at the moment; the server's log says why") from error
        call.model, call.version = name, served.id
        self.metrics.watch(served.engine)
        return served

    async def tokenised(
        self, call: Call, served: Served, work: Callable[[Tokeniser], Made], *, characters: int = 0
    ) -> Made:
        """Run work that tokenises this request's texts (see `tokeniser.tokenised`)."""
        return await tokenised(call, served, self.settings, self.threads, work, characters=characters)

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
