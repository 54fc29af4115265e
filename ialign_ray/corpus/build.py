"""Build the corpora of an experiment into one cleaned, split, versioned folder of parquet: `ialign data build`.

The steps of `cleaning` are split into stages at each corpus step (one that must see all rows before it decides). Within
a stage each shard is processed independently, in any process that the runner chooses; between stages the driver decides
from the shards' measures. At the end evaluation sentences are searched for, identities are checked and the split is
drawn.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ialign_ray.config import CorpusConfig, Experiment, dump_yaml
from ialign_ray.config.base import Section
from ialign_ray.corpus.assemble import IDENTITY, TRAIN, Assembly, assemble
from ialign_ray.corpus.card import dataset_card
from ialign_ray.corpus.chunks import Chunk, ReadNotes
from ialign_ray.corpus.cleaning import make_step
from ialign_ray.corpus.cleaning.script import Script
from ialign_ray.corpus.cleaning.step import StepDecision
from ialign_ray.corpus.leaks import EvaluationIndex, LeakSettings, LeakStep
from ialign_ray.corpus.readers import file_sets
from ialign_ray.corpus.rows import corpus_chunks
from ialign_ray.corpus.shards import (
    ShardCounts,
    ShardFile,
    ShardJob,
    ShardStore,
    name_of,
    open_step,
    run_job,
    versioned,
)
from ialign_ray.corpus.splits import CorpusRows, IdentityMeasurement, IdentitySettings, resolve
from ialign_ray.corpus.spoken import check_languages
from ialign_ray.corpus.statistics import StoredMeasures
from ialign_ray.storage import MANIFEST, is_intact, json_hash, read_json, whole_folder, write_json, write_text

VERSION = 2
"""Version of identities, splits and writing: raised whenever the same pieces give a different finished corpus."""
COUNTS = "counts.json"
FEW = 2
"""Most files of a set that are named one by one."""
SHARDS, LEAKS = ".shards", ".leaks"
"""Folders that all builds share; no experiment's name begins with a dot."""
CORPUS_STEPS = frozenset({"ratio", "language", "duplicates", "near_duplicates"})
"""Names of the steps that decide about all rows at once."""

Runner = Callable[[Sequence[Any], Callable[[Any], dict[str, Any]]], Iterator[dict[str, Any]]]
"""Applies a picklable function to each item, in any process, and yields the results in the order of the items."""
Watch = Callable[[str, int, int], None]
"""Callback with the stage's name, the number of its finished jobs, and the number of all its jobs."""


def here(items: Sequence[Any], work: Callable[[Any], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Run the jobs in this process."""
    return map(work, items)


@dataclass(frozen=True)
class Built:
    """A finished corpus."""

    folder: Path

    @cached_property
    def counts(self) -> dict[str, Any]:
        """Counts of texts read, dropped and kept, and learned thresholds; `ialign data inspect` shows them."""
        counts: dict[str, Any] = read_json(self.folder / COUNTS)
        return counts

    def read(self, corpus: str, split: str = TRAIN) -> pa.Table:
        """All rows of a split of a corpus, in the schema of `ialign_ray.corpus.schema`."""
        files = sorted((self.folder / "data" / f"corpus={corpus}" / f"split={split}").glob("*.parquet"))
        return pa.concat_tables([pq.ParquetFile(p).read() for p in files])

    def drops(self, corpus: str) -> list[Path]:
        """Parquet files of the texts of a corpus that the steps dropped."""
        return sorted((self.folder / "drops" / f"corpus={corpus}").glob("*.parquet"))


def corpora_folder(experiment: Experiment) -> Path:
    """Folder of built corpora and their shards."""
    storage = experiment.storage
    return Path(storage.corpora).absolute() if storage.corpora else Path(storage.runs).absolute() / "corpora"


def latest(experiment: Experiment) -> Built | None:
    """The latest corpus built under the experiment's name, if there is one."""
    root = corpora_folder(experiment) / experiment.name
    if not (root / "latest").exists():
        return None
    folder = root / (root / "latest").read_text(encoding="utf-8").strip()
    return Built(folder) if (folder / MANIFEST).exists() else None


def build_corpus(
    experiment: Experiment,
    index: EvaluationIndex,
    runner: Runner = here,
    watch: Watch = lambda name, done, total: None,
) -> Built:
    """Read, clean, decontaminate and split every corpus; finished parts are reused.

    Raises DataError with one sentence; finished shards stay, and the next build resumes from them.
    """
    root = corpora_folder(experiment)
    chunks = [(c, chunk) for c in experiment.corpora for chunk in corpus_chunks(c, experiment.storage.data)]
    version = _version(experiment, chunks, index)
    folder = root / experiment.name / version
    if not is_intact(folder):
        build = _Build(experiment, ShardStore(root / SHARDS), runner, watch)
        saved = {"index": index.save(root / LEAKS), "folder": str(root / LEAKS)}
        build.clean(chunks, [LeakSettings(step="leaks", **saved), LeakSettings(step="overlaps", **saved)])
        build.check_languages(chunks)
        build.write(folder, version, index)
    write_text(root / experiment.name / "latest", version + "\n")
    return Built(folder)


def cut(steps: Sequence[Section]) -> list[tuple[list[Section], Section | None]]:
    """Row steps, and the corpus step that follows them; the last ones have no such step."""
    stages: list[tuple[list[Section], Section | None]] = []
    rows: list[Section] = []
    for step in steps:
        if name_of(step) in CORPUS_STEPS:
            stages.append((rows, step))
            rows = []
        else:
            rows.append(step)
    return [*stages, (rows, None)]


def _version(experiment: Experiment, chunks: Sequence[tuple[CorpusConfig, Chunk]], index: EvaluationIndex) -> str:
    steps = [versioned(s) for s in experiment.cleaning.steps]
    others = [LeakStep.version, IdentityMeasurement.version, VERSION]
    holdout = [c.holdout for c in experiment.corpora]
    settings = experiment.cleaning.model_dump(mode="json", exclude={"steps"})
    return json_hash([[ShardJob(*c).key for c in chunks], steps, settings, others, holdout, index.digest])[:12]


def _leaked_from(drops: Path, index: EvaluationIndex) -> dict[str, dict[str, int]]:
    """Corpus -> suite or protected set -> rows dropped for a sentence of it, from the texts that steps dropped."""
    found: dict[str, dict[str, int]] = {}
    for folder in sorted(drops.glob("corpus=*")):
        rows: dict[tuple[Any, ...], str | None] = {}
        for path in sorted(folder.glob("*.parquet")):
            table = pq.ParquetFile(path).read()
            table = table.filter(pc.is_in(table["step"], pa.array(["leaks", "overlaps"])))
            # a row goes in all its languages, for one that is in a suite
            table = table.filter(pa.array(np.logical_or(*index.leaks(table["text"]))))
            for row, origin in zip(table.to_pylist(), index.origins_of(table["text"]), strict=True):
                rows.setdefault((row["id"], row["file"], row["line"]), origin)
        found[folder.name.removeprefix("corpus=")] = dict(
            Counter(origin for origin in rows.values() if origin).most_common()
        )
    return found


def _unchecked(experiment: Experiment) -> list[str]:
    """A warning of languages that the step `script` cannot judge; whoever uses a private code (qaa-qtz) knows it."""
    languages = sorted({code for corpus in experiment.corpora for code in corpus.languages})
    steps = [make_step(s) for s in experiment.cleaning.steps]
    found = sorted({code for step in steps if isinstance(step, Script) for code in step.unchecked(languages)})
    if not (unknown := [code for code in found if not "qaa" <= code <= "qtz"]):
        return []
    return [
        f"cleaning step `script` checks no text of {', '.join(unknown)}, since the usual script is not known; add "
        f"`scripts: {{{unknown[0]}: [Latn]}}` to the step, or the script to the code"
    ]


def named(files: Sequence[str]) -> str:
    """Name of the files that rows come from: one or two by name, more as `FOLDER (33 files)`."""
    if len(files) <= FEW:
        return ", ".join(files)
    # up to a slash, so that no name is cut; commonpath would break an address
    folder = os.path.commonprefix(files).rpartition("/")[0].removesuffix("!")  # noqa: RUF071
    return f"{folder} ({len(files)} files)"


@dataclass
class _Build:
    """The state of one build."""

    experiment: Experiment
    store: ShardStore
    runner: Runner
    watch: Watch
    jobs: list[ShardJob] = field(default_factory=list)
    pieces: list[tuple[CorpusConfig, ShardFile]] = field(default_factory=list)
    """Files of the last stage, in order."""
    counts: dict[str, ShardCounts] = field(default_factory=dict)
    """Corpus -> its counts."""
    learned: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    shards: list[tuple[str, str]] = field(default_factory=list)
    """Corpus and key of every shard made."""
    files: dict[str, list[str]] = field(default_factory=dict)
    """Corpus -> its files, in the order of their numbers."""

    def clean(self, chunks: Sequence[tuple[CorpusConfig, Chunk]], leaks: Sequence[Section]) -> None:
        """Send every chunk through all steps."""
        self.counts = {c.name: ShardCounts() for c in self.experiment.corpora}
        for corpus, chunk in chunks:
            self.files.setdefault(corpus.name, [])
            # a file cut into several chunks is listed once, and a chunk may be of several files
            new = chunk.file > len(self.files[corpus.name])
            self.files[corpus.name] += [named(part.files) for part in file_sets(chunk)] * new
        self.jobs = [ShardJob(corpus, chunk) for corpus, chunk in chunks]
        self.warnings += _unchecked(self.experiment)
        identity = IdentitySettings(shares=any(c.holdout > 0 for c in self.experiment.corpora))
        for steps, corpus_step in cut(self.experiment.cleaning.steps):
            # last, after cleaning: texts that are dropped anyway need no comparison
            final = [] if corpus_step else leaks
            self._run((*steps, *final), corpus_step or identity)
            if corpus_step:
                self._decide(corpus_step)

    def check_languages(self, chunks: Sequence[tuple[CorpusConfig, Chunk]]) -> None:
        """Refuse a declared language without a text, which would make an empty corpus look built."""
        for corpus in self.experiment.corpora:
            own = [chunk for of, chunk in chunks if of is corpus]
            memories = {file for chunk in own if chunk.source.format == "tmx" for file in chunk.files}
            self.warnings += check_languages(corpus, self.counts[corpus.name].cells_in, sorted(memories))

    def _run(self, steps: tuple[Section, ...], measure: Section) -> None:
        first = not self.shards
        jobs = [replace(job, steps=steps, measure=measure) for job in self.jobs]
        applied = [job.decided for job in self.jobs[:1] if job.decided]
        name = ", ".join(["read"] * first + applied + [name_of(s) for s in steps])
        self.pieces = []
        for counts in self.counts.values():
            # the remaining rows are those of the last stage, not a sum over stages
            counts.rows_out = 0
            counts.cells_out.clear()
        self.watch(name, 0, len(jobs))
        for number, result in enumerate(self.runner(jobs, partial(run_job, store=self.store)), start=1):
            job = jobs[number - 1]
            if not first:
                # a later stage reads what the first one wrote: input is counted once
                result |= {"rows_in": 0, "cells_in": {}}
            self.counts[job.corpus.name].add(result)
            self.shards.append((job.corpus.name, job.key))
            self.pieces += [(job.corpus, ShardFile(job.key, k, rows)) for k, rows in enumerate(result["pieces"])]
            self.watch(name, number, len(jobs))

    def _decide(self, step: Section) -> None:
        """Let a corpus step decide, and make the jobs that apply it."""
        # pieces are named by their content, so an unchanged decision is found again
        key = json_hash([versioned(step), [asdict(p) for _, p in self.pieces]])[:32]
        if not self.store.has(key):
            measures = self.measures()
            decision = open_step(step).decide(measures) if measures.rows else StepDecision({})
            with whole_folder(
                self.store.path(key), {"learned": decision.learned, "warnings": decision.warnings}
            ) as folder:
                for name, mask in decision.dropped.items():
                    np.save(folder / self.store.mask(key, name).name, np.asarray(mask, bool))
        meta = self.store.meta(key)
        self.learned |= {name_of(step): meta["learned"]} if meta["learned"] else {}
        self.warnings += meta["warnings"]
        self.jobs, offset = [], 0
        for corpus, piece in self.pieces:
            self.jobs.append(ShardJob(corpus, piece, decided=name_of(step), decision=key, offset=offset))
            offset += piece.rows

    def measures(self) -> StoredMeasures:
        """Measures of all remaining rows."""
        languages = list(dict.fromkeys(code for c in self.experiment.corpora for code in c.languages))
        return StoredMeasures(self.store, [p for _, p in self.pieces], languages)

    def write(self, folder: Path, version: str, index: EvaluationIndex) -> None:
        """Check identities, draw the split, and write the finished folder."""
        measures = self.measures()
        offsets = [int(o) for o in measures.offsets]
        identities = resolve(measures, self._parts(offsets))
        with whole_folder(folder, {"version": version}) as scratch:
            for name, values in vars(identities).items():
                np.save(scratch / f"{name}.npy", values)
            work = [
                Assembly(corpus, self.store.file(piece), offset, number, scratch)
                for number, ((corpus, piece), offset) in enumerate(zip(self.pieces, offsets, strict=False))
            ]
            self.watch("write", 0, len(work))
            for number, result in enumerate(self.runner(work, assemble), start=1):
                self._count_written(work[number - 1].corpus, result)
                self.watch("write", number, len(work))
            for name in vars(identities):
                # they carried the decisions to the tasks and are not part of the corpus
                (scratch / f"{name}.npy").unlink()
            self._keep_drops(scratch)
            report = self._report(version) | {"leaked_from": _leaked_from(scratch / "drops", index)}
            write_json(scratch / COUNTS, report)
            write_text(scratch / "experiment.yaml", dump_yaml(self.experiment))
            write_text(scratch / "README.md", dataset_card(self.experiment, report))

    def _parts(self, offsets: Sequence[int]) -> list[CorpusRows]:
        parts: list[CorpusRows] = []
        for (corpus, piece), start in zip(self.pieces, offsets, strict=False):
            # pieces come corpus by corpus, so a corpus' rows are one range
            if parts and parts[-1].corpus is corpus:
                parts[-1] = replace(parts[-1], stop=start + piece.rows)
            else:
                parts.append(CorpusRows(corpus, start, start + piece.rows))
        return parts

    def _count_written(self, corpus: CorpusConfig, result: dict[str, Any]) -> None:
        counts = self.counts[corpus.name]
        for split, (rows, cells) in result["splits"].items():
            total = counts.splits.setdefault(split, {"rows": 0, "texts": {}})
            total["rows"] += rows
            total["texts"] = {c: total["texts"].get(c, 0) + n for c, n in cells.items()}
        if result["conflicting"]:
            counts.dropped_rows[IDENTITY] += result["conflicting"]
            counts.dropped.setdefault(IDENTITY, Counter()).update(result["dropped"])

    def _keep_drops(self, folder: Path) -> None:
        """Gather the dropped texts of all shards, one folder per corpus."""
        for number, (corpus, key) in enumerate(self.shards):
            dropped = self.store.drops(key)
            # a shard without drops would add an empty file
            if pq.read_metadata(dropped).num_rows:
                target = folder / "drops" / f"corpus={corpus}" / f"part-{number:05d}.parquet"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(dropped, target)

    def _report(self, version: str) -> dict[str, Any]:
        corpora = {name: {"files": self.files[name], **c.plain()} for name, c in self.counts.items()}
        notes = ReadNotes()
        for counts in corpora.values():
            del counts["pieces"]
            for path, message, count, line in counts.pop("odd"):
                notes.add(path, message, count, line)
        warnings = notes.warnings() + self.warnings
        return {"version": version, "corpora": corpora, "learned": self.learned, "warnings": warnings}
