"""Attempts at one test set, and the alpha that each of them may spend.

If twenty models are no better than the champion, at least one passes a test at .05 in .23 to .42 of the cases. So every
model scored on the candidate's test sentences counts as an attempt: versions of any name in the registry, and runs that
`ialign evaluate` or `ialign compare` scored in the folder of runs. Attempt k may spend 6 alpha / (pi^2 k^2), which sums
to alpha over any number of attempts, or alpha / m of the m attempts that `promotion.attempts` declares (Bonferroni).
Replay-only controls are not candidates and do not count.

Test sets are compared by a sketch, the smallest hashes of their rows (Broder 1997): two sets that share more than a few
rows share one of them, so that omitting some sentences does not make a new test set, but fresh sentences do.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.errors import IalignError
from ialign_ray.registry.store import Version, content_hash
from ialign_ray.storage import spoiled_file
from ialign_ray.training.runs import MODEL, run_experiment

ALPHA: Final = 0.05
SKETCH: Final = 16
_LOOKS: Final = 250  # a tag takes 5,000 characters
SHORT: Final = 12
FACTS: Final = ("label", "chars", "bytes")
"""Columns of predictions that depend only on the test sentence."""
PREDICTIONS: Final = "predictions"
_NO_RUNS: Final = {"checkpoints", MODEL, PREDICTIONS, "report", "evaluation"}


@dataclass(frozen=True)
class Attempts:
    """Number of uses of a test set, including the current candidate."""

    number: int
    declared: int | None = None
    """`promotion.attempts`."""

    @property
    def alpha(self) -> float:
        """Alpha that this attempt may spend; 0 if all of it is used up."""
        if self.declared is None:
            return 6 * ALPHA / (math.pi * self.number) ** 2
        return ALPHA / self.declared if self.number <= self.declared else 0.0

    @property
    def left(self) -> float:
        """Alpha left after this attempt."""
        if self.declared is None:
            return ALPHA * (1 - 6 / math.pi**2 * math.fsum(1 / k**2 for k in range(1, self.number + 1)))
        return max(0.0, ALPHA * (1 - self.number / self.declared))

    def __str__(self) -> str:
        """Return the attempt, its alpha and the remaining alpha, in words."""
        of = f" of {self.declared}" if self.declared else ""
        spent = f"alpha {self.alpha:.2g} of {ALPHA:g}, {self.left:.2g} left"
        return f"attempt {self.number}{of} at these test sentences, {spent}"


def sketch(frames: Iterable[pd.DataFrame]) -> frozenset[str]:
    """The smallest hashes of the test sentences of predictions, whatever the prompts."""
    rows: set[str] = set()
    for frame in frames:
        about = [c for c in ("language", "id", *FACTS) if c in frame.columns]
        named = frame[about].drop_duplicates()
        rows.update("|".join(f"{c}={_plain(v)}" for c, v in zip(about, row)) for row in named.itertuples(index=False))
    hashes = (hashlib.blake2b(row.encode(), digest_size=4).hexdigest() for row in rows)
    return frozenset(sorted(hashes)[:SKETCH])


def looks(runs: Path, rows: frozenset[str]) -> dict[str, str]:
    """Hash of each finished model below a folder of runs that was scored on those rows -> its run, without controls."""
    found = {}
    for run in _runs(runs):
        try:
            if spoiled_file(run / MODEL) is None and not _is_control(run) and rows & sketch(_scored(run)):
                found[content_hash(run / MODEL)[:SHORT]] = str(run)
        except (IalignError, OSError, pa.ArrowException):
            continue  # a folder that cannot be read counts no use of the test set; the others do
    return found


def row_tags(rows: frozenset[str], seen: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version about its test sentences and the models scored on them so far."""
    return {"rows": json.dumps(sorted(rows)), "looks": json.dumps(sorted(seen)[:_LOOKS])}


def counted(
    candidate: Version,
    rows: frozenset[str],
    known: Iterable[tuple[Version, frozenset[str]]],
    seen: Iterable[str],
) -> int:
    """Number of models that were scored on a candidate's rows, including itself.

    `known` are the registry's versions with their rows, `seen` the hashes of models that were scored elsewhere.
    """
    models = {_look(candidate), *seen, *json.loads(candidate.tags.get("looks", "[]"))}
    for version, others in known:
        if rows & others and not is_control(version):
            models |= {_look(version), *json.loads(version.tags.get("looks", "[]"))}
    return len(models)


def is_control(version: Version) -> bool:
    """Return True if a version was trained only on old instructions."""
    return version.tags.get("dose") == "1"


def rows_of(version: Version) -> frozenset[str] | None:
    """The sketch that a version was registered with; None if it was registered before sketches existed."""
    return frozenset(json.loads(version.tags["rows"])) if "rows" in version.tags else None


def _look(version: Version) -> str:
    """Hash under which a version's model, or its weights with its context, is counted."""
    return version.tags.get("look", version.tags["model"])[:SHORT]


def _plain(value: object) -> object:
    return f"{value:g}" if isinstance(value, float) else value


def _is_control(run: Path) -> bool:
    return run_experiment(run / MODEL).replay.ratio == 1


def _runs(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        if PREDICTIONS in folders and MODEL in folders:
            yield Path(place)
        folders[:] = [name for name in folders if name not in _NO_RUNS]


def _scored(run: Path) -> Iterator[pd.DataFrame]:
    for part in (run / PREDICTIONS).glob("*/*/*/part-*.parquet"):
        names = pq.read_schema(part).names
        wanted = [c for c in ("language", "id", *FACTS) if c in names]
        if len(wanted) > 2:  # without a property of the sentence, an id does not identify its file
            yield pq.read_table(part, columns=wanted, partitioning=None).to_pandas()
