"""Point metrics of one cell (one suite, prompt and language), on scikit-learn.

Every metric is defined here once; `statistics` resamples the same definitions quickly, and a test holds
the two equal. Tied best scores share a prediction equally (two tied labels get one half each), so label
order never decides, and a constant scorer is the *expected* uniform guess, with an AUC of exactly .5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from ialign_ray.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOWER_IS_BETTER: Final = frozenset(
    {"bits_per_byte", "nats_per_token", "perplexity", "calibration_error", "copied", "empty", "cut", "off_target"}
)
"""Metrics that improve by falling; every other one improves by rising."""

SCORERS: Final = ("sum", "mean", "calibrated")
"""How a label's tokens make its score: summed, mean over tokens, or relative to a contentless prompt."""

LENGTH_STRATA: Final = 20  # simulated with 400 rows: a pure length score falls from .73 to .52 (10 strata: .53)
_ROWS_PER_STRATUM: Final = 8  # fewer rows leave strata without a pair to compare


def score_matrix(scores: Iterable[Any], name: str = "scores") -> Floats:
    """Scores as an array (rows, labels), log units, higher is better.

    Raises `DataError` if there is no row, if rows differ in length, if there are fewer than two labels,
    or if any score is NaN or infinite.
    """
    rows = list(scores)
    try:
        matrix = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: every row needs the same number of numeric label scores") from error
    if matrix.ndim != 2 or matrix.shape[0] == 0 or matrix.shape[1] < 2:
        raise DataError(f"{name}: need rows x labels with a row and two labels, got shape {matrix.shape}")
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name}: {bad.size} of {len(rows)} rows hold NaN or infinite scores (first: row {bad[0]}); "
            "score them again, in float32 if the model ran in half precision"
        )
    return matrix


def gold_labels(gold: ArrayLike, labels: int, rows: int) -> Ints:
    """Gold label indices (rows,), checked to lie in 0..labels-1; raises `DataError` otherwise."""
    try:
        floats = np.asarray(gold, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"label: need integer indices 0..{labels - 1}") from error
    if floats.shape != (rows,):
        raise DataError(f"label: {floats.shape} gold labels for {rows} rows of scores")
    wrong = floats[~np.isin(floats, np.arange(labels))]
    if wrong.size:
        raise DataError(f"label: {wrong[0]} is no index into {labels} labels; give 0..{labels - 1}")
    return floats.astype(np.int64)


def predict(scores: Floats) -> Floats:
    """Predicted share of each label (rows, labels), rows summing to 1: one-hot but for tied best scores."""
    best = scores == scores.max(axis=1, keepdims=True)
    shares: Floats = best / best.sum(axis=1, keepdims=True)
    return shares


def extreme_margin(scores: Floats) -> Floats:
    """Last minus first label's score (rows,): what AUC ranks by; adding a bias to a label changes no AUC."""
    margin: Floats = scores[:, -1] - scores[:, 0]
    return margin


def length_strata(chars: ArrayLike, bins: int = LENGTH_STRATA) -> Ints:
    """Stratum (rows,) of each text by quantiles of its length in characters; equal lengths stay together."""
    lengths = np.asarray(chars, dtype=np.float64)
    usable = max(1, min(bins, lengths.size // _ROWS_PER_STRATUM))
    if usable == 1:
        return np.zeros(lengths.size, dtype=np.int64)
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, usable + 1)[1:-1]))
    return np.searchsorted(edges, lengths, side="right").astype(np.int64)


def auc(gold: Ints, scores: Floats) -> float:
    """AUC of the last label against the first, over the rows of those two classes only.

    Meant for ordinal labels whose first and last are the extremes (negative, neutral, positive): rows are
    ranked by `score[last] - score[first]`, so a bias towards any label does not count. For two labels it
    is the ordinary AUC; for unordered labels it says only how well those two are told apart. NaN if
    either class is absent.
    """
    extreme = (gold == 0) | (gold == scores.shape[1] - 1)
    positive = gold[extreme] > 0
    if positive.all() or not positive.any():
        return float("nan")
    return float(roc_auc_score(positive, extreme_margin(scores)[extreme]))


def auc_length_fixed(gold: Ints, scores: Floats, chars: ArrayLike, bins: int = LENGTH_STRATA) -> float:
    """AUC as in `auc`, but only pairs of texts of about the same length are compared.

    The rows of the two extreme classes are cut into `bins` quantiles of length (fewer for under 8 rows a
    stratum); the AUC of each stratum is averaged with its number of (first, last) pairs as weight. A
    scorer that only measures length falls to about .52 here, where NusaX gives it .73 in `auc`, as its
    positive texts are longer (the rest is the spread of length inside a stratum). NaN if no stratum holds
    both classes.
    """
    extreme = (gold == 0) | (gold == scores.shape[1] - 1)
    strata = length_strata(np.asarray(chars)[extreme], bins)
    kept_gold, kept_scores = gold[extreme], scores[extreme]
    total, pairs = 0.0, 0
    for stratum in np.unique(strata):
        inside = strata == stratum
        last = int((kept_gold[inside] > 0).sum())
        count = last * (int(inside.sum()) - last)
        if count:
            total += auc(kept_gold[inside], kept_scores[inside]) * count
            pairs += count
    return total / pairs if pairs else float("nan")


def classification_metrics(gold: ArrayLike, scores: Iterable[Any], chars: ArrayLike) -> dict[str, float]:
    """Every classification metric of one cell.

    `gold` (rows,) label indices, `scores` (rows, labels) log-scores, `chars` (rows,) text lengths in
    characters. Returns f1_weighted, f1_macro (over labels that occur in gold or predictions, as in
    scikit-learn), accuracy, auc, auc_length_fixed, and share_0 .. share_{L-1}, the predicted share of
    each label. Raises `DataError` for NaN scores, ragged rows and labels out of range.
    """
    matrix = score_matrix(scores)
    truth = gold_labels(gold, matrix.shape[1], len(matrix))
    shares = predict(matrix)
    rows, predicted = np.nonzero(shares)
    weight = shares[rows, predicted]

    def f1(average: str) -> float:
        return float(f1_score(truth[rows], predicted, average=average, sample_weight=weight, zero_division=0.0))

    return {
        "f1_weighted": f1("weighted"),
        "f1_macro": f1("macro"),
        "accuracy": float(accuracy_score(truth[rows], predicted, sample_weight=weight)),
        "auc": auc(truth, matrix),
        "auc_length_fixed": auc_length_fixed(truth, matrix, chars),
        **{f"share_{label}": float(share) for label, share in enumerate(shares.mean(axis=0))},
    }


def bits_per_byte(nats: ArrayLike, sizes: ArrayLike) -> float:
    """Total bits over total UTF-8 bytes of the targets: comparable across tokenizers, lower is better."""
    return float(np.sum(nats) / np.log(2) / _positive_total(sizes, "bytes"))


def nats_per_token(nats: ArrayLike, tokens: ArrayLike) -> float:
    """Total nats over total target tokens (EOS counted): the loss training minimises, lower is better."""
    return float(np.sum(nats) / _positive_total(tokens, "tokens"))


def source_use(nats: ArrayLike, mismatched_nats: ArrayLike, sizes: ArrayLike) -> float:
    """Bits per byte that the right source saves against another example's source; 0 = the source is ignored.

    Rows without a mismatched score (NaN) are left out of both sums; NaN if none is left.
    """
    wrong = np.asarray(mismatched_nats, dtype=np.float64)
    known = np.isfinite(wrong)
    if not known.any():
        return float("nan")
    return bits_per_byte(wrong[known] - np.asarray(nats)[known], np.asarray(sizes)[known])


def _positive_total(counts: ArrayLike, name: str) -> float:
    total = float(np.sum(counts))
    if not total > 0:
        raise DataError(f"{name}: the targets sum to {total:g} {name}; give rows with a non-empty target")
    return total
