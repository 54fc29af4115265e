"""Directed pairs of a built corpus, from which the alignment tasks are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import CorpusConfig, Experiment
from ialign_ray.corpus.assemble import HELD_OUT, TRAIN
from ialign_ray.corpus.build import Built
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.shards import INCOMPLETE
from ialign_ray.errors import DataError

_SHARE_SEED = 4
"""Seed of `share`; the split of `holdout`, replay, suites and validation have different ones."""
PAIR_SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("row_id", "source_language", "target_language", "source", "target")]
)


@dataclass
class PairCounts:
    """Counts of the rows of one corpus."""

    read: int = 0
    """Rows in the files after `where` and `limit`."""
    incomplete: int = 0
    """Rows without a pivot or without another language."""
    cleaned: int = 0
    """Rows that cleaning left without a pair."""
    leaked: int = 0
    """Rows with a sentence, in any language, of an evaluation set."""
    held_out: int = 0
    """Rows kept from training by `holdout`."""
    kept: int = 0
    """Rows of the training split."""
    pairs: int = 0
    """Directed pairs made from them."""
    too_long: int = 0
    """Pairs whose target exceeds `train.max_target_tokens`."""
    validation: int = 0
    """Pairs kept from training by `train.validation`."""


@dataclass
class Parallel:
    """All directed training pairs and their sources."""

    pairs: pa.Table
    """One row per directed pair: row_id, source_language, target_language, source, target."""
    counts: dict[str, PairCounts] = field(default_factory=dict)
    """Corpus -> its counts."""


def load_parallel(experiment: Experiment, built: Built) -> Parallel:
    """Pair pivots with new languages over the training split of every corpus.

    Raises DataError when a corpus has no pair left.
    """
    counts = {c.name: _counts(built, c) for c in experiment.corpora}
    tables: list[pa.Table] = []
    for corpus in experiment.corpora:
        made = directed_pairs(built, corpus, experiment.tasks.directions) if counts[corpus.name].kept else None
        if made is None or not made.num_rows:
            lost = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in asdict(counts[corpus.name]).items() if n)
            raise DataError(
                f"corpus {corpus.name!r} ({corpus.origin}) has no pair left to train on (rows: {lost}); check its "
                "columns, its pivots, `cleaning` and its overlap with evaluate.suites"
            )
        counts[corpus.name].pairs = made.num_rows
        tables.append(made)
    return Parallel(pa.concat_tables(tables), counts)


def _counts(built: Built, corpus: CorpusConfig) -> PairCounts:
    counted = built.counts["corpora"][corpus.name]
    lost, splits = counted["dropped_rows"], counted["splits"]
    rows = {split: splits.get(split, {}).get("rows", 0) for split in (TRAIN, HELD_OUT)}
    incomplete, leaked = lost.get(INCOMPLETE, 0), sum(lost.get(step, 0) for step in ("leaks", "overlaps"))
    return PairCounts(
        read=counted["rows_in"],
        incomplete=incomplete,
        cleaned=sum(lost.values()) - incomplete - leaked,
        leaked=leaked,
        held_out=rows[HELD_OUT],
        kept=rows[TRAIN],
    )


def directed_pairs(built: Built, corpus: CorpusConfig, directions: str, split: str = TRAIN) -> pa.Table:
    """Directed pairs of a split of a corpus, one row per id; of the training split, only the corpus' `share`."""
    rows = built.read(corpus.name, split)
    if split == TRAIN and corpus.share < 1:
        kept = [share_of(i, seed=_SHARE_SEED) < corpus.share for i in rows["id"].to_pylist()]
        rows = rows.filter(pa.array(kept, pa.bool_()))
    found = [PAIR_SCHEMA.empty_table()]
    for pivot in corpus.pivots:
        for language in (code for code in corpus.languages if code not in corpus.pivots):
            both = rows.filter(pc.and_(rows[pivot].is_valid(), rows[language].is_valid()))
            found += [_directed(both, source, target) for source, target in ways(pivot, language, directions)]
    return _distinct(pa.concat_tables(found))


def ways(pivot: str, language: str, directions: str) -> Sequence[tuple[str, str]]:
    """(source, target) of a pivot and another language, by `tasks.directions`."""
    both = [(pivot, language), (language, pivot)]
    return {"both": both, "from-pivot": both[:1], "to-pivot": both[1:]}[directions]


def _directed(rows: pa.Table, source: str, target: str) -> pa.Table:
    n = rows.num_rows
    ids = pc.binary_join_element_wise(rows["id"], pa.scalar(f"{source}-{target}"), ":")
    languages = [pa.array([code] * n, pa.string()) for code in (source, target)]
    return pa.table([ids, *languages, rows[source], rows[target]], schema=PAIR_SCHEMA)


def _distinct(pairs: pa.Table) -> pa.Table:
    """Keep one row per id: files with one language per row may give a pair twice."""
    first = pairs.append_column("place", pa.array(range(pairs.num_rows), pa.int64()))
    places = first.group_by("row_id").aggregate([("place", "min")])["place_min"]
    return pairs if len(places) == pairs.num_rows else pairs.take(places.sort())


Fits = Callable[[list[str]], list[bool]]
"""For each text, True if it can be a target."""


def drop_long(parallel: Parallel, fits: Fits, own: Mapping[str, Fits] | None = None) -> Parallel:
    """Drop and count pairs with a side that is too long for a target (every side is a target in some task).

    `own` judges the pairs of some languages, by language.
    """
    pairs = parallel.pairs
    keep = _both(pairs, fits)
    for code, longer in (own or {}).items():
        spoken = pc.or_(*(pc.equal(pairs[f"{side}_language"], code) for side in ("source", "target")))
        judged = _both(pairs.filter(spoken), longer).combine_chunks()
        keep = pa.chunked_array([pc.replace_with_mask(keep.combine_chunks(), spoken.combine_chunks(), judged)])
    if not pc.any(keep).as_py():
        raise DataError("no parallel pair fits train.max_target_tokens; raise it")
    for name, counts in parallel.counts.items():
        own = pc.starts_with(pairs["row_id"], f"{name}:")
        counts.too_long += pc.sum(pc.and_(own, pc.invert(keep))).as_py() or 0
    return Parallel(pairs.filter(keep), parallel.counts)


NOTABLE = 0.2
"""Largest share of a language's texts that may be dropped without a warning."""


def language_losses(experiment: Experiment, counts: Mapping[str, Any], read: pa.Table, kept: pa.Table) -> list[str]:
    """Warnings about languages of which much was dropped.

    `counts` are those of the built corpus, `read` its pairs and `kept` those of them that fit. Raises DataError for a
    declared language that has no pair left.
    """
    warnings = []
    corpora = experiment.corpora
    for code in dict.fromkeys(code for c in corpora for code in c.languages if code not in c.pivots):
        own = [counts["corpora"][c.name] for c in corpora if code in c.languages]
        there = sum(c["cells_in"].get(code, 0) for c in own)
        steps = Counter({step: n for c in own for step, cells in c["dropped"].items() if (n := cells.get(code, 0))})
        before, after = (_pairs_with(code, pairs) for pairs in (read, kept))
        reasons = [f"{step} dropped {n:,}" for step, n in steps.items()]
        if before > after:
            reasons.append(f"{before - after:,} of {before:,} pairs are over train.max_target_tokens")
        why = "; ".join(reasons) or "no text of a pivot belongs to them"
        if not after:
            raise DataError(
                f"language {code} has no pair left of {there:,} texts: {why}; fix its texts or these limits, or remove "
                "it from the corpora"
            )
        left = (1 - steps.total() / max(there, 1)) * after / before
        if 1 - left > NOTABLE:
            warnings.append(f"{code} lost {1 - left:.0%} of its {there:,} texts: {why}")
    return warnings


def _pairs_with(code: str, pairs: pa.Table) -> int:
    sides = (pc.equal(pairs[f"{side}_language"], code) for side in ("source", "target"))
    return pc.sum(pc.or_(*sides)).as_py() or 0


def _both(pairs: pa.Table, fits: Fits) -> pa.ChunkedArray:
    return pc.and_(_each(pairs["source"], fits), _each(pairs["target"], fits))


def _each(column: pa.ChunkedArray, fits: Callable[[list[str]], list[bool]]) -> pa.ChunkedArray:
    """Apply `fits` to every text, once for each distinct one."""
    # a pivot's text is in a pair with each language, and tokenising is expensive
    coded = column.combine_chunks().dictionary_encode()
    known = [ok for part in _parts(coded.dictionary.to_pylist()) for ok in fits(part)]
    return pa.chunked_array([pa.array(known, pa.bool_()).take(coded.indices)])


def _parts(texts: list[str], size: int = 10_000) -> Iterator[list[str]]:
    return (texts[start : start + size] for start in range(0, len(texts), size))
