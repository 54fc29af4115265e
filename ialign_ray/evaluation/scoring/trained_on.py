"""Rows of suites that a run was trained on: possible for suites added after the run's data was built.

Decontamination only covers the suites known when the corpus was built. So before scores are reported, every scored row
is searched for in the run's training pools (`data/plan`), by the same rule as in decontamination: a row counts if one
of its texts, in any language of its file, equals a training text or shares the threshold of its n-grams with one. Such
rows are scored like the others, and excluded from every score of every model, so that all models are still compared on
equal rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.config import DecontaminationConfig, Experiment, InstructionSuite, LmEvalSuite
from ialign_ray.corpus.identity import lines_of
from ialign_ray.corpus.leaks import sentences_found
from ialign_ray.corpus.suite_texts import ANSWERS, aside, file_texts
from ialign_ray.errors import DataError
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.storage import read_json
from ialign_ray.tasks.instructions import instructions

_NAMES = ("suite", "language", "id")


@dataclass(frozen=True)
class TrainedOn:
    """Scored rows that some run was trained on."""

    suites: Mapping[str, frozenset[str]]
    """Suite -> ids; suites without such rows are omitted."""
    warnings: Sequence[str] = ()
    """One sentence per suite, and one per run whose data is missing."""

    def clear(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Return suite -> predictions without those rows."""
        return {suite: self.without(suite, frame) for suite, frame in frames.items()}

    def without(self, suite: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Return rows of a suite without those rows."""
        ids = self.suites.get(suite)
        return frame[~frame["id"].isin(ids)].reset_index(drop=True) if ids else frame


def trained_on(experiment: Experiment, runs: Mapping[str, Path], units: Sequence[Unit] | None = None) -> TrainedOn:
    """Rows of the experiment's suites that runs (name -> folder) were trained on.

    Raises DataError if nothing is left of a suite.
    """
    data = {name: _data(run) for name, run in runs.items()}
    warnings = [
        f"{name} keeps no training data (data/plan in {runs[name]}), so it cannot be known whether it was trained on "
        "rows of evaluate.suites that were added later"
        for name, plan in data.items()
        if plan is None
    ]
    pools = {plan: _pools(plan) for plan in data.values() if plan}
    found: dict[str, frozenset[str]] = {}
    if not pools:
        return TrainedOn(found, warnings)
    units = suite_units(experiment) if units is None else units
    for suite in experiment.evaluate.suites:
        rows = pd.concat([u.rows for u in units if u.suite == suite.name], ignore_index=True)
        texts = _task_rows(rows) if isinstance(suite, LmEvalSuite) else _file_rows(suite, experiment.storage.data)
        by = {plan: _ids(rows, *texts, pool, suite, experiment.decontamination) for plan, pool in pools.items()}
        ids = frozenset[str]().union(*by.values())
        if not ids:
            continue
        every, names = rows["id"].nunique(), [name for name, plan in data.items() if plan and by[plan]]
        sentence = f"{suite.name}: {len(ids)} of {every} rows were trained on by {', '.join(names)}"
        if len(ids) == every:
            raise DataError(
                f"{sentence}, so nothing is left to measure; remove evaluate.suites.{suite.name}, or use others"
            )
        found[suite.name] = ids
        warnings.append(f"{sentence}; they are excluded from every score")
    return TrainedOn(found, warnings)


def _data(run: Path) -> Path | None:
    """The plan of a run; of a search's trial or control, that of the search."""
    around = [run, *run.parents[:2]] if (run / "reports.json").exists() else [run]
    plans = (folder / "data" / "plan" for folder in around)
    return next((plan for plan in plans if (plan / "plan.json").exists()), None)


@dataclass(frozen=True)
class _Pools:
    """Texts that a run was trained on."""

    texts: pa.Array
    parts: pa.Array
    """Lines and quotations of instructions, each of which may be a sentence."""


def _pools(plan: Path) -> _Pools:
    replay = pq.read_table(plan / "replay.parquet", columns=["inputs", "targets"])
    asked = {text for column in replay.columns for text in column.to_pylist() if text}
    aligned: set[str] = set()
    if read_json(plan / "plan.json")["ratio"] < 1:  # a control uses no pairs
        pairs = pq.read_table(plan / "pairs.parquet", columns=["source", "target"])
        aligned = {text for column in pairs.columns for text in column.unique().to_pylist() if text}
    lines = {line for text in asked for line in lines_of(text)}
    return _Pools(pa.array(sorted(asked | aligned), pa.string()), pa.array(sorted(lines), pa.string()))


def _file_rows(suite: Any, base: str) -> tuple[dict[str, pa.Array], list[str]]:
    """All texts of a suite's file by column, and the columns that are scored."""
    if isinstance(suite, InstructionSuite):
        requests = {"": pa.array([row.inputs for row in instructions(suite, base)], pa.string())}
        return requests | file_texts(suite, base, (), (*ANSWERS, *suite.columns.values())), [""]
    found = file_texts(suite, base, suite.text_columns, aside(suite))
    return found, [name for name in found if {name, name.rpartition(".")[0]} & set(suite.text_columns)]  # or of a list


def _task_rows(rows: pd.DataFrame) -> tuple[dict[str, pa.Array], list[str]]:
    """Texts of the harness's tasks, which are in the rows."""
    names = [str(name) for name in rows.columns if str(name).startswith("text:")]
    return {name: pa.array(rows[name], pa.string(), from_pandas=True) for name in names}, names


def _ids(
    rows: pd.DataFrame,
    columns: Mapping[str, pa.Array],
    scored: Iterable[str],
    pools: _Pools,
    suite: Any,
    settings: DecontaminationConfig,
) -> frozenset[str]:
    """Ids of scored rows whose row in the file contains a text that was trained on."""
    texts = {name: np.array(column.to_pylist(), object) for name, column in columns.items()}
    every = sorted({text for column in texts.values() for text in column if text})
    # requests share their wording with replayed ones, so only equality counts, as in training
    threshold = None if isinstance(suite, InstructionSuite) else settings.threshold
    held = sentences_found(every, pools.texts, pools.parts, n=settings.ngram, threshold=threshold)
    if not held:
        return frozenset()
    taken = np.any([[text in held for text in column] for column in texts.values()], axis=0)
    known = {text for name in scored for text in texts[name][taken] if text}
    own = [c for c in rows.columns if c not in _NAMES and rows[c].map(lambda value: isinstance(value, str)).any()]
    seen = rows[own].isin(known).any(axis=1) if own else pd.Series(False, rows.index)
    # rows with the same id are the same sentence in other languages
    return frozenset(rows["id"][seen])
