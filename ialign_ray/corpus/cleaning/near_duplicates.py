"""Step `near_duplicates`: drop rows that nearly repeat an earlier one.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, 3.4) finds candidates,
which are verified on the texts. The set of a row contains the word bigrams of all its languages, distinct per language.

Plain MinHash in numpy, of hashed words: 490,000 rows/s for 60 slots of 22 tokens. rensa 0.5.0 (Rust) was tried and
takes 2.3 times as long to make its digests and 4.8 times with their conversion to an array (it returns lists), and its
digests change with its versions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ialign_ray.config.cleaning import NearDuplicatesStep
from ialign_ray.corpus.cleaning import hashing
from ialign_ray.corpus.cleaning.codepoints import Offsets, blocks
from ialign_ray.corpus.cleaning.hashing import Hashes
from ialign_ray.corpus.cleaning.step import Mask, Measures, Scope, StepDecision
from ialign_ray.corpus.cleaning.words import ngram_hashes, normalised_words
from ialign_ray.corpus.schema import languages

Rows = npt.NDArray[np.int64]

_MISSED = 0.05
"""Share of pairs at exactly the threshold that may have no common band; more similar pairs are missed far less
often."""
_ROUNDS = 8
"""Most rows of a band's group that the others are compared with, so that a group takes at most linear time."""
_BATCH = 1 << 16
"""Pairs whose texts are fetched and compared at a time: some 200 MB of sentences and tokens."""


class NearDuplicates:
    """Keeps the first of the rows that are linked by pairs of Jaccard similarity `threshold` or more."""

    version = 2

    def __init__(self, settings: NearDuplicatesStep) -> None:
        self.threshold = settings.threshold
        self.bands, self.width = banding(settings.threshold, settings.permutations)

    def measure(self, table: pa.Table, scope: Scope) -> pa.Table:
        """A column `band<k>` (uint64) for every band: rows with one key are candidates; 0 for rows without words."""
        slots = self.bands * self.width
        signatures = np.full((slots, len(table)), np.iinfo(np.uint32).max, np.uint32)
        known = np.zeros(len(table), bool)
        for code in scope.languages:
            start = 0
            for block in blocks(table[code]):
                tokens, offsets = word_bigrams(block, code)
                rows = slice(start, start + len(block))
                # a union's signature is the minimum of its parts', so each language and block can be computed
                # separately
                np.minimum(signatures[:, rows], minhash(tokens, offsets, slots), out=signatures[:, rows])
                known[rows] |= offsets[1:] > offsets[:-1]
                start += len(block)
        keys = {
            f"band{k}": self._key(signatures[k * self.width : (k + 1) * self.width], known) for k in range(self.bands)
        }
        return pa.table(keys)

    def decide(self, measures: Measures) -> StepDecision:
        """Compare candidates band by band, each band's column in turn.

        learned: `candidates` (pairs compared), `verified` (those similar enough), rows `dropped`.
        """
        links = _Links(measures.rows)
        for k in range(self.bands):
            self._compare(measures, *_groups(measures.column(f"band{k}"), links.first), links)
            # after every band, so that the next one compares only one row of those already linked
            links.join()
        dropped = links.first != np.arange(measures.rows)
        learned = {"candidates": links.compared, "verified": links.verified, "dropped": int(dropped.sum())}
        return StepDecision({"*": dropped}, learned)

    def _compare(self, measures: Measures, groups: Rows, rows: Rows, links: _Links) -> None:
        """Compare every group's first row with its others; those that are not similar form a new group."""
        for _ in range(_ROUNDS):
            # groups are ascending, so a group's first row is where the number changes
            others = np.diff(groups, prepend=-1) == 0
            pairs = np.stack([rows[~others][np.cumsum(~others) - 1], rows], axis=1)[others]
            alike = np.zeros(len(pairs), bool)
            # nearly similar rows meet in several bands, and comparing their texts is expensive
            unseen = links.unseen(pairs)
            alike[unseen] = similarities(measures, pairs[unseen]) >= self.threshold
            links.add(pairs[unseen], alike[unseen])
            groups, rows = _several(groups[others][~alike], pairs[~alike, 1])

    def _key(self, signature: npt.NDArray[np.uint32], known: Mask) -> Hashes:
        factors = hashing.powers(self.width)[:, None]
        keys = hashing.mix((hashing.mix(signature.astype(np.uint64)) * factors).sum(axis=0, dtype=np.uint64))
        # 0 is kept for rows without words
        return np.where(known, np.maximum(keys, np.uint64(1)), np.uint64(0))


def banding(threshold: float, slots: int) -> tuple[int, int]:
    """(bands, slots per band): the widest bands, so the fewest candidates, that miss few pairs at the threshold.

    Two rows of similarity s share no band of width w among b with probability (1 - s^w)^b.
    """
    widths = range(slots, 0, -1)
    fits = ((slots // w, w) for w in widths if (1 - threshold**w) ** (slots // w) <= _MISSED)
    return next(fits, (slots, 1))


def word_bigrams(column: pa.ChunkedArray | pa.Array, code: str) -> tuple[Hashes, Offsets]:
    """Hashes of the word bigrams of each text, or of its only word, that differ from those of other languages."""
    words, offsets = normalised_words(column)
    bigrams, _ = ngram_hashes(words, offsets, 2)
    counts = np.diff(offsets)
    sizes = np.where(counts == 1, 1, np.maximum(counts - 1, 0))
    begins = np.concatenate([[0], np.cumsum(sizes)])
    # a text of one word has no bigram, so the word is used instead
    single = np.zeros(len(bigrams) + int((counts == 1).sum()), bool)
    single[begins[:-1][counts == 1]] = True
    tokens = np.empty(len(single), np.uint64)
    tokens[single], tokens[~single] = words[offsets[:-1][counts == 1]], bigrams
    return hashing.mix(tokens ^ hashing.salt(code)), begins


def minhash(tokens: Hashes, offsets: Offsets, slots: int) -> npt.NDArray[np.uint32]:
    """[slots, n] MinHash signatures of n sets of hashed tokens; an empty set has the largest number everywhere."""
    signatures = np.full((slots, len(offsets) - 1), np.iinfo(np.uint32).max, np.uint32)
    filled = offsets[1:] > offsets[:-1]
    starts = offsets[:-1][filled]
    # multiply-shift (Dietzfelbinger et al. 1997); the tokens are well mixed already
    factors = hashing.mix(np.arange(2 * slots, dtype=np.uint64))
    ranks = np.empty_like(tokens)
    for slot in range(slots if len(starts) else 0):
        # an odd factor is a bijection modulo 2^64; `out` saves an array for each slot
        np.multiply(tokens, factors[2 * slot] | np.uint64(1), out=ranks)
        ranks += factors[2 * slot + 1]
        # the high half: the low bits of a product depend on few bits of the token
        signatures[slot, filled] = np.minimum.reduceat(ranks, starts) >> np.uint64(32)
    return signatures


def similarities(measures: Measures, pairs: Rows) -> npt.NDArray[np.float64]:
    """Jaccard similarity of the word bigrams of each pair of rows ([n, 2])."""
    parts = [np.zeros(0)]
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        # each text is fetched and split into words once, however many pairs it is in
        rows, places = np.unique(batch, return_inverse=True)
        sets = _token_sets(measures.texts(rows))
        one, two = (sets[side] for side in places.reshape(batch.shape).T)
        common = np.asarray(one.multiply(two).sum(axis=1)).ravel()
        sizes = np.asarray(one.sum(axis=1) + two.sum(axis=1)).ravel()
        parts.append(common / np.maximum(sizes - common, 1))
    return np.concatenate(parts)


def _token_sets(table: pa.Table) -> sparse.csr_matrix:
    """Rows by tokens: 1 where the row has the token."""
    found = [word_bigrams(table[code], code) for code in languages(table)]
    rows = np.concatenate([np.repeat(np.arange(len(table)), np.diff(offsets)) for _, offsets in found])
    names, columns = np.unique(np.concatenate([tokens for tokens, _ in found]), return_inverse=True)
    sets = sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(table), len(names)))
    sets.sum_duplicates()
    # a set: repetitions within a text do not count
    sets.data[:] = 1
    return sets


@dataclass
class _Links:
    """Rows known to be similar, and pairs that have been compared."""

    rows: int
    compared: int = 0
    verified: int = 0

    def __post_init__(self) -> None:
        self.first: Rows = np.arange(self.rows)
        """First row of those that each row is linked with."""
        self._pairs: list[Rows] = []
        self._rejected: Rows = np.zeros(0, np.int64)

    def unseen(self, pairs: Rows) -> Mask:
        """Pairs that have not been compared yet without success."""
        # a pair as one number, which fits 64 bits up to three billion rows
        return ~np.isin(pairs[:, 0] * self.rows + pairs[:, 1], self._rejected)

    def add(self, pairs: Rows, similar: Mask) -> None:
        """Note the outcome of comparisons."""
        self.compared, self.verified = self.compared + len(pairs), self.verified + int(similar.sum())
        self._pairs.append(pairs[similar])
        wrong = pairs[~similar]
        self._rejected = np.union1d(self._rejected, wrong[:, 0] * self.rows + wrong[:, 1])

    def join(self) -> None:
        """Link rows found to be similar since the last call, including transitively."""
        pairs = self.first[np.concatenate(self._pairs)] if self._pairs else np.zeros((0, 2), np.int64)
        nodes, places = np.unique(pairs, return_inverse=True)
        one, two = places.reshape(pairs.shape).T
        graph = sparse.coo_matrix((np.ones(len(one), bool), (one, two)), shape=(len(nodes), len(nodes)))
        count, parts = connected_components(graph, directed=False)
        least = np.zeros(count, np.int64)
        least[parts[::-1]] = nodes[::-1]  # the last write is the lowest row
        heads = np.arange(self.rows)
        heads[nodes] = least[parts]
        self.first, self._pairs = heads[self.first], []


def _groups(keys: Hashes, first: Rows) -> tuple[Rows, Rows]:
    """(group, row) of the rows that share their key with others, ascending; one per set of rows known to be similar."""
    order = np.argsort(keys, kind="stable")
    order = order[np.searchsorted(keys, np.uint64(0), side="right", sorter=order) :]  # without rows without words
    groups = np.cumsum(np.diff(keys[order], prepend=np.uint64(0)) != 0)
    groups, rows = _several(groups, order)
    # `unique` gives the first of equal ones: the lowest row of each linked set in the group
    _, kept = np.unique(groups * len(keys) + first[rows], return_index=True)
    kept.sort()
    return _several(groups[kept], rows[kept])


def _several(groups: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Remove groups of one row. Groups are ascending."""
    same = groups[1:] == groups[:-1]
    kept = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    return (groups[kept], rows[kept]) if len(rows) else (groups, rows)
