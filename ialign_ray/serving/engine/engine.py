"""The engine's asyncio interface: requests, answers, and adapters loaded and unloaded in between."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ialign_ray.config import ModelSettings
from ialign_ray.errors import DataError, ModelError
from ialign_ray.inference.batching import check_prompts
from ialign_ray.inference.generation import end_tokens
from ialign_ray.modeling.architecture import decoder_start, is_encoder_decoder
from ialign_ray.modeling.head import base_model
from ialign_ray.modeling.load import check_finite, load_adapted, merge, set_aside_warning
from ialign_ray.serving.engine.adapter_files import read_adapter
from ialign_ray.serving.engine.detokenize import AnswerText
from ialign_ray.serving.engine.lora import LoraBank
from ialign_ray.serving.engine.requests import EngineRequest, GenerationRow, Labels, Order, Reading, Text
from ialign_ray.serving.engine.sampling import check_sampling
from ialign_ray.serving.engine.schedule import Limits
from ialign_ray.serving.engine.worker import Worker
from ialign_ray.serving.protocol import (
    BusyError,
    EngineError,
    LabelSums,
    Sampling,
    TextDelta,
    TokenScore,
    UnknownModelError,
)

log = logging.getLogger("ialign_ray.serving")


def open_engine(
    settings: ModelSettings,
    folder: Path | None,
    *,
    max_batch: int,
    max_batch_tokens: int,
    queue: int,
    max_adapters: int,
) -> TransformersEngine:
    """Open an engine on the base (`folder` None), a full or merged model's folder, or an adapter's, which is merged.

    It runs on the GPU if there is one. Raises ModelError as `load_adapted` does, and if a weight is not finite.
    """
    model, tokenizer = load_adapted(settings, folder)
    for warning in set_aside_warning(settings):
        log.warning(warning)
    model = merge(model)
    check_finite(model, str(folder or settings.id))
    if torch.cuda.is_available() and not getattr(model, "is_quantized", False):
        model = model.to("cuda")
    limits = Limits(max_batch, max_batch_tokens)
    return TransformersEngine(model, tokenizer, limits, queue=queue, max_adapters=max_adapters)


class TransformersEngine:
    """`ialign_ray.serving.protocol.Engine` with transformers, torch and a separate thread.

    Args:
        model: a causal or encoder-decoder model of transformers, without an adapter.
        tokenizer: decodes answers; its end-of-sequence token ends one, as do those of the model.
        limits: bounds of a batch.
        queue: requests that may wait or run; one more raises BusyError.
        max_adapters: adapters in memory.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, limits: Limits, *, queue: int = 256, max_adapters: int = 8
    ) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self._decoder = copy.deepcopy(
            tokenizer
        )  # the engine's thread decodes; a fast tokenizer must not be used by two threads
        self._limits, self._queue, self._max_adapters = limits, queue, max_adapters
        self._ends = frozenset(end_tokens(base_model(model), tokenizer))
        self._start = decoder_start(model)
        self._forced = _forced(base_model(model).generation_config) if is_encoder_decoder(model) else (None, None)
        self._vocabulary = int(base_model(model).get_input_embeddings().weight.shape[0])
        self._bank = LoraBank(model)
        self._shapes = self._bank.shapes()
        self._known: dict[str, bool] = {}
        self._open = 0
        self._lock = threading.Lock()
        self._pace = Pace()
        self._closing = False
        self._worker = Worker(model, self._bank, limits, self._ended)
        self._worker.start()

    # --- requests -------------------------------------------------------------------------------------

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, adapter: str | None = None, *, whole: bool = False
    ) -> AsyncIterator[TextDelta]:
        """See `Engine.stream`. Invalid requests are refused here, before the first piece is requested.

        The iterator has `aclose`, as a generator has; dropping it ends the request too.
        """
        check_sampling(sampling)
        row = GenerationRow(
            adapter,
            asyncio.get_running_loop(),
            prompt=list(prompt),
            sampling=sampling,
            text=AnswerText(self._decode, sampling.stop, whole=whole),
            ends=self._ends | sampling.ends,
            start=self._start,
            whole=whole,
            forced=self._forced,
        )
        self._check([row.prompt], [sampling.max_new_tokens])
        self._submit(row)
        return AnswerStream(row)

    async def score_labels(
        self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], adapter: str | None = None
    ) -> LabelSums:
        """See `Engine.score_labels`."""
        request = Labels(
            adapter, asyncio.get_running_loop(), prompts=[list(p) for p in prompts], labels=[list(x) for x in labels]
        )
        if not request.labels or not all(request.labels):
            raise DataError("at least one label is required, each of at least one token.")
        if not request.prompts:
            return request.result()
        self._check(request.prompts, [max(map(len, request.labels))] * len(request.prompts), request.labels)
        answer: LabelSums = await self._answer(request)
        return answer

    async def read(self, ids: Sequence[int], top: int, adapter: str | None = None) -> list[TokenScore]:
        """See `Engine.read`; for causal models only."""
        if is_encoder_decoder(self.model):
            raise ModelError("an encoder-decoder cannot score a prompt; score a target instead (`score_labels`).")
        request = Text(adapter, asyncio.get_running_loop(), ids=list(ids), top=top)
        self._check([request.ids], [0])
        answer: list[TokenScore] = await self._answer(request)
        return answer

    # --- adapters -------------------------------------------------------------------------------------

    async def load(self, adapter: str, folder: Path) -> None:
        """See `Engine.load`: files are read in parallel with the model's work, and added between two steps.

        Raises ModelError too if the key is in use, `max_adapters` are loaded, or the model computes NaN with it.
        """
        if adapter in self._known:
            raise ModelError(f"adapter {adapter!r} is already loaded; unload it first.")
        if len(self._known) >= self._max_adapters:
            raise ModelError(f"the limit of {self._max_adapters} loaded adapters is reached; unload one first.")
        self._known[adapter] = False
        await asyncio.shield(self._load(adapter, folder))  # a cancelled caller must not leave a half-loaded adapter

    async def unload(self, adapter: str) -> None:
        """See `Engine.unload`: running requests keep it, new ones are refused. Raises UnknownModelError."""
        if not self._known.get(adapter):
            raise UnknownModelError(f"adapter {adapter!r} is not loaded.")
        self._known[adapter] = False
        await asyncio.shield(self._unload(adapter))

    def loaded(self) -> tuple[str, ...]:
        """See `Engine.loaded`; without adapters that are being loaded or unloaded."""
        return tuple(key for key, usable in self._known.items() if usable)

    # --- operation ------------------------------------------------------------------------------------

    def stats(self) -> dict[str, float]:
        """See `Engine.stats`. `dead` is 1 once the engine cannot answer any more and its replica must be replaced."""
        state = self._worker.state()
        return {
            "queue": self._open,
            "running": max(0, self._open - state["waiting"]),
            **state,
            "adapters": len(self.loaded()),
            "adapter_bytes": self._bank.bytes(),
            "dead": float(self._worker.dead),
        }

    async def close(self, grace: float = 30.0) -> None:
        """See `Engine.close`; requests that have not ended by then raise EngineError."""
        self._closing = True
        deadline = time.monotonic() + grace
        while self._open and self._worker.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self._worker.post(None)
        await asyncio.to_thread(self._worker.join)

    # --- internal ---------------------------------------------------------------------------------------

    def _decode(self, ids: list[int]) -> str:
        text: str = self._decoder.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _check(
        self, prompts: Sequence[Sequence[int]], extra: Sequence[int], labels: Sequence[Sequence[int]] = ()
    ) -> None:
        check_prompts(self.model, prompts, extra)
        for ids in (*prompts, *labels):
            if min(ids) < 0 or max(ids) >= self._vocabulary:
                raise DataError(
                    f"token ids must be from 0 to {self._vocabulary - 1}; these are {min(ids)} to {max(ids)}."
                )
        needs = max(len(prompt) + more for prompt, more in zip(prompts, extra, strict=True))
        if needs > self._limits.max_batch_tokens:
            raise ModelError(
                f"the request needs {needs} tokens and the engine holds {self._limits.max_batch_tokens} "
                "(serve.max_batch_tokens); shorten the text or ask for fewer tokens."
            )

    def _submit(self, request: GenerationRow | Reading) -> None:
        if request.adapter is not None and not self._known.get(request.adapter):
            raise UnknownModelError(f"adapter {request.adapter!r} is not loaded.")
        if self._worker.dead:
            raise EngineError("the engine has failed and will be replaced; try again later.")
        if self._closing:
            raise BusyError("the engine is closing; try again.", 1.0)
        with self._lock:
            if self._open >= self._queue:
                seconds = self._pace.wait(self._open)
                raise BusyError(
                    f"the limit of {self._open} requests is reached; try again in {seconds:.0f} s.", seconds
                )
            self._open += 1
        try:
            self._worker.post(request)
        except EngineError:
            self._ended(request)
            raise

    async def _answer(self, request: Reading) -> Any:
        self._submit(request)
        try:
            answer = await request.answers.get()
        except BaseException:
            request.cancelled = True
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _load(self, adapter: str, folder: Path) -> None:
        try:
            weights = await asyncio.to_thread(read_adapter, folder, self._shapes)
            await self._order(lambda: self._worker.add_adapter(adapter, weights))
        except BaseException:
            del self._known[adapter]
            raise
        self._known[adapter] = True

    async def _unload(self, adapter: str) -> None:
        await self._order(lambda: self._bank.remove(adapter), after=adapter)
        del self._known[adapter]

    async def _order(self, work: Callable[[], None], after: str | None = None) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._worker.post(Order(work, loop, done, after))
        await done

    def _ended(self, request: EngineRequest) -> None:
        """Count a request as ended; called by the model thread."""
        with self._lock:
            self._open -= 1
            self._pace.ended()


def _forced(config: Any) -> tuple[int | None, int | None]:
    """Return the forced first and last token of an answer from a generation config, as `generate` applies them."""
    last = config.forced_eos_token_id
    return config.forced_bos_token_id, last[0] if isinstance(last, list) else last


class AnswerStream(AsyncIterator[TextDelta]):
    """Pieces of one answer; the request ends with the last, with `aclose`, or when this is garbage-collected."""

    def __init__(self, row: GenerationRow) -> None:
        self._row, self._over = row, False

    async def __anext__(self) -> TextDelta:
        if self._over:
            raise StopAsyncIteration
        try:
            piece = await self._row.answers.get()
        except BaseException:
            await self.aclose()
            raise
        if isinstance(piece, Exception):
            self._over = True
            raise piece
        self._over = piece.finish is not None
        answer: TextDelta = piece
        return answer

    async def aclose(self) -> None:
        """Remove the request from its batch."""
        self._over = self._row.cancelled = True

    def __del__(self) -> None:
        self._row.cancelled = True


class Pace:
    """Moving average of the time between ended requests, for the `Retry-After` of refused ones."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._between = 0.1

    def ended(self) -> None:
        """Record an ended request."""
        now = time.monotonic()
        self._between += 0.1 * (min(now - self._last, 10.0) - self._between)
        self._last = now

    def wait(self, under_way: int) -> float:
        """Estimate the seconds until half of the requests have ended, from 1 to 60."""
        return min(60.0, max(1.0, self._between * under_way / 2))
