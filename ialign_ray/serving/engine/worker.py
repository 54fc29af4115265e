"""The thread that runs the model in a loop: admit, prefill, step, answer."""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ialign_ray.errors import IalignError, ModelError
from ialign_ray.serving.engine.adapter_files import LowRank
from ialign_ray.serving.engine.decoding import DecodingBatch, Group
from ialign_ray.serving.engine.lora import LoraBank
from ialign_ray.serving.engine.prompt_scoring import Reader
from ialign_ray.serving.engine.requests import EngineRequest, GenerationRow, Order, Outbox, Reading, in_loop
from ialign_ray.serving.engine.sampling import choose
from ialign_ray.serving.engine.schedule import Limits, WaitingRow, admit
from ialign_ray.serving.protocol import EngineError, NotANumberError

LOG = logging.getLogger(__name__)
FAULTS = 3
"""Consecutive failures after which the engine reports itself dead."""


class Worker(threading.Thread):
    """Owns the model and every running request; other threads only call `post` and `state`.

    A failure in a step ends only the requests of that step. One thread and one inbox instead of locks: between
    two steps nothing else touches rows, cache or adapters, so joining, leaving and loading need no synchronisation.
    """

    def __init__(
        self, model: nn.Module, bank: LoraBank, limits: Limits, ended: Callable[[EngineRequest], None]
    ) -> None:
        super().__init__(name="ialign-engine", daemon=True)
        self._limits, self._ended, self._bank = limits, ended, bank
        self._inbox: queue.SimpleQueue[GenerationRow | Reading | Order | None] = queue.SimpleQueue()
        self._decoding, self._reader = DecodingBatch(model, bank), Reader(model, bank)
        self._rows: list[GenerationRow] = []
        self._readings: list[Reading] = []
        self._orders: list[Order] = []
        self._outbox = Outbox()
        self._faults = 0
        self._stopping = False
        self.dead = False
        self.counts = dict.fromkeys(
            ("requests", "failed", "cancelled", "not_a_number", "prompt_tokens", "tokens", "steps"), 0
        )
        self._batch = self._cached = 0
        self._door, self._shut = threading.Lock(), False

    def post(self, item: GenerationRow | Reading | Order | None) -> None:
        """Queue a request or an order; None stops the thread after its current step.

        Raises EngineError once the thread has stopped.
        """
        with self._door:  # without the lock an item could arrive after `_leave` drained the inbox, and wait forever
            if self._shut and item is not None:
                raise EngineError("the engine has stopped; send the request again.")
            self._inbox.put(item)

    def add_adapter(self, key: str, weights: Mapping[str, LowRank]) -> None:
        """Add an adapter; for orders, since only this thread may do so.

        Raises ModelError, and changes nothing, if the model computes NaN with it.
        """
        self._bank.add(key, weights)
        try:
            if not self._decoding.computes(key):
                raise ModelError(
                    f"adapter {key!r} makes the model compute NaN or infinity; train it again with a smaller "
                    "learning rate, or check its lora_alpha."
                )
        except Exception:
            self._bank.remove(key)
            raise

    def state(self) -> dict[str, float]:
        """Return numbers for metrics. Read from other threads: each is correct, but not all from the same moment."""
        return {
            "waiting": len(self._rows) + len(self._readings) + self._inbox.qsize(),
            "batch": self._batch,
            "cache_tokens": self._cached,
            **self.counts,
        }

    @torch.inference_mode()  # a third faster than no_grad on a small model, whose steps are mostly overhead
    def run(self) -> None:
        """Run until `post(None)`."""
        try:
            while not self._stopping:
                self._collect()
                self._turn()
        except Exception as error:  # a bug outside of a step: no caller may wait forever
            LOG.exception("the engine's thread failed")
            self._die(error)
        self._leave()

    def _leave(self) -> None:
        """Fail all remaining requests, so that no caller waits for an answer that never comes."""
        with self._door:
            self._shut = True
        self._drain()
        stopped = EngineError("the engine was stopped before this request ended; send it again.")
        self._fail(self._all(), stopped)
        self._outbox.send()
        for order in self._orders:
            in_loop(order.loop, _settle, order.done, stopped)

    def _turn(self) -> None:
        self._forget_cancelled()
        self._obey()
        self._admit()
        self._read()
        for group in list(self._decoding.groups):
            if not self.dead:
                self._guarded(group.rows, partial(self._step, group), group)
        self._batch, self._cached = len(self._decoding.rows()), self._decoding.cached_tokens()
        self._outbox.send()

    # --- incoming requests --------------------------------------------------------------------------------

    def _collect(self) -> None:
        if not (self._orders or self._all()):
            self._take(self._inbox.get())
        self._drain()

    def _drain(self) -> None:
        while not self._inbox.empty():
            self._take(self._inbox.get_nowait())

    def _take(self, item: GenerationRow | Reading | Order | None) -> None:
        if item is None:
            self._stopping = True
        elif isinstance(item, Order):
            self._orders.append(item)
        elif isinstance(item, GenerationRow):
            self._rows.append(item)
        else:
            self._readings.append(item)

    def _obey(self) -> None:
        used = {request.adapter for request in self._all()} if self._orders else set()
        for order in [order for order in self._orders if order.after is None or order.after not in used]:
            self._orders.remove(order)
            try:
                order.work()
            except Exception as error:
                in_loop(order.loop, _settle, order.done, _engine_error(error))
            else:
                in_loop(order.loop, _settle, order.done, None)

    def _all(self) -> list[EngineRequest]:
        return [*self._rows, *self._readings, *self._decoding.beginning(), *self._decoding.rows()]

    def _forget_cancelled(self) -> None:
        beginning = self._decoding.beginning()
        over = all(row.cancelled for row in beginning)
        # Prompts that are read together share one cache, so a cancelled one leaves when all are read, unless all are
        # cancelled.
        gone = {request for request in self._all() if request.cancelled} - set([] if over else beginning)
        if gone:
            if over:
                self._decoding.stop_beginning()
            self._rows = [row for row in self._rows if row not in gone]
            self._readings = [reading for reading in self._readings if reading not in gone]
            self._decoding.drop({row for row in gone if isinstance(row, GenerationRow)})
            self._end(gone, "cancelled")

    # --- one step -------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Read the next slice of the prompts being read, or begin with the next rows."""
        if rows := self._decoding.beginning():
            self._guarded(rows, self._advance)
            return
        running = [row.positions() for row in self._decoding.rows()]
        waiting = [WaitingRow(len(row.prompt), row.positions()) for row in self._rows]
        at = admit(waiting, running, self._limits, same_length=self._decoding.same_length)
        begun = [self._rows[i] for i in at]
        self._rows = [row for i, row in enumerate(self._rows) if i not in set(at)]
        if begun:
            self._guarded(begun, partial(self._begin, begun))

    def _begin(self, rows: Sequence[GenerationRow]) -> None:
        self._decoding.begin(rows)
        self._advance()

    def _advance(self) -> None:
        begun = self._decoding.advance(self._slice())
        if begun is not None:
            rows, logits = begun
            self.counts["prompt_tokens"] += sum(len(row.prompt) for row in rows)
            self._write(rows, logits)

    def _slice(self) -> int:
        """Return the tokens that may be read now: few if running rows wait for them."""
        return self._limits.prefill(bool(self._decoding.rows()))

    def _step(self, group: Group) -> None:
        self._write(list(group.rows), group.step())
        self.counts["steps"] += 1

    def _write(self, rows: Sequence[GenerationRow], logits: torch.Tensor) -> None:
        broken: dict[EngineRequest, NotANumberError] = {}
        for row, score in zip(rows, choose(logits, rows), strict=True):
            if isinstance(score, NotANumberError):
                broken[row] = score
            elif (piece := row.accept(score)) is not None:
                self._outbox.put(row, piece)
        self.counts["tokens"] += len(rows) - len(broken)
        over = {row for row in rows if row.complete}
        self._decoding.drop({row for row in rows if row.complete or row in broken})
        self._end(over, "requests")
        self._report_broken(broken)

    def _read(self) -> None:
        if self._readings:
            budget = self._slice()
            chosen = self._reader.slice(self._readings, budget)
            self._guarded(chosen, partial(self._answer, chosen, budget))

    def _answer(self, chosen: Sequence[Reading], budget: int) -> None:
        done = self._reader.read(chosen, budget)
        broken: dict[EngineRequest, NotANumberError] = {
            request: answer for request, answer in done if isinstance(answer, NotANumberError)
        }
        done = [(request, answer) for request, answer in done if request not in broken]
        for request, answer in done:
            self._outbox.put(request, answer)
        over = {request for request, _ in done}
        # unfinished requests move behind the others, so that a large request delays them by only one slice
        kept = [request for request in self._readings if request not in set(chosen)]
        self._readings = [*kept, *(request for request in chosen if request not in over and request not in broken)]
        self._end(over, "requests")
        self._report_broken(broken)

    # --- endings -----------------------------------------------------------------------------------------

    def _end(self, requests: Iterable[EngineRequest], how: str) -> None:
        for request in requests:
            request.ended = True
            self.counts[how] += 1
            self._ended(request)

    def _guarded(self, requests: Sequence[EngineRequest], work: Callable[[], None], group: Group | None = None) -> None:
        own = list(requests)
        try:
            work()
        except Exception as error:
            LOG.exception("the engine failed with %d requests in the step", len(own))
            failure = _engine_error(error)
            traceback.clear_frames(
                error.__traceback__
            )  # they hold the step's tensors; after running out of memory these must be freed
            self._forget(own, group)
            self._fail(own, failure)
            # one request too large for the memory does not mean that the engine is broken
            self._faults += not isinstance(error, torch.OutOfMemoryError | MemoryError)
            if self._faults >= FAULTS:
                self._die(failure)
        else:
            self._faults = 0

    def _report_broken(self, broken: Mapping[EngineRequest, NotANumberError]) -> None:
        """Fail the requests for which the model computed NaN, and die if the base computes it for any request."""
        if not broken:
            return
        names = sorted({request.adapter or "the base" for request in broken})
        LOG.error("%d requests were answered with an error, for which NaN was computed: %s", len(broken), names)
        self.counts["not_a_number"] += len(broken)
        for request, error in broken.items():
            self._fail([request], error)
        if not self._decoding.computes():
            self._die(
                EngineError("the weights in memory are damaged; the engine will be replaced, so try again later.")
            )

    def _forget(self, requests: Sequence[EngineRequest], group: Group | None) -> None:
        """Drop failed requests with their groups' state, which may be half written."""
        self._readings = [reading for reading in self._readings if reading not in requests]
        if any(row in requests for row in self._decoding.beginning()):
            self._decoding.stop_beginning()
        for broken in self._decoding.groups if group is None else [group]:
            if broken.broken or any(row in requests for row in broken.rows):
                self._fail([row for row in broken.rows if row not in requests], EngineError(BROKEN))
                self._decoding.clear(broken)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _fail(self, requests: Iterable[EngineRequest], error: IalignError) -> None:
        failed = [request for request in requests if not request.ended]
        for request in failed:
            self._outbox.put(request, error)
        self._end(failed, "failed")

    def _die(self, error: Exception) -> None:
        self.dead = self._stopping = True
        self._fail(self._all(), _engine_error(error))
        self._rows, self._readings = [], []
        self._decoding.stop_beginning()
        self._decoding.groups = []


BROKEN = "the engine failed while it generated this answer; the request is not the cause, so send it again."


def _engine_error(error: Exception) -> IalignError:
    if isinstance(error, IalignError):
        return error
    lines = str(error).strip().splitlines()
    return EngineError(f"{BROKEN[:-1]} ({type(error).__name__}: {lines[0] if lines else 'no message'}).")


def _settle(done: Any, error: IalignError | None) -> None:
    if not done.done():
        done.set_result(None) if error is None else done.set_exception(error)
