"""Identities of rows: splits that no sentence crosses, and unique ids.

Two rows belong together if they share an id of one corpus, or a text of four words or more in any language of any
corpus. Such a group is assigned to one side of the split as a whole, so a held-out sentence is not trained on through
another pair, direction, file or pivot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ialign_ray.config import CorpusConfig
from ialign_ray.config.base import Section
from ialign_ray.corpus.cleaning.step import Mask, Measures, Scope
from ialign_ray.corpus.cleaning.words import normalised_words, text_hashes
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.leaks import NO_WORDS
from ialign_ray.errors import DataError

LINKING_WORDS = 4
"""Fewest words of a text that identifies a sentence; shorter ones ("Yes.", "Article 5") are too common."""
_TEXT, _LINK = "text:", "link:"


class IdentitySettings(Section):
    """Settings of the measurement that identities are resolved from."""

    step: str = "identity"
    """Name, for keys and counts."""
    shares: bool = False
    """True if a split is drawn, which needs each id's place in it."""


class IdentityMeasurement:
    """Measures what rows have in common, for `resolve` to decide from."""

    version = 2

    def __init__(self, settings: IdentitySettings) -> None:
        self._shares = settings.shares

    def measure(self, table: pa.Table, scope: Scope) -> pa.Table:
        """Hash of the id and of each text; the id's place in the split."""
        ids = table["id"].to_pylist()
        columns = {"id": pa.array([xxhash.xxh3_64_intdigest(i.encode()) for i in ids], pa.uint64())}
        for code in scope.languages:
            hashes = text_hashes(table[code])[0]
            columns[_TEXT + code] = pa.array(hashes)
            if self._shares:
                # only the split needs word counts, which cost a second pass over the text
                long = np.diff(normalised_words(table[code])[1]) >= LINKING_WORDS
                columns[_LINK + code] = pa.array(np.where(long, hashes, NO_WORDS))
        if self._shares:
            columns["share"] = pa.array([share_of(i) for i in ids], pa.float64())
        return pa.table(columns)


@dataclass(frozen=True)
class CorpusRows:
    """The rows of one corpus: numbers start .. stop of the measures."""

    corpus: CorpusConfig
    start: int
    stop: int


@dataclass(frozen=True)
class Identities:
    """Identity and split of every row."""

    held_out: Mask
    """Held out from training."""
    conflicting: Mask
    """Dropped: the id already names another text (`bad_rows: drop`)."""
    ordinal: npt.NDArray[np.int64]
    """0 for the first row of its id, 1 for the second, ...: where texts are the ids, a sentence may have several
    translations."""


def resolve(measures: Measures, parts: Sequence[CorpusRows]) -> Identities:
    """Check ids and draw the split.

    Raises DataError if a corpus with an id column has two different texts under one id.
    """
    if not measures.rows:
        return Identities(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, np.int64))
    # an id begins with its corpus' name, so one hash covers both
    ids = measures.column("id").astype(np.uint64, copy=False)
    conflicting = np.zeros(measures.rows, bool)
    for part in parts:
        if part.corpus.id or (part.corpus.long and part.corpus.long.join):
            conflicting[part.start : part.stop] = _conflicts(measures, part, ids[part.start : part.stop])
    held_out = np.zeros(measures.rows, bool)
    if any(p.corpus.holdout for p in parts):
        held_out = _held_out(measures, parts, ids)
    return Identities(held_out, conflicting, _ordinals(ids))


def _conflicts(measures: Measures, part: CorpusRows, ids: npt.NDArray[np.uint64]) -> Mask:
    """Rows whose id occurred earlier with another text of the same language."""
    found = np.zeros(len(ids), bool)
    _, group = np.unique(ids, return_inverse=True)
    for code in part.corpus.languages:
        texts = measures.column(_TEXT + code)[part.start : part.stop]
        # a row that lacks the language does not contradict another
        there = np.flatnonzero(texts != NO_WORDS)
        order = there[np.lexsort((there, group[there]))]
        starts = np.ones(len(order), bool)
        starts[1:] = group[order][1:] != group[order][:-1]
        # the place of each group's first row, carried forward to the rows after it
        first = order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]
        found[order] |= texts[order] != texts[first]
    if found.any() and part.corpus.bad_rows == "refuse":
        row = int(np.flatnonzero(found)[0])
        before = int(np.flatnonzero(group == group[row])[0])
        raise DataError(_conflict_sentence(measures, part, before, row))
    return found


def _conflict_sentence(measures: Measures, part: CorpusRows, before: int, row: int) -> str:
    rows = measures.texts(np.array([part.start + before, part.start + row], np.int64)).to_pylist()
    name = rows[0]["id"].partition(":")[2]
    places = " and ".join(f"file {r['file']} line {r['line']}" for r in rows)
    return (
        f"corpus {part.corpus.name!r} ({part.corpus.origin}): id {name!r} has different texts in {places}; give each "
        "sentence a unique id, omit `id`, or set bad_rows: drop to keep the first"
    )


def _ordinals(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    # stable: rows of one id keep their order, so the first in the files is number 0
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.ones(len(ids), bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    places = np.arange(len(ids))
    ordinal = np.empty(len(ids), np.int64)
    ordinal[order] = places - np.maximum.accumulate(np.where(starts, places, 0))
    return ordinal


def _held_out(measures: Measures, parts: Sequence[CorpusRows], ids: npt.NDArray[np.uint64]) -> Mask:
    """Mask of held-out rows: a group is held out if the place of its first id is below its largest `holdout`."""
    labels = _components(measures, ids)
    share = measures.column("share")
    holdout = np.zeros(measures.rows)
    for part in parts:
        holdout[part.start : part.stop] = part.corpus.holdout
    # a group over several corpora is held out at the largest of their shares
    most = np.zeros(int(labels.max(initial=-1)) + 1)
    np.maximum.at(most, labels, holdout)
    # the representative is chosen by the hash of its id, which is independent of its share
    order = np.lexsort((ids, labels))
    starts = np.ones(len(order), bool)
    starts[1:] = labels[order][1:] != labels[order][:-1]
    place = np.empty(len(most))
    place[labels[order][starts]] = share[order][starts]
    held: Mask = place[labels] < most[labels]
    return held


def _components(measures: Measures, ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Number of each row's group."""
    heads, tails = [], []
    # texts of all corpora are compared within each language
    for name in ["id", *(c for c in measures.columns if c.startswith(_LINK))]:
        keys = ids if name == "id" else measures.column(name)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        same = (ordered[1:] == ordered[:-1]) & (ordered[1:] != NO_WORDS)
        # each row linked to the next of its key: n - 1 edges join n rows, all pairs would be n^2 / 2
        heads.append(order[:-1][same])
        tails.append(order[1:][same])
    head, tail = np.concatenate(heads), np.concatenate(tails)
    graph = coo_array((np.ones(len(head), bool), (head, tail)), shape=(measures.rows, measures.rows))
    _, labels = connected_components(graph, directed=False)
    numbers: npt.NDArray[np.int64] = labels.astype(np.int64)
    return numbers
