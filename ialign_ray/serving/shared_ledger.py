"""The keys and their counts for all replicas, as a deployment of one process, and functions shared with replicas.

It imports neither torch nor MLflow, which would waste the memory of the process.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from pathlib import Path
from typing import Any

from ialign_ray.config.serve import ServeConfig
from ialign_ray.errors import ModelError
from ialign_ray.serving.keys import KeyFollower, KeyRing, keys_of
from ialign_ray.serving.ledger import KeyLedger, LocalCounter


class SharedLedger(LocalCounter):
    """The keys and their counts for all replicas: usage counted by one replica applies to the others at once."""

    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        """Read the keys, and follow their file."""
        close_internal_port()
        open_log()
        parsed = ServeConfig.model_validate(settings)
        keys = keys_of(parsed)
        assert keys is not None  # deployed only if there are keys
        super().__init__(KeyLedger(keys))
        self._following_keys = follow_keys(parsed, self._ledger)

    async def begin_empty(self, ledger: str) -> None:
        """See `KeyLedger.begin_empty`."""
        self._ledger.begin_empty(ledger)

    async def check_health(self) -> None:
        """Raise if it must be replaced."""
        check_followed(self._following_keys)


def follow_keys(settings: ServeConfig, ledger: KeyLedger) -> asyncio.Task[None] | None:
    """Update a ledger with the keys of the file whenever they change; None if there is no file."""
    if settings.keys is None:
        return None

    def use(keys: KeyRing) -> None:
        ledger.keys = keys

    # twice as often as `follow_s`, in which a removed key must be refused
    return asyncio.create_task(KeyFollower(settings.keys, use).follow(settings.follow_s / 2))


def check_followed(task: asyncio.Task[None] | None) -> None:
    """Raise ModelError if the key file is no longer followed."""
    if task is not None and task.done():
        raise ModelError("the key file is no longer followed; see the log")


def close_internal_port() -> None:
    """Bind the port by which Serve's replicas call each other to a socket that only this user can open.

    Ray (2.60) opens it in every replica, on all interfaces and without a token, and unpickles anything it receives:
    anyone who reaches the port can run code. We do not use it, since the proxy calls replicas through Ray. Call this in
    the replica's constructor, after which Serve opens the port.
    """
    from ray.serve._private import replica

    socket_file = Path(tempfile.mkdtemp(prefix="ialign-")) / "replica"  # in a folder of mode 0700
    replica.add_port_to_grpc_server = lambda server, _: server.add_insecure_port(f"unix:{socket_file}")


def open_log() -> None:
    """Write our messages to the replica's stderr, which Ray copies to its log and to the terminal of `ialign serve`."""
    ours = logging.getLogger("ialign_ray")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
