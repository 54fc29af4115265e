"""Places of a server shared between API keys, so that one key that floods it does not stop the others."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

_RECENT_S: Final = 30.0
"""Seconds after its last request for which a key counts as sharing."""


class Shares:
    """A number of places, and how many of them each key holds. Without keys, all places have one name.

    A single key may hold three quarters: the first request of another one must find a place. With other keys that asked
    in the last half minute, it may hold an equal share.
    """

    def __init__(self, total: int, *, several: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """`several`: True if there is more than one key; otherwise one may hold all places."""
        self.total, self._several, self._clock = total, several, clock
        self.held: Counter[str] = Counter()
        self._seen: OrderedDict[str, float] = OrderedDict()

    def active(self, name: str) -> list[str]:
        """Return the keys that share: this one, those that hold places, and those that asked recently."""
        now = self._clock()
        self._seen[name] = now
        self._seen.move_to_end(name)
        while (oldest := next(iter(self._seen))) != name and now - self._seen[oldest] > _RECENT_S:
            del self._seen[oldest]
        return list({**dict.fromkeys(self._seen), **dict.fromkeys(+self.held)})

    def allowed(self, name: str) -> int:
        """Return the places that a key may hold now."""
        if not self._several:
            return self.total
        sharing = len(self.active(name))
        return max(1, self.total * 3 // 4 if sharing == 1 else self.total // sharing)

    def take(self, name: str) -> bool:
        """Take a place; False if the key has its share, or all places are taken."""
        if self.held.total() >= self.total or self.held[name] >= self.allowed(name):
            return False
        self.held[name] += 1
        return True

    def give(self, name: str) -> None:
        """Give a place back."""
        self.held[name] -= 1
        if not self.held[name]:
            del self.held[name]


class FairGate:
    """Places in an engine's batch, for which requests wait: in turn between keys, in order within one.

    While another key asks so little that it never waits, those that do share a quarter of the places: a batch that one
    key fills slows each answer of the others, on a CPU about as much as it has rows. Otherwise they share all of them.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._shares = Shares(total, several=True, clock=clock)
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, name: str) -> AsyncIterator[None]:
        """Hold a place; waits for one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(name)  # the place was granted at the same moment
            else:
                self._forget(name, turn)
            raise
        try:
            yield
        finally:
            self._leave(name)

    def _leave(self, name: str) -> None:
        self._shares.give(name)
        self._admit()

    def _forget(self, name: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting[name]
        queue.remove(turn)
        if not queue:
            del self._waiting[name]

    def _admit(self) -> None:
        """Give free places to waiting requests: one to each key in turn."""
        admitted = True
        while admitted:
            admitted = False
            for name in list(self._waiting):
                if self._has_room(name):
                    admitted = True
                    queue = self._waiting[name]
                    turn = queue.popleft()
                    if queue:
                        self._waiting.move_to_end(name)
                    else:
                        del self._waiting[name]
                    self._shares.held[name] += 1
                    turn.set_result(None)

    def _has_room(self, name: str) -> bool:
        held, total, sharing = self._shares.held, self._shares.total, self._shares.active(name)
        if held.total() >= total:
            return False
        if len(sharing) == 1:
            return held[name] < self._shares.allowed(name)
        busy = {other for other in self._waiting if held[other]}  # they hold places and want more
        quiet = set(sharing) - busy - {name}
        return held[name] < max(1, (total // 4 if quiet else total) // max(1, len(busy)))
