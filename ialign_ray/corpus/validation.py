"""Validation pairs of a run: from held-out splits, or held out from the training pairs by whole sentences.

They never come from an evaluation suite: data that selects a checkpoint must not evaluate it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import CorpusConfig, Experiment
from ialign_ray.corpus.assemble import HELD_OUT
from ialign_ray.corpus.build import Built
from ialign_ray.corpus.cleaning.step import Mask
from ialign_ray.corpus.cleaning.words import normalised_words, text_hashes
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.pairs import PAIR_SCHEMA, Parallel, directed_pairs
from ialign_ray.corpus.splits import LINKING_WORDS

TENTH = 10
"""At most one in this many training pairs is held out for validation."""
DRAWN = 3
"""Seed of the draw; the split of `holdout` and the replay pool have different ones."""


def hold_out_pairs(experiment: Experiment, built: Built, parallel: Parallel, most: int) -> tuple[Parallel, pa.Table]:
    """Split training pairs into those to train on and at most `most` for validation, equally from each corpus.

    A corpus with a held-out split provides pairs from it. From others, sentences are taken with all their languages and
    directions, and only those that share no text of four words or more with another sentence of any corpus: so no
    held-out text is trained on through another row.
    """
    own_share = most // len(experiment.corpora)
    if not own_share:
        return parallel, PAIR_SCHEMA.empty_table()
    held = [PAIR_SCHEMA.empty_table()]
    taken = np.zeros(parallel.pairs.num_rows, bool)
    lonely: Mask | None = None
    counts = dict(parallel.counts)
    for corpus in experiment.corpora:
        if counts[corpus.name].held_out:
            held.append(_of_split(experiment, built, corpus, own_share))
            continue
        # over all corpora and once: it hashes every text
        lonely = _shares_no_text(parallel.pairs) if lonely is None else lonely
        own = _of_corpus(parallel.pairs, corpus)
        kept = _whole_sentences(parallel.pairs, own & lonely, min(own_share, int(own.sum()) // TENTH))
        taken |= kept
        counts[corpus.name] = replace(counts[corpus.name], validation=int(kept.sum()))
    held.append(parallel.pairs.filter(pa.array(taken)))
    return Parallel(parallel.pairs.filter(pa.array(~taken)), counts), pa.concat_tables(held)


def _of_split(experiment: Experiment, built: Built, corpus: CorpusConfig, most: int) -> pa.Table:
    pairs = directed_pairs(built, corpus, experiment.tasks.directions, HELD_OUT)
    return pairs.filter(pa.array(_whole_sentences(pairs, np.ones(pairs.num_rows, bool), most)))


def _of_corpus(pairs: pa.Table, corpus: CorpusConfig) -> Mask:
    own: Mask = pc.starts_with(pairs["row_id"], f"{corpus.name}:").to_numpy()
    return own


def _whole_sentences(pairs: pa.Table, allowed: Mask, most: int) -> Mask:
    """Rows of `allowed` sentences in seeded order, up to `most` pairs."""
    ids, sentence = _sentences(pairs.filter(pa.array(allowed)))
    order = np.argsort([share_of(i, DRAWN) for i in ids], kind="stable")
    sizes = np.bincount(sentence, minlength=len(ids))
    chosen = np.zeros(len(ids), bool)
    # a sentence is taken with all its directions or not at all
    chosen[order] = np.cumsum(sizes[order]) <= most
    kept = np.zeros(pairs.num_rows, bool)
    kept[np.flatnonzero(allowed)] = chosen[sentence]
    return kept


def _shares_no_text(pairs: pa.Table) -> Mask:
    """Mask of rows of sentences that share no text of four words or more with another sentence."""
    ids, sentence = _sentences(pairs)
    shared = np.zeros(len(ids), bool)
    texts: list[npt.NDArray[np.uint64]] = []
    owners: list[npt.NDArray[np.int64]] = []
    for side in ("source", "target"):
        long = np.diff(normalised_words(pairs[side])[1]) >= LINKING_WORDS
        texts.append(text_hashes(pairs[side])[0][long])
        owners.append(sentence[long])
    known, text = np.unique(np.concatenate(texts), return_inverse=True)
    owner = np.concatenate(owners)
    first, last = np.full(len(known), len(ids)), np.full(len(known), -1)
    np.minimum.at(first, text, owner)
    np.maximum.at(last, text, owner)
    shared[owner[(first != last)[text]]] = True
    return ~shared[sentence]


def _sentences(pairs: pa.Table) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Ids of the sentences, and each row's number among them; a row's id is its sentence's and the direction."""
    names = pc.replace_substring_regex(pairs["row_id"], r":[^:]*$", "").combine_chunks().dictionary_encode()
    return names.dictionary.to_pylist(), names.indices.to_numpy().astype(np.int64)
