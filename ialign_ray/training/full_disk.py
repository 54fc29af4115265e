"""Errors of a full disk, as one sentence; without torch, since a report of finished runs reads the run log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ialign_ray.errors import CheckpointError

CURE = "free space or raise the quota there, then continue with --resume; earlier checkpoints are intact"


@contextmanager
def writing(target: Path, cure: str = "") -> Iterator[None]:
    """Turn an error in writing `target` into a CheckpointError that names it, the cause and the cure."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        cause = _refusal(error)
        if cause is None:
            raise
        raise CheckpointError(f"{target} could not be written ({cause})" + (f"; {cure}" if cure else "")) from error


def _refusal(error: BaseException | None) -> str | None:
    """The reason of the operating system, or None; safetensors and torch wrap it in their exceptions."""
    while error is not None:
        if isinstance(error, OSError):
            return error.strerror or str(error)
        if isinstance(error, SafetensorError) and (said := re.search(r"([^:]+) \(os error \d+\)", str(error))):
            return said[1].strip()
        error = error.__cause__ or error.__context__
    return None
