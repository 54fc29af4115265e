"""Rate limits of API keys, per minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ialign_ray.serving.api.auth import KeyEntry
from ialign_ray.serving.api.errors import too_busy


@dataclass
class Bucket:
    """A token bucket: `per_minute` may be spent at once and is refilled evenly over a minute.

    The cost of an answer is known only at its end, so a bucket may go below zero and then waits until it is refilled.
    The `limits` library counts hits in windows, and refuses such a hit instead.
    """

    per_minute: float
    clock: Callable[[], float] = time.monotonic
    _level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._at = self.per_minute, self.clock()

    def wait(self, needed: float) -> float:
        """Seconds until `needed` are available; 0 if they are now."""
        self._refill()
        return max(0.0, (needed - self._level) * 60 / self.per_minute)

    def spend(self, amount: float) -> None:
        """Take `amount`, even below zero."""
        self._refill()
        self._level -= amount

    def _refill(self) -> None:
        now = self.clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now


class Rates:
    """Buckets of all keys, per process: each replica of a deployment counts on its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def enter(self, key: KeyEntry) -> None:
        """Count a request. Raises ApiError (429) if the key has no requests or tokens left."""
        requests, tokens = self._of(key, "requests"), self._of(key, "tokens")
        for bucket, what in ((requests, "requests"), (tokens, "tokens")):
            if bucket and (seconds := bucket.wait(1)):
                limit = f"{bucket.per_minute:g} {what} a minute"
                raise too_busy(f"this key's limit of {limit} is reached", seconds, "rate_limit_exceeded")
        if requests:
            requests.spend(1)

    def charge(self, key: KeyEntry, tokens: int) -> None:
        """Count the tokens of a finished request."""
        if bucket := self._of(key, "tokens"):
            bucket.spend(tokens)

    def _of(self, key: KeyEntry, what: str) -> Bucket | None:
        per_minute = key.requests_per_minute if what == "requests" else key.tokens_per_minute
        if per_minute is None:
            return None
        return self._buckets.setdefault((key.name, what), Bucket(per_minute, self._clock))
