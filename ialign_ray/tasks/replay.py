"""The replay pool: old instructions without evaluation sentences, of a chosen diversity."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa

from ialign_ray.config import DataSource, Experiment
from ialign_ray.corpus.cleaning.step import Mask
from ialign_ray.corpus.identity import lines_of, share_of, text_key
from ialign_ray.corpus.leaks import EvaluationIndex
from ialign_ray.errors import DataError, ModelError
from ialign_ray.tasks.instructions import Instruction, InstructionFile, instructions, read_instructions

REPLAY_SCHEMA = pa.schema([(n, pa.string()) for n in ("row_id", "source", "inputs", "targets")])
TURNS = pa.field("turns", pa.string())
"""Column that a pool with conversations has in addition: the turns as JSON, null for a request and its answer."""

TENTH = 10
"""At most one in this many instructions is held out for validation."""

Fits = Callable[..., bool]
"""`fits(inputs, targets)`, or `fits(inputs, targets, turns)` for a conversation: True if it can be encoded in full. It
raises ModelError if the model does not accept the roles of the turns in this order."""


@dataclass
class ReplayCounts:
    """Counts of the instructions read, dropped and kept."""

    read: int = 0
    """Rows in the files after `where` and `limit`."""
    empty: int = 0
    """Rows without inputs or targets, or with an empty turn."""
    malformed: int = 0
    """Rows that cannot be read, dropped by `bad_rows: drop`."""
    unsupported: int = 0
    """Rows with an image, audio or a tool call."""
    unrenderable: int = 0
    """Conversations whose roles the model's chat template does not accept in this order."""
    leaked: int = 0
    """Rows that contain a sentence of an evaluation set or are held-out instructions."""
    leaked_from: dict[str, int] = field(default_factory=dict)
    """Suite or protected set -> leaked rows with a sentence of it."""
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


def instruction_pool(source: DataSource, base: str) -> pa.Table:
    """Every instruction of a source as a pool of REPLAY_SCHEMA."""
    return _table(instructions(source, base))


def load_replay(experiment: Experiment, index: EvaluationIndex, fits: Fits) -> tuple[pa.Table, ReplayCounts]:
    """The pool as a table of REPLAY_SCHEMA; a pool of 100 is a subset of the pool of 1,000.

    Raises DataError if the ratio is above 0 and no instruction is left.
    """
    pool, _, counts = split_replay(experiment, index, fits, 0)
    return pool, counts


def split_replay(
    experiment: Experiment, index: EvaluationIndex, fits: Fits, held_out: int
) -> tuple[pa.Table, pa.Table, ReplayCounts]:
    """The pool, up to `held_out` instructions held out from it (a tenth at most), and counts; see `load_replay`.

    They are chosen only by their request, and every row of the same request stays out of the pool; so they are the
    same for any replay ratio and diversity, and for a ratio of 0, which has no pool.
    """
    counts, eligible = ReplayCounts(), []
    if experiment.replay.ratio > 0 or held_out:
        for source in experiment.replay.sources:
            eligible += _eligible(read_instructions(source, experiment.storage.data), index, fits, counts)
        if not eligible and experiment.replay.ratio > 0:
            numbers = {name.replace("_", " "): n for name, n in asdict(counts).items() if isinstance(n, int) and n}
            found = ", ".join(f"{n} {name}" for name, n in numbers.items())
            raise DataError(
                f"replay.sources hold no usable instruction ({found}); name other files or raise the limits"
            )
    counts.eligible = len(eligible)
    # by a hash of the id: a small pool is part of a larger one, in whatever order files are named
    eligible.sort(key=lambda row: (share_of(row.row_id, seed=1), row.row_id))
    rest, kept = _apart(eligible, min(held_out, len(eligible) // TENTH))
    counts.validation = len(eligible) - len(rest)
    pool = rest[: experiment.replay.pool_size] if experiment.replay.ratio > 0 else []
    counts.pool = len(pool)
    return _table(pool), _table(kept), counts


def _apart(rows: list[Instruction], most: int) -> tuple[list[Instruction], list[Instruction]]:
    """Rows except those of the chosen requests, and the first row of each of these."""
    first: dict[bytes, Instruction] = {}
    for row in rows:
        first.setdefault(text_key(row.inputs), row)
    # by the request: two rows of one request must not be on both sides
    chosen = dict(sorted(first.items(), key=lambda item: share_of(item[0].hex(), seed=2))[:most])
    return [row for row in rows if text_key(row.inputs) not in chosen], list(chosen.values())


def _eligible(file: InstructionFile, index: EvaluationIndex, fits: Fits, counts: ReplayCounts) -> list[Instruction]:
    counts.read += len(file.rows)
    filled = [row for row in file.rows if row.inputs.strip() and row.targets.strip()]
    counts.empty += len(file.rows) - len(filled) - file.dropped.total()
    counts.malformed += file.dropped["malformed"]
    counts.unsupported += file.dropped["unsupported"]
    exact, overlap = leaking(filled, index)
    counts.leaked += int((exact | overlap).sum())
    counts.overlapping += int((overlap & ~exact).sum())
    clear = [row for row, leaked in zip(filled, exact | overlap, strict=True) if not leaked]
    for row, leaked in zip(filled, exact | overlap, strict=True):
        if leaked and (origin := _origin(row, index)):
            counts.leaked_from[origin] = counts.leaked_from.get(origin, 0) + 1
    kept = []
    for row in clear:
        try:
            fit = fits(row.inputs, row.targets, row.turns) if row.turns else fits(row.inputs, row.targets)
        except ModelError:
            if not row.turns:  # a model that refuses a single request cannot be trained at all
                raise
            counts.unrenderable += 1
            continue
        counts.too_long += not fit
        kept += [row] if fit else []
    return kept


def replay_leaks(experiment: Experiment, index: EvaluationIndex) -> ReplayCounts:
    """Rows of the replay sources, and the number with evaluation sentences; lengths are not checked."""
    counts = ReplayCounts()
    for source in experiment.replay.sources:
        counts.eligible += len(
            _eligible(read_instructions(source, experiment.storage.data), index, lambda *texts: True, counts)
        )
    return counts


def leaking(rows: list[Instruction], index: EvaluationIndex) -> tuple[Mask, Mask]:
    """Masks of instructions that contain an evaluation sentence: as a line or quotation, and by overlap."""
    texts = [text for row in rows for text in (row.inputs, row.targets)]
    owners = np.repeat(np.arange(len(rows)), 2)
    parts = [(owner, line) for owner, text in zip(owners, texts, strict=True) for line in lines_of(text)]
    exact, overlap = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    if parts:
        # one call for the lines of all rows: the hashes are computed by column
        found = index.exact(pa.array([line for _, line in parts], pa.string()))
        np.logical_or.at(exact, np.array([owner for owner, _ in parts]), found)
        np.logical_or.at(overlap, owners, index.leaks(pa.array(texts, pa.string()))[1])
    return exact, overlap


def _origin(row: Instruction, index: EvaluationIndex) -> str | None:
    """Suite or protected set of the sentence that an instruction contains."""
    texts = [*lines_of(row.inputs), *lines_of(row.targets), row.inputs, row.targets]
    return next((origin for origin in index.origins_of(pa.array(texts, pa.string())) if origin), None)


def _table(rows: Sequence[Instruction]) -> pa.Table:
    columns = {name: [getattr(row, name) for row in rows] for name in REPLAY_SCHEMA.names}
    table = pa.table(columns, schema=REPLAY_SCHEMA)
    if not any(row.turns for row in rows):
        return table
    turns = [json.dumps(row.turns, ensure_ascii=False) if row.turns else None for row in rows]
    return table.append_column(TURNS, pa.array(turns, pa.string()))
