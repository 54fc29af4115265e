"""Paths of the pocket experiment's files, which are made on first use, then cached."""

from __future__ import annotations

from pathlib import Path

from ialign_ray.errors import DataError
from ialign_ray.pocket.following import FOLLOWING, write_following
from ialign_ray.storage import cache_folder, once

POCKET = "pocket:"
DATA_VERSION = 2
"""Raised whenever the generator writes other rows."""
BASE_VERSION = 2
"""Raised whenever the recipe of the base model or its training gives other weights."""
FOLLOWING_VERSION = 1
"""Raised whenever the requests of `pocket:following` change."""
_FILES = {
    "parallel": "parallel.parquet",
    "sentiment": "sentiment.parquet",
    "instructions": "instructions.jsonl",
}


def pocket_file(name: str) -> Path:
    """The file of `pocket:parallel`, `pocket:sentiment`, `pocket:instructions` or `pocket:following`, or the folder of
    `pocket:base`.

    Data are generated here when absent; the base model is trained by `ialign_ray.training.pocket`.
    """
    short = name.removeprefix(POCKET)
    if short == "base":
        return base_folder()
    if short == "following":
        return once(cache_folder() / f"following-{FOLLOWING_VERSION}", write_following) / FOLLOWING
    if short not in _FILES:
        known = ", ".join(POCKET + known for known in (*_FILES, "following"))
        raise DataError(f"{name!r} is not known; use pocket:base or one of {known}")
    return once(data_folder(), _write) / _FILES[short]


def data_folder() -> Path:
    """Cache folder of the generated data; its name changes with its version."""
    return cache_folder() / f"pocket-data-{DATA_VERSION}"


def base_folder() -> Path:
    """Cache folder of the pocket base model; its name changes with its version."""
    return cache_folder() / f"pocket-base-{DATA_VERSION}.{BASE_VERSION}"


def _write(folder: Path) -> None:
    from ialign_ray.pocket.corpus import write_pocket

    write_pocket(folder)
