"""Parallel corpora as directed pairs, split by sentence and cleared of evaluation sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field

import pyarrow as pa

from ialign_ray.config import CorpusConfig, Experiment
from ialign_ray.corpus.identity import share_of, text_key
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError

PAIR_SCHEMA = pa.schema(
    [(n, pa.string()) for n in ("row_id", "source_language", "target_language", "source", "target")]
)


@dataclass
class Counts:
    """What became of the rows of one corpus."""

    read: int = 0
    """Rows in the file after `where` and `limit`."""
    incomplete: int = 0
    """Rows with fewer than two languages."""
    leaked: int = 0
    """Rows with a sentence, in any language, of an evaluation set."""
    held_out: int = 0
    """Rows kept from training by `holdout`."""
    kept: int = 0
    """Rows that are trained on."""
    pairs: int = 0
    """Directed pairs made of them."""
    too_long: int = 0
    """Pairs whose target exceeds `train.max_target_tokens`."""


@dataclass
class Parallel:
    """All directed training pairs and where they came from."""

    pairs: pa.Table
    """One row a directed pair: row_id, source_language, target_language, source, target."""
    counts: dict[str, Counts] = field(default_factory=dict)
    """Per corpus."""


def load_parallel(experiment: Experiment, evaluation_keys: Set[bytes]) -> Parallel:
    """Read every corpus, drop what stands in an evaluation set, and pair pivots with new languages.

    Raises DataError when a file is wrong or a corpus has no row left.
    """
    counts: dict[str, Counts] = {}
    rows: list[tuple[str, ...]] = []
    for corpus in experiment.corpora:
        counts[corpus.name] = Counts()
        for sentence, texts in corpus_sentences(corpus, experiment.storage.data, counts[corpus.name]):
            if any(text_key(t) in evaluation_keys for t in texts.values()):
                counts[corpus.name].leaked += 1
            elif share_of(sentence) < corpus.holdout:
                counts[corpus.name].held_out += 1
            else:
                made = list(directed(corpus, experiment.tasks.directions, sentence, texts))
                counts[corpus.name].kept += bool(made)
                counts[corpus.name].pairs += len(made)
                rows += made
        if not counts[corpus.name].pairs:
            raise DataError(
                f"corpus {corpus.name!r} ({corpus.origin}) has no pair left to train on: {counts[corpus.name]}; "
                "check its columns, its pivots and its overlap with evaluate.suites"
            )
    columns = list(zip(*rows, strict=True))
    return Parallel(pa.table(dict(zip(PAIR_SCHEMA.names, columns, strict=True)), schema=PAIR_SCHEMA), counts)


def corpus_sentences(corpus: CorpusConfig, base: str, counts: Counts) -> Iterator[tuple[str, dict[str, str]]]:
    """(sentence id, language -> text) of each row that has at least two languages."""
    columns = [*corpus.columns.values(), *([corpus.id] if corpus.id else [])]
    table = read_table(corpus, base, columns)
    counts.read += table.num_rows
    for row in table.select(list(dict.fromkeys(columns))).to_pylist():
        texts = {c: str(row[k]).strip() for c, k in corpus.columns.items() if row[k] is not None}
        texts = {c: t for c, t in texts.items() if t}
        if len(texts) < 2:
            counts.incomplete += 1
            continue
        # without an id column a sentence is known by its text, so that it is one sentence in every pair file
        identity = str(row[corpus.id]) if corpus.id else text_key(next(iter(texts.values()))).hex()
        yield f"{corpus.name}:{identity}", texts


def directed(
    corpus: CorpusConfig, directions: str, sentence: str, texts: dict[str, str]
) -> Iterator[tuple[str, str, str, str, str]]:
    """Each pivot with each other language, one way or both, as rows of PAIR_SCHEMA."""
    for pivot in corpus.pivots:
        for language in texts:
            if pivot not in texts or language in corpus.pivots:
                continue
            ways = {
                "both": [(pivot, language), (language, pivot)],
                "from-pivot": [(pivot, language)],
                "to-pivot": [(language, pivot)],
            }[directions]
            for a, b in ways:
                yield f"{sentence}:{a}-{b}", a, b, texts[a], texts[b]


def drop_long(parallel: Parallel, fits: Callable[[str], bool]) -> Parallel:
    """Drop, and count, pairs of which a side cannot be a target (every side is one in some task)."""
    known: dict[str, bool] = {}

    def ok(text: str) -> bool:
        if text not in known:
            known[text] = fits(text)
        return known[text]

    keep = [
        ok(s) and ok(t)
        for s, t in zip(parallel.pairs["source"].to_pylist(), parallel.pairs["target"].to_pylist(), strict=True)
    ]
    for row_id, kept in zip(parallel.pairs["row_id"].to_pylist(), keep, strict=True):
        parallel.counts[row_id.partition(":")[0]].too_long += not kept
    if not any(keep):
        raise DataError("no parallel pair fits train.max_target_tokens; raise it")
    return Parallel(parallel.pairs.filter(pa.array(keep)), parallel.counts)
