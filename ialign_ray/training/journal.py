"""What a run did: one record a step for curves, and the ledger of every example consumed.

Records go to `metrics.jsonl`, written by the first worker and read by whoever watches (the driver's
progress bar, MLflow, TensorBoard), so that no tracking library is imported in the workers. What the user must
be told goes to `warnings.txt`.

A full disk ends no run here. Records wait in memory for room. The ledger proves that every example was consumed
exactly once, so it may never lack a part: a part that cannot be written waits in memory too, no checkpoint is made
ahead of it, and a run that cannot write it at its end stops.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.storage import write_bytes
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.checkpoint import writing
from ialign_ray.training.step import StepStats

RECORDS = "metrics.jsonl"
LEDGER = "ledger"
WARNINGS = "warnings.txt"
_RESERVED = b"\n" * 4096
"""Room for warnings, taken at the start: the one of a full disk must find a place."""
_SCHEMA = pa.schema(
    [("step", pa.int64()), ("epoch", pa.int64())]
    + [(n, pa.string()) for n in ("row_id", "source", "task", "template")]
    + [("tokens", pa.int64())]
)


class Journal:
    """The records, the warnings and the ledger of one worker of one run."""

    def __init__(self, run: Path, rank: int = 0, world: int = 1) -> None:
        self._run, self._rank, self._world = run, rank, world
        self._rows: list[tuple[Any, ...]] = []
        self._waiting = b""
        self._from = 0

    def open(self, start: int) -> None:
        """Begin after `start` steps: what a lost attempt recorded beyond them is forgotten."""
        self._from = start
        if self._rank == 0:
            for part in (self._run / LEDGER).glob("*-*"):
                if int(part.name.partition("-")[2]) > start:
                    shutil.rmtree(part)
            _forget_after(self._run / RECORDS, start)
            with suppress(OSError):  # a warning is logged as well
                if not (self._run / WARNINGS).exists():
                    write_bytes(self._run / WARNINGS, _RESERVED)

    def warn(self, text: str) -> None:
        """Tell the user (first worker): in the log, and through `warnings.txt` on the driver's console."""
        if self._rank:
            return
        logging.getLogger("ialign_ray").warning(text)
        with suppress(OSError), (self._run / WARNINGS).open("r+b") as file:
            told = file.read().rstrip(b"\n")
            file.seek(len(told))
            file.write((b"\n" if told else b"") + text.replace("\n", " ").encode() + b"\n")

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
        self._append(json.dumps(record).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """Add a record, or keep it in memory while the disk takes no more; half a line is taken back."""
        told = bool(self._waiting)
        self._waiting += line
        path = self._run / RECORDS
        try:
            with path.open("ab", buffering=0) as file:
                size = file.tell()
                if file.write(self._waiting) == len(self._waiting):
                    self._waiting = b""
                else:
                    file.truncate(size)
                    raise OSError("no room for a whole record")
        except OSError as error:
            if not told:
                self.warn(f"{path} could not be written ({error.strerror or error}); its records wait in memory")

    def flush(self, step: int) -> None:
        """Write this worker's part of the ledger up to `step`, or raise CheckpointError and keep it in memory."""
        path = self._run / LEDGER / f"{self._from:08d}-{step:08d}" / f"{self._rank}-of-{self._world}.parquet"
        columns: list[Any] = list(zip(*self._rows, strict=True)) if self._rows else [[] for _ in _SCHEMA]
        part = BytesIO()
        pq.write_table(pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA), part)
        with writing(path):
            write_bytes(path, part.getvalue())
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


def warnings_told(run: Path) -> list[str]:
    """What the user was told of a run, oldest first."""
    path = run / WARNINGS
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []


def _forget_after(path: Path, step: int) -> None:
    """Cut the records beyond `step` off, and a torn last line; needs no room on the disk."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = 0
        for line in iter(file.readline, b""):
            if not line.endswith(b"\n") or _step_of(line) > step:
                break
            end += len(line)
        file.truncate(end)


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return 0


def ledger(run: Path) -> pa.Table:
    """Every example that surviving steps consumed: step, epoch, row_id, source, task, template, tokens."""
    parts = [pq.read_table(p) for p in sorted((run / LEDGER).rglob("*.parquet"))]
    return pa.concat_tables(parts) if parts else _SCHEMA.empty_table()
