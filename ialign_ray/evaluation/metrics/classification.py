"""Metrics of label scores: F1, accuracy, AUC and label shares of one cell, each as a draw vector.

Tests hold every draw equal to scikit-learn's score of the rows drawn, which would take a second a cell. Tied best
scores share a prediction equally (two tied labels get one half each), so label order never decides, and a constant
scorer is the *expected* uniform guess, with an AUC of exactly .5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints
from ialign_ray.evaluation.metrics.cell import Cell, quotient

SCORERS: Final = ("sum", "mean", "calibrated")
"""Ways to score a label from its tokens: summed, mean over tokens, or relative to a contentless prompt."""

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
    """Gold label indices (rows,), checked to be in 0..labels-1; raises `DataError` otherwise."""
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


def label_cells(rows: pd.DataFrame, unit: Ints, weights: Floats) -> dict[str, Cell]:
    """Scorer -> its cell; one cell for scorers that agree, as on baselines and on labels of one token.

    Raises `DataError` where the rows hold no scores, or scores or labels that are no numbers in range.
    """
    cells = {
        name: Cell(rows, unit, weights, name) for name in SCORERS if name in rows.columns and rows[name].notna().any()
    }
    if not cells:
        where = Cell(rows, unit, weights).where
        raise DataError(f"predictions of {where}: no column of scores; give one of {', '.join(SCORERS)}")
    known: list[Cell] = []
    for name, cell in cells.items():
        equal = (other for other in known if np.array_equal(other.shared(scores), cell.shared(scores)))
        cells[name] = next(equal, cell)
        known.append(cell)
    return cells


def scores(cell: Cell) -> Floats:
    """Label scores (rows, labels), checked."""
    return score_matrix(cell.rows[cell.scorer], f"{cell.where}, scorer '{cell.scorer}'")


def gold(cell: Cell) -> Ints:
    """Right labels (rows,), checked."""
    return gold_labels(cell.rows["label"], cell.shared(scores).shape[1], len(cell.rows))


def confusion(cell: Cell) -> Floats:
    """Confusion matrices (labels, labels, draws), gold by predicted."""
    predicted, units = predict(cell.shared(scores)), len(cell.weights)
    labels = predicted.shape[1]
    # one number for each gold label, predicted label and sentence
    flat = (cell.shared(gold)[:, None] * labels + np.arange(labels)) * units + cell.unit[:, None]
    counts = np.bincount(flat.ravel(), predicted.ravel(), minlength=labels * labels * units)
    found: Floats = (counts.reshape(labels * labels, units) @ cell.weights).reshape(labels, labels, -1)
    return found


def f1_weighted(cell: Cell) -> Floats:
    """F1 averaged over labels by their rows, as scikit-learn with zero_division=0."""
    return f1_draws(cell.shared(confusion), "weighted")


def f1_macro(cell: Cell) -> Floats:
    """F1 averaged over the labels that occur in gold or predictions, as scikit-learn with zero_division=0."""
    return f1_draws(cell.shared(confusion), "macro")


def accuracy(cell: Cell) -> Floats:
    """Share of right predictions."""
    counts = cell.shared(confusion)
    return quotient(np.trace(counts), counts.sum(axis=(0, 1)))


def shares(cell: Cell) -> dict[str, Floats]:
    """Share of the predictions that each label gets."""
    counts = cell.shared(confusion)
    found = quotient(counts.sum(axis=0), counts.sum(axis=(0, 1)))
    return {str(label): draws for label, draws in enumerate(found)}


def auc(cell: Cell) -> Floats:
    """AUC of the last label against the first, over the rows of those two classes only.

    Meant for ordinal labels whose first and last are the extremes (negative, neutral, positive): rows are
    ranked by `score[last] - score[first]`, so a bias towards any label does not count. For two labels it
    is the ordinary AUC; for unordered labels it says only how well those two are told apart. NaN if
    either class is absent.
    """
    return _extreme_auc(cell, bins=1)


def auc_length_fixed(cell: Cell) -> Floats:
    """AUC as in `auc`, but only pairs of texts of about the same length are compared.

    The rows of the two extreme classes are cut into quantiles of length (fewer for under 8 rows a stratum); strata
    weigh by their pairs. A scorer that only measures length falls to about .52 here, where NusaX gives it .73 in
    `auc`, as its positive texts are longer (the rest is the spread of length inside a stratum). NaN if no stratum
    holds both classes.
    """
    return _extreme_auc(cell, LENGTH_STRATA)


def _extreme_auc(cell: Cell, bins: int) -> Floats:
    matrix, truth = cell.shared(scores), cell.shared(gold)
    extreme = (truth == 0) | (truth == matrix.shape[1] - 1)
    strata = length_strata(cell.rows["chars"].to_numpy()[extreme], bins)
    margin = extreme_margin(matrix)[extreme]
    return auc_draws(cell.weights, cell.unit[extreme], truth[extreme] > 0, margin, strata)


def f1_draws(confusion: Floats, average: Literal["weighted", "macro"]) -> Floats:
    """F1 (draws,) of confusion matrices (labels, labels, draws), as scikit-learn with zero_division=0.

    Macro averages over labels that occur in gold or predictions of that draw. NaN for an empty draw.
    """
    support = confusion.sum(axis=1)
    occurring = support + confusion.sum(axis=0)
    hits = 2 * np.einsum("iid->id", confusion)
    per_label = np.divide(hits, occurring, out=np.zeros_like(hits), where=occurring > 0)
    share = support if average == "weighted" else (occurring > 0).astype(np.float64)
    return quotient((share * per_label).sum(axis=0), share.sum(axis=0))


def auc_draws(weights: Floats, unit: Ints, positive: ArrayLike, margin: Floats, stratum: Ints) -> Floats:
    """AUC (draws,) over pairs inside a stratum, each pair weighted by how often both rows were drawn.

    `unit`, `positive` (bool), `margin` and `stratum` are (rows,). Negatives are sorted once; a running sum
    of their weights gives how many each positive beats, so the cost is linear in rows. Ties count half.
    """
    is_positive = np.asarray(positive, dtype=bool)
    # One integer key orders rows by stratum, then margin; equal margins share a key.
    by_margin = np.unique(margin, return_inverse=True)[1].astype(np.int64)
    base = stratum * (by_margin.max(initial=0) + 1)
    key = base + by_margin
    below = np.argsort(key[~is_positive], kind="stable")
    negatives = key[~is_positive][below]
    running = np.zeros((negatives.size + 1, weights.shape[1]))
    np.cumsum(weights[unit[~is_positive][below]], axis=0, out=running[1:])

    def up_to(keys: Ints, side: Literal["left", "right"]) -> Floats:
        return running[np.searchsorted(negatives, keys, side=side)]

    own, start = key[is_positive], base[is_positive]
    drawn, floor = weights[unit[is_positive]], up_to(start, "left")
    beaten = (up_to(own, "left") + up_to(own, "right")) / 2 - floor
    faced = up_to(start + by_margin.max(initial=0), "right") - floor
    return quotient(np.einsum("rd,rd->d", drawn, beaten), np.einsum("rd,rd->d", drawn, faced))
