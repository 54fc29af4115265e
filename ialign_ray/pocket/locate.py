"""Paths of the pocket experiment's files, which are made on first use, then cached."""

from __future__ import annotations

from pathlib import Path

from ialign_ray.errors import DataError
from ialign_ray.storage import cache_folder, once

POCKET = "pocket:"
DATA_VERSION = 2
"""Raised whenever the generator writes other rows."""
BASE_VERSION = 2
"""Raised whenever the recipe of the base model or its training gives other weights."""
_FILES = {
    "parallel": "parallel.parquet",
    "sentiment": "sentiment.parquet",
    "instructions": "instructions.jsonl",
}


def pocket_file(name: str) -> Path:
    """The file of `pocket:parallel`, `pocket:sentiment` or `pocket:instructions`, or the folder of `pocket:base`.

    Data are generated here when absent; the base model is trained by `ialign_ray.training.pocket`.
    """
    short = name.removeprefix(POCKET)
    if short == "base":
        return base_folder()
    if short not in _FILES:
        raise DataError(f"{name!r} is not known; use pocket:base or one of {', '.join(POCKET + f for f in _FILES)}")
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
