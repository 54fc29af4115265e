"""Work in threads with a limited wait: loading a model may read files endlessly."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Made = TypeVar("Made")


async def in_thread(
    work: Callable[[], Made], left: list[Future[Any]], drop: Callable[[Made], None] | None = None
) -> Made:
    """Run work in a separate thread: the event loop has few threads, and a few that hang would block all.

    Abandoned work is put into `left`, and its result passed to `drop`.
    """
    future: Future[Made] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="ialign-load", daemon=True).start()
    waiting = asyncio.wrap_future(future)
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        left.append(future)
        waiting.add_done_callback(lambda done: _dropped(done, drop))
        raise


def _dropped(done: asyncio.Future[Made], drop: Callable[[Made], None] | None) -> None:
    if not done.cancelled() and done.exception() is None and drop is not None:
        drop(done.result())
