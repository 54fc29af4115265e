"""Metrics of cross-lingual retrieval: the candidate nearest to a sentence in the model's hidden space.

For each sentence of one language all sentences of another are candidates, of which one is its translation (Artetxe
and Schwenk 2019, arXiv 1812.10464, on Tatoeba). Related languages share words, so the same search by character n-grams
is reported too: alignment is the gain of the hidden states over it. Resampling draws the query sentences; the
candidates stay the same, and accuracy falls with their number.
"""

from __future__ import annotations

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints


def ranks(queries: Floats, candidates: Floats) -> Ints:
    """Rank: number of candidates [n, H] at least as near (cosine) to query i of [n, H] as candidate i; 0 is right.

    A tie counts against the model, so identical states find nothing. Raises `DataError` for arrays of unequal
    shape, fewer than two rows, or a vector that is not finite.
    """
    if queries.shape != candidates.shape or queries.ndim != 2 or len(queries) < 2:
        raise DataError(
            f"retrieval: vectors of shapes {queries.shape} and {candidates.shape}; give two sentences or more, each "
            "with its translation"
        )
    if not (np.isfinite(queries).all() and np.isfinite(candidates).all()):
        raise DataError("retrieval: a hidden state is NaN or infinite; run the model in fp32")
    near = _unit(queries) @ _unit(candidates).T
    own = np.diag(near)[:, None]
    # a difference below rounding is a tie, so that the batch in which a state was computed has no effect
    found: Ints = np.count_nonzero(near >= own - 1e-6, axis=1).astype(np.int64) - 1
    return found


def surface_ranks(queries: list[str], candidates: list[str]) -> Ints:
    """`ranks` by character n-grams (2 to 4, inside words, TF-IDF) of the texts only: similarity of spelling."""
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    try:
        vectors.fit([*queries, *candidates])
    except ValueError:  # every text is empty
        return np.full(len(queries), len(candidates) - 1, dtype=np.int64)
    near = np.asarray((vectors.transform(queries) @ vectors.transform(candidates).T).todense())
    found: Ints = np.count_nonzero(near >= np.diag(near)[:, None] - 1e-12, axis=1).astype(np.int64) - 1
    return found


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.where(lengths > 0, lengths, 1)
    return scaled
