"""Run log: one record per step for curves, and the ledger of every example consumed.

Records go to `metrics.jsonl` and `validation.jsonl`, written by the first worker and read by the driver (progress bar,
MLflow, TensorBoard), so that no tracking library is imported in the workers. Warnings for the user go to
`warnings.txt`.

A full disk does not end a run here: records wait in memory for space. The ledger proves that every example was consumed
exactly once, so it must never lack a part: a part that cannot be written also waits in memory, no checkpoint is made
before it and the records are written, and a run that cannot write it at its end stops.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.storage import write_bytes, write_json
from ialign_ray.tokens.batch import Encoded
from ialign_ray.training.full_disk import CURE, writing
from ialign_ray.training.stopping import Validated

if TYPE_CHECKING:  # both import torch
    from ialign_ray.training.step import StepStats
    from ialign_ray.training.validation import LossEstimate

ENDING = "ending.json"
LEDGER = "ledger"
_RESERVED = b"\n" * 4096
"""Bytes reserved for warnings at the start, so that the warning of a full disk can be written."""
_SCHEMA = pa.schema(
    [("step", pa.int64()), ("epoch", pa.int64())]
    + [(n, pa.string()) for n in ("row_id", "source", "task", "template")]
    + [("tokens", pa.int64())]
)


class RunLog:
    """The records, the warnings and the ledger of one worker of one run."""

    def __init__(self, run: Path, rank: int = 0, world: int = 1) -> None:
        self.run, self._rank, self._world = run, rank, world
        self._rows: list[tuple[Any, ...]] = []
        self._records, self._validations = self._files = (RunLogFile(run / RECORDS), RunLogFile(run / VALIDATIONS))
        self._from = 0

    def open(self, start: int) -> None:
        """Start after `start` steps; records after `start` (from a failed attempt) are dropped."""
        self._from = start
        if self._rank == 0:
            for part in (self.run / LEDGER).glob("*-*"):
                if int(part.name.partition("-")[2]) > start:
                    shutil.rmtree(part)
            for file in self._files:
                file.forget_after(start)
            with suppress(OSError):  # a warning is logged as well
                if not (self.run / WARNINGS).exists():
                    write_bytes(self.run / WARNINGS, _RESERVED)

    def warn(self, text: str) -> None:
        """Warn the user (first worker): in the log, and through `warnings.txt` on the driver's console."""
        if self._rank:
            return
        logging.getLogger("ialign_ray").warning(text)
        with suppress(OSError), (self.run / WARNINGS).open("r+b") as file:
            told = file.read().rstrip(b"\n")
            # over the reserved line feeds, whose space is already allocated
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
        peak: float,
    ) -> None:
        """Record one step: its examples in the ledger, and (first worker) its metrics in `metrics.jsonl`.

        `peak` is the peak of all workers' devices together, in FLOP/s.
        """
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
            **stats.counts,
            "mfu": stats.counts["flops"] / max(seconds * peak, 1.0),
            "memory": stats.memory,
            "skipped": stats.skipped,
            "sources": dict(sorted(stats.sources.items())),
        }
        self._append(self._records, record)

    def validated(self, step: int, losses: Mapping[str, LossEstimate], seconds: float) -> None:
        """Record (first worker) the results of a validation: metric -> nats per token, interval, sentences."""
        if self._rank == 0:
            found = {metric: [e.value, e.low, e.high, e.n] for metric, e in losses.items()}
            self._append(self._validations, {"step": step, "seconds": seconds, "losses": found})

    def _append(self, file: RunLogFile, record: dict[str, Any]) -> None:
        if cause := file.append(record):
            self.warn(f"{file.path} could not be written ({cause}); its records wait in memory")

    def past(self, steps: int) -> tuple[list[Validated], list[dict[str, Any]]]:
        """Return earlier records: every validation, and the last `steps` steps."""
        return validations(self.run), records(self.run)[-steps:]

    def end(self, **ending: Any) -> None:
        """Write (first worker) how the run ended, or raise CheckpointError."""
        path = self.run / ENDING
        if self._rank == 0:
            skipped = sum(r.get("skipped", False) for r in records(self.run))
            with writing(path, CURE):
                write_json(path, ending | {"skipped_steps": skipped})

    def flush(self, step: int) -> None:
        """Write this worker's part of the ledger up to `step`, or raise CheckpointError and keep it in memory.

        The records must be written too: a resumed run decides from them.
        """
        # the range is in the name, so that `open` finds parts past a checkpoint without reading them
        path = self.run / LEDGER / f"{self._from:08d}-{step:08d}" / f"{self._rank}-of-{self._world}.parquet"
        columns: list[Any] = list(zip(*self._rows, strict=True)) if self._rows else [[] for _ in _SCHEMA]
        part = BytesIO()
        pq.write_table(pa.table(dict(zip(_SCHEMA.names, columns, strict=True)), schema=_SCHEMA), part)
        with writing(path):
            write_bytes(path, part.getvalue())
        self._rows, self._from = [], step
        for file in self._files:
            with writing(file.path):
                file.settle()


def ledger(run: Path) -> pa.Table:
    """Every example that surviving steps consumed: step, epoch, row_id, source, task, template, tokens."""
    parts = [pq.read_table(p) for p in sorted((run / LEDGER).rglob("*.parquet"))]
    return pa.concat_tables(parts) if parts else _SCHEMA.empty_table()


class RunLogFile:
    """One file of records, written by one process. While the disk is full, lines wait in memory for space."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def append(self, record: dict[str, Any]) -> str | None:
        """Add a line; return the cause if it has to wait in memory. A partial line is removed."""
        told = bool(self._waiting)
        self._waiting += json.dumps(record).encode() + b"\n"
        try:
            self.settle()
        except OSError as error:
            return None if told else error.strerror or str(error)
        return None

    def settle(self) -> None:
        """Write waiting lines, or raise OSError."""
        if not self._waiting:
            return
        # unbuffered: write returns the bytes written, so a partial record is detected here
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(self._waiting) == len(self._waiting):
                self._waiting = b""
            else:
                file.truncate(size)
                raise OSError("no space for a whole record")

    def forget_after(self, step: int) -> None:
        """Cut off the lines beyond `step`, and a torn last one; needs no space on the disk."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            end = 0
            for line in iter(file.readline, b""):
                # steps rise, so all lines after the first one beyond `step` are cut
                if not line.endswith(b"\n") or _step_of(line) > step:
                    break
                end += len(line)
            file.truncate(end)

    def read(self) -> list[dict[str, Any]]:
        """Return every whole line; one torn by a crash is skipped."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return 0


RECORDS, VALIDATIONS, WARNINGS = "metrics.jsonl", "validation.jsonl", "warnings.txt"


def records(run: Path) -> list[dict[str, Any]]:
    """Return every whole record of a run; a line torn by a crash is skipped."""
    return RunLogFile(run / RECORDS).read()


def validations(run: Path) -> list[Validated]:
    """Return all validations so far, in the order of steps."""
    return [
        Validated(r["step"], {k: e[0] for k, e in r["losses"].items()}) for r in RunLogFile(run / VALIDATIONS).read()
    ]


def shown_warnings(run: Path) -> list[str]:
    """Return the warnings of a run, oldest first."""
    path = run / WARNINGS
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
