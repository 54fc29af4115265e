"""Ledger of the remaining limits of each API key: one for all replicas, and a copy in each in case it is lost.

The `limits` library counts hits in windows, in memory or in a Redis; it has no reservations, and a separate store would
be one more server. A deployment of Ray Serve keeps this ledger (`serving/deployment.py`); it is plain Python.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from ialign_ray.serving.keys import KeyEntry, KeyRing

log = logging.getLogger("ialign_ray.serving")
_PATIENCE_S: Final = 1.0
"""Seconds until the shared ledger counts as lost."""
_AWAY_S: Final = 2.0
"""Seconds until a lost ledger is tried again."""


@dataclass
class Bucket:
    """A token bucket: `per_minute` may be spent at once and is refilled evenly over a minute.

    More than `per_minute` may be spent only while the bucket is full: it is below zero then, until it is refilled. The
    clock is monotonic: when the time of day is set, no limit changes.
    """

    per_minute: float
    clock: Callable[[], float] = time.monotonic
    level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self.level, self._at = self.per_minute, self.clock()

    def wait(self, needed: float) -> float:
        """Seconds until `needed`, or all of a minute if that is less, are available; 0 if they are now."""
        self._refill()
        return max(0.0, (min(needed, self.per_minute) - self.level) * 60 / self.per_minute)

    def spend(self, amount: float) -> None:
        """Take `amount`, even below zero; a negative amount is returned."""
        self._refill()
        self.level = min(self.per_minute, self.level - amount)

    def _refill(self) -> None:
        now = self.clock()
        self.level = min(self.per_minute, self.level + max(0.0, now - self._at) * self.per_minute / 60)
        self._at = now


@dataclass(frozen=True)
class Admission:
    """Answer to a request for admission."""

    ledger: str
    """Id of the ledger that answers; others have different counts."""
    key: KeyEntry | None = None
    """Entry of the key; None if it is not known."""
    wait: float = 0.0
    """Seconds until the key may ask again; 0 if it may now, and is counted then."""
    limit: str = ""
    """The limit that is reached: "60 requests a minute"."""


Kind = Literal["requests", "tokens"]


class KeyLedger:
    """Keys and their usage. No method waits, so that checking and spending are atomic."""

    def __init__(self, keys: KeyRing, *, part: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`part`: share of each limit; less than 1 if several ledgers count separately."""
        self.keys, self.id = keys, uuid.uuid4().hex
        self._part, self._clock = part, clock
        self._buckets: dict[tuple[str, Kind], Bucket] = {}
        self._empty = False

    def enter(self, digest: bytes) -> Admission:
        """Count a request of the key with this hash, unless one of its limits is reached."""
        key = self.keys.find(digest)
        if key is None:
            return Admission(self.id)
        for kind in ("requests", "tokens"):
            if refused := self._refused(key, kind, 1):
                return refused
        if requests := self._bucket(key, "requests"):
            requests.spend(1)
        return Admission(self.id, key)

    def reserve(self, key: KeyEntry, tokens: int) -> Admission:
        """Reserve the most tokens that a request may cost, unless its key has fewer left."""
        if refused := self._refused(key, "tokens", tokens):
            return refused
        if bucket := self._bucket(key, "tokens"):
            bucket.spend(tokens)
        return Admission(self.id, key)

    def settle(self, key: KeyEntry, ledger: str, reserved: int, used: int) -> None:
        """Return reserved but unused tokens; do nothing if another ledger reserved them."""
        bucket = self._bucket(key, "tokens")
        if bucket and ledger == self.id:
            bucket.spend(used - reserved)

    def begin_empty(self, ledger: str) -> None:
        """Empty the limits of all keys, once: for a ledger that replaces one that was lost with its counts."""
        if ledger == self.id and not self._empty:
            self._empty = True
            for bucket in self._buckets.values():
                bucket.spend(max(0.0, bucket.level))

    def _refused(self, key: KeyEntry, kind: Kind, needed: float) -> Admission | None:
        bucket = self._bucket(key, kind)
        if bucket is None or not (seconds := bucket.wait(needed)):
            return None
        return Admission(self.id, key, seconds, f"{bucket.per_minute / self._part:g} {kind} a minute")

    def _bucket(self, key: KeyEntry, kind: Kind) -> Bucket | None:
        limit = key.requests_per_minute if kind == "requests" else key.tokens_per_minute
        if limit is None:
            return None
        known, per_minute = self._buckets.get((key.name, kind)), limit * self._part
        if known is None or known.per_minute != per_minute:
            made = Bucket(per_minute, self._clock)
            if known is not None or self._empty:  # a changed limit returns nothing, nor does a lost ledger
                made.spend(per_minute - max(0.0, known.level if known else 0.0))
            self._buckets[key.name, kind] = known = made
        return known


class LimitCounter(Protocol):
    """Interface of a `KeyLedger`, in this process or another."""

    async def enter(self, digest: bytes) -> Admission:
        """See `KeyLedger.enter`."""

    async def reserve(self, key: KeyEntry, tokens: int) -> Admission:
        """See `KeyLedger.reserve`."""

    async def settle(self, key: KeyEntry, ledger: str, reserved: int, used: int) -> None:
        """See `KeyLedger.settle`."""


class LocalCounter:
    """The ledger of this process, for a server of one replica."""

    def __init__(self, ledger: KeyLedger) -> None:
        self._ledger = ledger

    async def enter(self, digest: bytes) -> Admission:
        """See `KeyLedger.enter`."""
        return self._ledger.enter(digest)

    async def reserve(self, key: KeyEntry, tokens: int) -> Admission:
        """See `KeyLedger.reserve`."""
        return self._ledger.reserve(key, tokens)

    async def settle(self, key: KeyEntry, ledger: str, reserved: int, used: int) -> None:
        """See `KeyLedger.settle`."""
        self._ledger.settle(key, ledger, reserved, used)


class LostCounterError(Exception):
    """The shared ledger does not answer, and requests are refused without it."""


class SharedCounter:
    """The ledger of another process, which all replicas use; while it is lost, the local one, if any.

    The local one has this replica's part of each limit, so that all replicas together stay within it.
    """

    def __init__(self, handle: Any, own: KeyLedger | None) -> None:
        """`handle`: `remote` of its methods returns an awaitable, as for handles of Ray Serve. `own` None refuses
        requests."""
        self._handle, self._own = handle, own
        self._known: str | None = None
        self._away_until = 0.0

    async def enter(self, digest: bytes) -> Admission:
        """See `KeyLedger.enter`. Raises LostCounterError."""
        admission: Admission = await self._ask("enter", digest)
        return admission

    async def reserve(self, key: KeyEntry, tokens: int) -> Admission:
        """See `KeyLedger.reserve`. Raises LostCounterError."""
        admission: Admission = await self._ask("reserve", key, tokens)
        return admission

    async def settle(self, key: KeyEntry, ledger: str, reserved: int, used: int) -> None:
        """See `KeyLedger.settle`; tokens that cannot be returned now are not returned later."""
        if self._own is not None and ledger == self._own.id:
            self._own.settle(key, ledger, reserved, used)
        else:
            await self._remote("settle", key, ledger, reserved, used)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        if time.monotonic() >= self._away_until:
            answer = await self._remote(method, *arguments)
            if answer is not None:
                return await self._first_answer(answer)
        if self._own is None:
            raise LostCounterError
        return getattr(self._own, method)(*arguments)

    async def _first_answer(self, answer: Admission) -> Admission:
        """Empty a ledger that took the place of one that this replica knew."""
        known, self._known = self._known, answer.ledger
        if known not in (None, answer.ledger):
            log.warning("the shared ledger of API keys was lost, and a new one starts with empty limits")
            await self._remote("begin_empty", answer.ledger)
        return answer

    async def _remote(self, method: str, *arguments: Any) -> Any:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await getattr(self._handle, method).remote(*arguments)
        except Exception as error:  # anything that Ray raises for a dead actor
            if time.monotonic() >= self._away_until:
                how = "refuse requests" if self._own is None else "count alone"
                log.warning(
                    "the shared ledger of API keys does not answer (%s); replicas %s", type(error).__name__, how
                )
            self._away_until = time.monotonic() + _AWAY_S
            return None
