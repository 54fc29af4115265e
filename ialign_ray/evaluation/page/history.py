"""What the runs' folders tell of training: curves, counts of data and warnings. A folder that is gone tells nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ialign_ray.storage import read_json
from ialign_ray.training.history import records, validations, warnings_told

POINTS = 60
"""Points of a curve: more cannot be told apart, and make the page heavy."""
_CURVE = ["run", "seed", "source", "step", "loss"]
Folders = Mapping[str, Sequence[Path]]


def loss_curves(folders: Folders) -> pd.DataFrame:
    """Nats per target token of each task and of replay, averaged over equal stretches of steps."""
    parts = [_of_run(run, seed, path) for run, seed, path in _each(folders)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_CURVE)


def validation_curves(folders: Folders) -> pd.DataFrame:
    """Losses that validation found on the way, where there was any."""
    rows = [
        (run, seed, source, found.step, loss)
        for run, seed, path in _each(folders)
        for found in validations(path)
        for source, loss in found.losses.items()
    ]
    return pd.DataFrame(rows, columns=_CURVE)


def data_counts(folders: Folders) -> list[dict[str, Any]]:
    """A row for each run and corpus: how many rows were read, and what became of them."""
    rows = []
    for run, seed, path in _each(folders):
        if seed == 0 and (path / "record.json").exists():
            data = read_json(path / "record.json").get("data", {})
            sources = data.get("corpora", {}) | {"replay": data.get("replay") or {}}
            rows += [{"run": run, "source": name, "counts": counts} for name, counts in sources.items() if counts]
    return rows


def warnings(folders: Folders) -> list[str]:
    """What the user was told while the runs trained, each once."""
    told = (f"{run} (seed {seed}): {line}" for run, seed, path in _each(folders) for line in warnings_told(path))
    return list(dict.fromkeys(told))


def _of_run(run: str, seed: int, path: Path) -> pd.DataFrame:
    rows = [
        (name.partition("/")[0], record["step"], nats, tokens)
        for record in records(path)
        for name, (nats, tokens) in record.get("sources", {}).items()
    ]
    steps = pd.DataFrame(rows, columns=["source", "step", "nats", "tokens"])
    if steps.empty:
        return pd.DataFrame(columns=_CURVE)
    width = max(1, -(-int(steps["step"].max()) // POINTS))
    steps["step"] = ((steps["step"] - 1) // width + 1) * width
    total = steps.groupby(["source", "step"], as_index=False)[["nats", "tokens"]].sum()
    return total.assign(run=run, seed=seed, loss=total["nats"] / total["tokens"])[_CURVE]


def _each(folders: Folders) -> Iterator[tuple[str, int, Path]]:
    for run, paths in folders.items():
        for seed, path in enumerate(paths):
            if path.is_dir():
                yield run, seed, path
