"""Metrics of label scores taken as probabilities (softmax over the labels): calibration, and AUC of unordered labels.

The AUC of `metrics.classification` needs labels ordered from one extreme to the other; emotions, topics and entailment
have no such order. Here every label is ranked against the rest.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.special import softmax

from ialign_ray.evaluation.metrics.bootstrap import Floats, mean_draws
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.classification import auc_draws, gold, matched_auc_draws, predict, scores

CONFIDENCE_BINS: Final = 10


def calibration_error(cell: Cell) -> Floats:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): mean |confidence - accuracy| over bins.

    Bins of equal width by the confidence in the predicted label, each weighted by its rows; 0 is best. With few rows
    the value is too high, since every bin's noise adds to it.
    """
    matrix, units, bins = cell.shared(scores), len(cell.weights), CONFIDENCE_BINS
    confidence = softmax(matrix, axis=1).max(axis=1)
    # right-closed bins, as in the paper: a confidence of exactly .5 belongs to (.4, .5]
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = confidence - predict(matrix)[np.arange(len(matrix)), cell.shared(gold)]
    rows = np.bincount(cell.unit, minlength=units) @ cell.weights
    binned = np.bincount(place * units + cell.unit, gap, minlength=bins * units).reshape(bins, units) @ cell.weights
    error: Floats = np.abs(binned).sum(axis=0) / np.where(rows > 0, rows, np.nan)
    return error


def auc_ovr(cell: Cell) -> Floats:
    """Mean AUC of each label's probability, its rows against all others (scikit-learn's `ovr`, macro).

    Averages over the labels that occur in the cell; NaN if there is only one.
    """
    shares, truth = softmax(cell.shared(scores), axis=1), cell.shared(gold)
    return mean_draws([auc_draws(cell.weights, cell.unit, truth == k, shares[:, k]) for k in np.unique(truth)])


def auc_ovr_length_fixed(cell: Cell) -> Floats:
    """`auc_ovr` over pairs of texts within 10 % of each other's length; NaN if a label has too few of them."""
    shares, truth = softmax(cell.shared(scores), axis=1), cell.shared(gold)
    chars = cell.rows["chars"].to_numpy(np.float64)
    return mean_draws(
        [matched_auc_draws(cell.weights, cell.unit, truth == k, shares[:, k], chars) for k in np.unique(truth)]
    )
