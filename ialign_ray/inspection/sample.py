"""`ialign data sample`: random rows, dropped texts or rendered prompts, the same for the same seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import CorpusConfig, Experiment
from ialign_ray.corpus.assemble import TRAIN
from ialign_ray.corpus.build import Built
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.errors import ConfigError
from ialign_ray.inspection.prompts import pairs_of, plan_of
from ialign_ray.inspection.report import step_table
from ialign_ray.inspection.rows import SPLITS, Lowest, batches, parts

OTHERS = 200
"""Rows drawn at least when prompts are rendered: xss needs sentences that do not belong together."""

Record = dict[str, Any]
"""One thing that was drawn, as plain data."""


@dataclass(frozen=True)
class Wanted:
    """Choice of what to sample."""

    n: int = 5
    corpus: str | None = None
    """All corpora when left out."""
    language: str | None = None
    """Rows that hold it, which show it and the pivots alone; dropped texts in it."""
    split: str = TRAIN
    step: str | None = None
    """Texts that it dropped, instead of rows."""
    seed: int = 0

    def corpora(self, experiment: Experiment) -> list[CorpusConfig]:
        """The chosen ones."""
        return [c for c in experiment.corpora if self.corpus in (None, c.name)]

    def check(self, experiment: Experiment, built: Built) -> None:
        """Raise ConfigError, with the possible values, for an unknown one."""
        _known("corpus", self.corpus, [c.name for c in experiment.corpora])
        chosen = self.corpora(experiment)
        _known("language", self.language, [code for c in chosen for code in c.languages])
        _known("split", self.split, SPLITS)
        dropping = [step for c in chosen for step in step_table(experiment, c, built).steps]
        _known("step", self.step, [*(s.step for s in experiment.cleaning.steps), "leaks", "overlaps", *dropping])


def sampled_rows(experiment: Experiment, built: Built, wanted: Wanted) -> list[Record]:
    """Draw at most n rows of the chosen corpora together: corpus, id, file, line and `texts` by language."""
    found, random = Lowest(wanted.n), np.random.default_rng(wanted.seed)
    for corpus in wanted.corpora(experiment):
        for rows in batches(parts(built, corpus.name, [wanted.split])):
            keys = random.random(rows.num_rows)
            if wanted.language:
                keys = np.where(_holds(rows, wanted.language), keys, np.nan)
            found.offer(keys, _of(corpus, rows))
    return [_row(experiment, built, row, wanted.language) for row in found.rows()]


def sampled_drops(experiment: Experiment, built: Built, wanted: Wanted) -> list[Record]:
    """Draw at most n texts that the step dropped: corpus, id, file, line, step, language, text and its pivot."""
    found, random = Lowest(wanted.n), np.random.default_rng(wanted.seed)
    for corpus in wanted.corpora(experiment):
        for rows in batches(built.drops(corpus.name)):
            fits = pc.equal(rows["step"], wanted.step)
            if wanted.language:
                fits = pc.and_(fits, pc.equal(rows["language"], wanted.language))
            keys = np.where(np.asarray(fits), random.random(rows.num_rows), np.nan)
            found.offer(keys, _of(corpus, rows))
    columns = ("step", "language", "text", "pivot")
    return [_place(experiment, built, row) | {c: row[c] for c in columns} for row in found.rows()]


def rendered_rows(experiment: Experiment, built: Built, wanted: Wanted) -> list[Record]:
    """Render the rows of `sampled_rows` with every task of the mix, in every trained direction: prompt and target."""
    rows = sampled_rows(experiment, built, replace(wanted, n=max(wanted.n, OTHERS)))
    corpora = {c.name: c for c in experiment.corpora}
    made = [(row, _pairs(corpora[row["corpus"]], row, experiment.tasks.directions)) for row in rows]
    plan = plan_of(experiment, [pair for _, some in made for pair in some])
    pairs = [(row, pair) for row, some in made[: wanted.n] for pair in some]
    drawn = ((row, task, pair, plan.align(pair, 0, task).example) for row, pair in pairs for task in plan.mix)
    return [
        {key: row[key] for key in ("corpus", "id", "file", "line")}
        | {"task": task, "source_language": pair.source_language, "target_language": pair.target_language}
        | {"template": example.template, "rendered_as": example.task}
        | {"prompt": example.prompt, "target": example.target}
        for row, task, pair, example in drawn
    ]


def _known(what: str, value: str | None, choices: Iterable[str]) -> None:
    known = list(dict.fromkeys(choices))
    if value is not None and value not in known:
        raise ConfigError(f"{what} {value!r} is not known here; use one of {', '.join(known)}")


def _holds(rows: pa.Table, language: str) -> Any:
    return np.asarray(rows[language].is_valid()) if language in rows.column_names else np.zeros(rows.num_rows, bool)


def _of(corpus: CorpusConfig, rows: pa.Table) -> pa.Table:
    return rows.append_column(":corpus", pa.array([corpus.name] * rows.num_rows, pa.string()))


def _row(experiment: Experiment, built: Built, row: Record, language: str | None) -> Record:
    corpus = next(c for c in experiment.corpora if c.name == row[":corpus"])
    shown = [code for code in corpus.languages if language is None or code in (language, *corpus.pivots)]
    texts = {code: row[code] for code in shown if row[code] is not None}
    return _place(experiment, built, row) | {"texts": texts}


def _place(experiment: Experiment, built: Built, row: Record) -> Record:
    name = row[":corpus"]
    corpus = next(c for c in experiment.corpora if c.name == name)
    file = step_table(experiment, corpus, built).file(row["file"])
    return {"corpus": name, "id": row["id"], "file": file, "line": row["line"]}


def _pairs(corpus: CorpusConfig, row: Record, directions: str) -> list[Any]:
    texts = dict.fromkeys(corpus.languages) | row["texts"]
    return pairs_of(row["id"], texts, Scope(corpus.languages, corpus.pivots).pairs(), directions)
