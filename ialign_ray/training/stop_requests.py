"""Stop requests: SIGTERM, and a run's reaction to one between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

STOP = "stop"
"""The file in a run's folder by which its driver asks the workers to stop."""


class StopRequest(IntEnum):
    """One worker's request to all of them after a step; the strongest one counts."""

    GO_ON = 0
    SAVE = 1
    """Make a checkpoint now and continue: this worker or its host will soon be gone."""
    STOP = 2
    """Make a checkpoint and end the run."""


@contextmanager
def on_sigterm(call: Callable[[], object]) -> Iterator[None]:
    """Do this call at the first SIGTERM instead of ending; a second one has its previous effect.

    Python delivers signals only to the main thread; in any other this changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = install(call)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def install(call: Callable[[], object]) -> signal.Handlers | int | Callable[[int, FrameType | None], object]:
    """Have the first SIGTERM call this, permanently; return the previous handler. Main thread only."""

    def note(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, before)
        call()

    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    signal.signal(signal.SIGTERM, note)
    return before
