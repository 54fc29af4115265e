"""Metrics of label scores taken as probabilities (softmax over the labels): calibration, and AUC of unordered labels.

`metrics` holds those of a cell's predictions; its AUC needs labels that run from one extreme to the other, which
emotions, topics and entailment do not. Here every label is ranked against the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from ialign_ray.evaluation.metrics.bootstrap import auc_draws, mean_draws
from ialign_ray.evaluation.metrics.classification import (
    Floats,
    Ints,
    gold_labels,
    length_strata,
    predict,
    score_matrix,
)

CONFIDENCE_BINS: Final = 10


def calibration_error(gold: Ints, scores: Floats, bins: int = CONFIDENCE_BINS) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): mean |confidence - accuracy| over bins.

    `gold` (rows,), `scores` (rows, labels). Bins of equal width by the confidence in the predicted label, each
    weighted by its rows; 0 is best. With few rows the value is too high, since every bin's noise adds to it.
    """
    place, gap = _gaps(gold, scores, bins)
    return float(np.abs(np.bincount(place, gap, minlength=bins)).sum() / len(gold))


def auc_ovr(gold: Ints, scores: Floats, chars: ArrayLike | None = None) -> float:
    """Mean AUC of each label's probability, its rows against all others (scikit-learn's `ovr`, macro).

    Over the labels that occur in `gold`; NaN if there is but one. With `chars` only rows of about the same length are
    compared (`metrics.length_strata`), strata weighted by their pairs.
    """
    shares = softmax(scores, axis=1)
    strata = np.zeros(len(gold), np.int64) if chars is None else length_strata(chars)
    return float(np.mean([_within(gold == label, shares[:, label], strata) for label in np.unique(gold)]))


def probability_metrics(gold: ArrayLike, scores: Iterable[Any], chars: ArrayLike) -> dict[str, float]:
    """calibration_error, auc_ovr, auc_ovr_length_fixed of one cell; arguments of `metrics.classification_metrics`."""
    matrix = score_matrix(scores)
    truth = gold_labels(gold, matrix.shape[1], len(matrix))
    return {
        "calibration_error": calibration_error(truth, matrix),
        "auc_ovr": auc_ovr(truth, matrix),
        "auc_ovr_length_fixed": auc_ovr(truth, matrix, chars),
    }


def probability_draws(weights: Floats, unit: Ints, gold: Ints, scores: Floats, chars: ArrayLike) -> dict[str, Floats]:
    """`probability_metrics` of one cell as draw vectors; arguments as `statistics.classification_draws`."""
    place, gap = _gaps(gold, scores, CONFIDENCE_BINS)
    rows = np.bincount(unit, minlength=len(weights)) @ weights
    flat = np.bincount(place * len(weights) + unit, gap, minlength=CONFIDENCE_BINS * len(weights))
    binned = flat.reshape(CONFIDENCE_BINS, len(weights)) @ weights
    return {
        "calibration_error": np.abs(binned).sum(axis=0) / np.where(rows > 0, rows, np.nan),
        "auc_ovr": _ovr_draws(weights, unit, gold, scores, np.zeros(len(gold), np.int64)),
        "auc_ovr_length_fixed": _ovr_draws(weights, unit, gold, scores, length_strata(chars)),
    }


def _gaps(gold: Ints, scores: Floats, bins: int) -> tuple[Ints, Floats]:
    """Each row's bin, and its confidence minus whether it is right (its share of the prediction where labels tie)."""
    confidence = softmax(scores, axis=1).max(axis=1)
    # right-closed bins, as in the paper: a confidence of exactly .5 belongs to (.4, .5]
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    return place, confidence - predict(scores)[np.arange(len(gold)), gold]


def _within(positive: np.ndarray[Any, np.dtype[np.bool_]], score: Floats, strata: Ints) -> float:
    total = pairs = 0.0
    for stratum in np.unique(strata):
        inside = strata == stratum
        count = float(positive[inside].sum() * (~positive[inside]).sum())
        if count:
            total += float(roc_auc_score(positive[inside], score[inside])) * count
            pairs += count
    return total / pairs if pairs else float("nan")


def _ovr_draws(weights: Floats, unit: Ints, gold: Ints, scores: Floats, strata: Ints) -> Floats:
    shares = softmax(scores, axis=1)
    return mean_draws([auc_draws(weights, unit, gold == k, shares[:, k], strata) for k in np.unique(gold)])
