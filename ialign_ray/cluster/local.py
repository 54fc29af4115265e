"""A private Ray for this process: loopback only, a token, and a folder that only this user can open.

By default, Ray binds its control service, agents and workers to all interfaces, without authentication, and makes its
session folder writable for everybody: anyone who reaches the machine could run code as the user.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ialign_ray.errors import ClusterError

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch for clusters of several machines, off by default on Windows and macOS: with `0` every process of a Ray
binds 127.0.0.1 (ray 2.60 turns a loopback address passed to `ray.init` into the machine's own)."""


@contextmanager
def private_ray() -> Iterator[dict[str, Any]]:
    """Prepare the environment for a local Ray and yield arguments of `ray.init`; its folder is removed at the end.

    Values that the user has set win. Raises ClusterError where other users can read the user's token file.
    """
    given = os.environ.get(LOOPBACK)
    os.environ.setdefault(LOOPBACK, "0")
    require_token()
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    if os.environ[LOOPBACK] == "0":
        ray_constants.ENABLE_RAY_CLUSTER = (
            False  # read from the environment when ray is imported, which may have happened already
        )
    # mode 0700, and short: the paths of Ray's sockets may not exceed 107 bytes
    parent = os.environ.get("RAY_TMPDIR", "/tmp" if os.name == "posix" else None)
    folder = Path(tempfile.mkdtemp(prefix="ialign-", dir=parent))
    try:
        yield {"_temp_dir": str(folder / "ray")}  # Ray makes it writable for everybody
    finally:
        # a cluster that this process joins later must learn its real address
        ray_constants.ENABLE_RAY_CLUSTER = before
        if given is None:
            del os.environ[LOOPBACK]
        for _ in range(30):  # an agent may still be writing its log
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def require_token() -> None:
    """Make the local Ray require a token: the user's, or one that this process creates for its children.

    `RAY_AUTH_MODE=disabled` switches it off.
    """
    # if the variable is not set, Ray enables tokens for a local start and logs three lines about it
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    if not check_token_file():
        # in the environment, which only this user can read; Ray itself would write it to a file that others can
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def check_token_file() -> bool:
    """Return True if the user has a token file. Raises ClusterError if other users can read it."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return False
    if os.name == "posix" and mode & 0o077:
        raise ClusterError(
            f"{path} holds the token of your Ray clusters and other users can read it (mode {mode:o}); "
            f"run `chmod 600 {path}`"
        )
    return True
