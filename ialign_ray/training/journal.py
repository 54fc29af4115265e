"""What a run did: one record a step for curves, and the ledger of every example consumed.

Records go to `metrics.jsonl`, written by the first worker and read by whoever watches (the driver's
progress bar, MLflow, TensorBoard), so that no tracking library is imported in the workers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.storage import write_text
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.step import StepStats

RECORDS = "metrics.jsonl"
LEDGER = "ledger"
_SCHEMA = pa.schema(
    [("step", pa.int64()), ("epoch", pa.int64())]
    + [(n, pa.string()) for n in ("row_id", "source", "task", "template")]
    + [("tokens", pa.int64())]
)


class Journal:
    """The records and the ledger of one worker of one run."""

    def __init__(self, run: Path, rank: int = 0, world: int = 1) -> None:
        self._run, self._rank, self._world = run, rank, world
        self._rows: list[tuple[Any, ...]] = []
        self._from = 0

    def open(self, start: int) -> None:
        """Begin after `start` steps: what a lost attempt recorded beyond them is forgotten."""
        self._from = start
        if self._rank == 0:
            for part in (self._run / LEDGER).glob("*-*"):
                if int(part.name.partition("-")[2]) > start:
                    shutil.rmtree(part)
            write_text(
                self._run / RECORDS,
                "".join(json.dumps(r) + "\n" for r in records(self._run) if r["step"] <= start),
            )

    def record(
        self,
        step: int,
        examples: Sequence[Encoded],
        stats: StepStats,
        *,
        rate: float,
        seconds: float,
        waited: float,
    ) -> None:
        """Note one step: its examples in the ledger, and (first worker) its record in `metrics.jsonl`."""
        self._rows += [(step, e.epoch, e.row_id, e.source, e.task, e.template, len(e)) for e in examples]
        if self._rank:
            return
        record = {
            "step": step,
            "loss": stats.loss,
            "grad_norm": stats.grad_norm,
            "learning_rate": rate,
            "seconds": seconds,
            "data_wait": waited,
            "examples": stats.examples,
            "replay": stats.replay,
            "tokens": stats.tokens,
            "padded": stats.padded,
            "target_tokens": stats.target_tokens,
            "sources": dict(sorted(stats.sources.items())),
        }
        with (self._run / RECORDS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def flush(self, step: int) -> None:
        """Write this worker's part of the ledger up to `step`."""
        path = self._run / LEDGER / f"{self._from:08d}-{step:08d}" / f"{self._rank}-of-{self._world}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns: list[Any] = list(zip(*self._rows, strict=True)) if self._rows else [[] for _ in _SCHEMA]
        pq.write_table(pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA), path)
        self._rows, self._from = [], step


def records(run: Path) -> list[dict[str, Any]]:
    """Every whole record of a run; a line torn by a crash is passed over."""
    path = run / RECORDS
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def ledger(run: Path) -> pa.Table:
    """Every example that surviving steps consumed: step, epoch, row_id, source, task, template, tokens."""
    parts = [pq.read_table(p) for p in sorted((run / LEDGER).rglob("*.parquet"))]
    return pa.concat_tables(parts) if parts else _SCHEMA.empty_table()
