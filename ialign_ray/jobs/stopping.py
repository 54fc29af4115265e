"""SIGTERM, by which Ray stops a job, as an exception: what is under way ends in order, and the record is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ialign_ray.errors import StoppedError


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise StoppedError at SIGTERM while the body runs in the main thread; in others this changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_: int, __: FrameType | None) -> None:
        raise StoppedError("stopped by SIGTERM; what is finished is kept, submit the job again to go on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
