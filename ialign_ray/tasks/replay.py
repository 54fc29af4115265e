"""The replay pool: old instructions without evaluation sentences, of a chosen diversity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ialign_ray.config import DataSource, Experiment
from ialign_ray.corpus.cleaning.step import Mask
from ialign_ray.corpus.identity import lines_of, share_of, text_key
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError

REPLAY_SCHEMA = pa.schema([(n, pa.string()) for n in ("row_id", "source", "inputs", "targets")])


TENTH = 10
"""At most one in this many instructions is held out for validation."""

Row = tuple[str, str, str, str]
"""Row id, source name, inputs, targets."""


@dataclass
class ReplayCounts:
    """Counts of the instructions read, dropped and kept."""

    read: int = 0
    """Rows in the files after `where` and `limit`."""
    empty: int = 0
    """Rows without inputs or targets."""
    leaked: int = 0
    """Rows that contain a sentence of an evaluation set or are held-out instructions."""
    overlapping: int = 0
    """Leaked rows that were found only by n-gram overlap."""
    too_long: int = 0
    """Rows over `train.max_prompt_tokens` or `train.max_target_tokens`; an instruction is never cut."""
    eligible: int = 0
    """Rows that the pool is drawn from."""
    pool: int = 0
    """Distinct rows in the pool."""
    validation: int = 0
    """Rows held out from the pool by `train.validation`, including those of the same request."""


def instructions(source: DataSource, base: str) -> list[Row]:
    """(row id, source name, inputs, targets) of every instruction in a file of any of the three forms."""
    table = read_table(source, base)
    read = _form(table.column_names, source.origin)
    named = "source" in table.column_names
    rows = []
    for number, row in enumerate(table.to_pylist()):
        inputs, targets = read(row)
        name = str(row["source"]) if named else source.origin
        identity = number if row.get("id") is None else row["id"]
        rows.append((f"{source.origin}:{identity}", name, inputs, targets))
    return rows


def instruction_pool(source: DataSource, base: str) -> pa.Table:
    """Every instruction of a source as a pool of REPLAY_SCHEMA."""
    return _table(instructions(source, base))


def load_replay(
    experiment: Experiment, index: EvaluationIndex, fits: Callable[[str, str], bool]
) -> tuple[pa.Table, ReplayCounts]:
    """The pool as a table of REPLAY_SCHEMA; a pool of 100 is a subset of the pool of 1,000.

    `fits(inputs, targets)` returns True if an instruction can be encoded in full. Raises DataError if the ratio is
    above 0 and no instruction is left.
    """
    pool, _, counts = split_replay(experiment, index, fits, 0)
    return pool, counts


def split_replay(
    experiment: Experiment, index: EvaluationIndex, fits: Callable[[str, str], bool], held_out: int
) -> tuple[pa.Table, pa.Table, ReplayCounts]:
    """The pool, up to `held_out` instructions held out from it (a tenth at most), and counts; see `load_replay`.

    They are chosen only by their request, and every row of the same request stays out of the pool; so they are the
    same for any replay ratio and diversity, and for a ratio of 0, which has no pool.
    """
    counts, eligible = ReplayCounts(), []
    if experiment.replay.ratio > 0 or held_out:
        for source in experiment.replay.sources:
            eligible += _eligible(instructions(source, experiment.storage.data), index, fits, counts)
        if not eligible and experiment.replay.ratio > 0:
            raise DataError(
                f"replay.sources hold no usable instruction: {counts}; name other files or raise the limits"
            )
    counts.eligible = len(eligible)
    # by a hash of the id: a small pool is part of a larger one, in whatever order files are named
    eligible.sort(key=lambda row: (share_of(row[0], seed=1), row[0]))
    rest, kept = _apart(eligible, min(held_out, len(eligible) // TENTH))
    counts.validation = len(eligible) - len(rest)
    pool = rest[: experiment.replay.pool_size] if experiment.replay.ratio > 0 else []
    counts.pool = len(pool)
    return _table(pool), _table(kept), counts


def _apart(rows: list[Row], most: int) -> tuple[list[Row], list[Row]]:
    """Rows except those of the chosen requests, and the first row of each of these."""
    first: dict[bytes, Row] = {}
    for row in rows:
        first.setdefault(text_key(row[2]), row)
    # by the request: two rows of one request must not be on both sides
    chosen = dict(sorted(first.items(), key=lambda item: share_of(item[0].hex(), seed=2))[:most])
    return [row for row in rows if text_key(row[2]) not in chosen], list(chosen.values())


def _eligible(
    rows: list[Row], index: EvaluationIndex, fits: Callable[[str, str], bool], counts: ReplayCounts
) -> list[Row]:
    counts.read += len(rows)
    filled = [row for row in rows if row[2].strip() and row[3].strip()]
    counts.empty += len(rows) - len(filled)
    exact, overlap = leaking(filled, index)
    counts.leaked += int((exact | overlap).sum())
    counts.overlapping += int((overlap & ~exact).sum())
    clear = [row for row, leaked in zip(filled, exact | overlap, strict=True) if not leaked]
    kept = [row for row in clear if fits(row[2], row[3])]
    counts.too_long += len(clear) - len(kept)
    return kept


def replay_leaks(experiment: Experiment, index: EvaluationIndex) -> ReplayCounts:
    """Rows of the replay sources, and the number with evaluation sentences; lengths are not checked."""
    counts = ReplayCounts()
    for source in experiment.replay.sources:
        counts.eligible += len(
            _eligible(instructions(source, experiment.storage.data), index, lambda inputs, targets: True, counts)
        )
    return counts


def leaking(rows: list[Row], index: EvaluationIndex) -> tuple[Mask, Mask]:
    """Masks of instructions that contain an evaluation sentence: as a line or quotation, and by overlap."""
    texts = [text for row in rows for text in row[2:]]
    owners = np.repeat(np.arange(len(rows)), 2)
    parts = [(owner, line) for owner, text in zip(owners, texts, strict=True) for line in lines_of(text)]
    exact, overlap = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    if parts:
        # one call for the lines of all rows: the hashes are computed by column
        found = index.exact(pa.array([line for _, line in parts], pa.string()))
        np.logical_or.at(exact, np.array([owner for owner, _ in parts]), found)
        np.logical_or.at(overlap, owners, index.leaks(pa.array(texts, pa.string()))[1])
    return exact, overlap


def _table(rows: list[Row]) -> pa.Table:
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
    return pa.table(dict(zip(REPLAY_SCHEMA.names, columns, strict=True)), schema=REPLAY_SCHEMA)


def _form(columns: list[str], origin: str) -> Callable[[dict[str, Any]], tuple[str, str]]:
    for a, b in (("inputs", "targets"), ("prompt", "completion")):
        if a in columns and b in columns:
            return lambda row: (str(row[a] or ""), str(row[b] or ""))
    if "messages" in columns:
        return _last_turn
    raise DataError(
        f"{origin} has columns {', '.join(columns)}; instructions need inputs/targets, prompt/completion or messages"
    )


def _last_turn(row: dict[str, Any]) -> tuple[str, str]:
    """A conversation as prompt and answer: everything before the last assistant turn, and that turn."""
    turns = list(row["messages"] or [])
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    if not turns:
        return "", ""
    before = "\n".join(str(t["content"]) for t in turns[:-1])
    return before, str(turns[-1]["content"])
