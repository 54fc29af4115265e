"""The next step's batch is made ready in a thread while this one computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
DEPTH = 2
"""Steps made ready ahead: one is waiting while the next is made."""


def ahead(items: Iterator[T], make: Callable[[T], R], depth: int = DEPTH) -> Generator[tuple[T, R]]:
    """Each item with what `make` makes of it, in order, up to `depth` of them ahead of the reader.

    One thread reads and makes, so nothing depends on its timing. What it raises comes out where its item would have.
    The thread ends when the iterator is exhausted, closed or no longer referred to.
    """

    def following() -> tuple[T, R] | None:
        for item in items:
            return item, make(item)
        return None

    thread = ThreadPoolExecutor(1, thread_name_prefix="next-batch")
    try:
        waiting: deque[Future[tuple[T, R] | None]] = deque(thread.submit(following) for _ in range(depth))
        while (ready := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(following))
            yield ready
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
