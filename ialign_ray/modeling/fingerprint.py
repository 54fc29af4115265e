"""Identity of a model, computed from its files without loading it; predictions are stored under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ialign_ray.config import ModelSettings
from ialign_ray.modeling.load import model_location
from ialign_ray.storage import MANIFEST, file_hash, read_json

READ_WHOLE = 1 << 25
"""Bytes up to which a file is identified by its content (configuration, tokenizer, adapters); a larger one by size and
time, since a model's weights take longer to hash than to load."""

_ABOUT = {"README.md", "experiment.yaml", "record.json", MANIFEST}  # about a run; they do not affect scores


def base_identity(settings: ModelSettings) -> Any:
    """Identity of a base model: its hub commit, or its folder's files, so that a folder with new files is another
    model."""
    location = Path(model_location(settings.id))
    if not location.is_dir():
        return [settings.id, _commit(settings) or settings.revision]
    files = {p.relative_to(location): p for p in sorted(location.rglob("*")) if p.is_file()}
    return {str(name): _known_by(p) for name, p in files.items() if _counts(name)}


def run_identity(model: Path) -> dict[str, str]:
    """Identity of a finished run: the hashes in its manifest of adapter (or model) and tokenizer."""
    files = read_json(model / MANIFEST)["files"]
    return {name: digest for name, digest in files.items() if name not in _ABOUT}


def _counts(path: Path) -> bool:
    return path.name not in _ABOUT and not any(part.startswith(".") for part in path.parts)


def _known_by(path: Path) -> Any:
    stat = path.stat()
    return file_hash(path) if stat.st_size <= READ_WHOLE else [stat.st_size, stat.st_mtime_ns]


def _commit(settings: ModelSettings) -> str | None:
    """The commit of the hub's branch or tag, from the cache if there is no network."""
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(settings.id, "config.json", revision=settings.revision)
    except (OSError, ValueError):  # loading reports the fault, if anything has to be scored
        return None
    return Path(found).parent.name if found else None
