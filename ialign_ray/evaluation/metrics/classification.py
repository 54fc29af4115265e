"""Metrics of label scores: F1, accuracy, AUC and label shares of one cell, each as a draw vector.

Tests compare every draw with scikit-learn's score of the rows drawn, which would take a second per cell. Tied best
scores share a prediction equally (two tied labels get one half each), so label order has no effect, and a constant
scorer is the *expected* uniform guess, with an AUC of exactly .5.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints
from ialign_ray.evaluation.metrics.cell import Cell, quotient
from ialign_ray.inference.calibration import batch_calibrated

Bools = NDArray[np.bool_]

SCORERS: Final = ("sum", "mean", "calibrated", "batch")
"""Ways to score a label from its tokens: sum, mean over tokens, or sum relative to a contentless prompt or to the mean
over the suite's rows (`with_batch`)."""

PER_LENGTH: Final = ("per_character", "per_byte")
"""Further ways to score the text of an option: sum over its characters (`acc_norm` of lm-evaluation-harness), or bytes
(`acc_bytes`)."""
_COLUMNS: Final = tuple(f"{form}{name}" for form in ("", "letter:", "text:") for name in (*SCORERS, *PER_LENGTH))

LENGTH_FIXED: Final = ("auc_length_fixed", "auc_ovr_length_fixed")
"""Metrics that compare only texts of about the same length."""
WITHIN_LENGTH: Final = 1.1
"""Two texts are compared if the longer has at most this many times the characters of the shorter."""
FEWEST_MATCHED: Final = 20
TOO_FEW_MATCHED: Final = (
    f"fewer than {FEWEST_MATCHED} texts of a class have one of the other within 10 % of their length"
)


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
        raise DataError(f"label: {wrong[0]} is not an index of {labels} labels; give 0..{labels - 1}")
    return floats.astype(np.int64)


def with_batch(predictions: pd.DataFrame, prefix: str = "") -> pd.DataFrame:
    """Add the column `batch`: the log of each label's probability over its mean over the rows of a language.

    Batch Calibration (Zhou et al. 2024, arXiv 2309.17249), computed from the stored sums of one suite and prompt: the
    rows need no label, and no other pass of the model. `prefix` begins the names of both columns.
    """
    made = pd.Series(index=predictions.index, dtype=object)
    for places in predictions.groupby("language").indices.values():
        sums = np.stack(predictions[f"{prefix}sum"].iloc[places].tolist())
        made.iloc[places] = pd.Series(list(batch_calibrated(sums)), predictions.index[places])
    return predictions.assign(**{f"{prefix}batch": made})


def predict(scores: Floats) -> Floats:
    """Predicted share of each label (rows, labels), rows summing to 1: one-hot except for tied best scores."""
    best = scores == scores.max(axis=1, keepdims=True)
    shares: Floats = best / best.sum(axis=1, keepdims=True)
    return shares


def extreme_margin(scores: Floats) -> Floats:
    """Last minus first label's score (rows,): what AUC ranks by; adding a bias to a label changes no AUC."""
    margin: Floats = scores[:, -1] - scores[:, 0]
    return margin


def label_cells(rows: pd.DataFrame, unit: Ints, weights: Floats) -> dict[str, Cell]:
    """Map each scorer to its cell; scorers that agree, as on baselines and labels of one token, share one.

    Raises `DataError` if the rows have no scores, or scores or labels out of range.
    """
    cells = {
        name: Cell(rows, unit, weights, name) for name in _COLUMNS if name in rows.columns and rows[name].notna().any()
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
    is the ordinary AUC; for unordered labels it only measures how well those two are separated. NaN if
    either class is absent.
    """
    unit, positive, margin, _ = cell.shared(_extremes)
    return auc_draws(cell.weights, unit, positive, margin)


def auc_length_fixed(cell: Cell) -> Floats:
    """AUC as in `auc`, over the pairs of texts whose lengths in characters are within 10 % of each other.

    The pairs in which the better class is longer and those in which it is shorter have equal weight, so that a score
    equal to the length gets .5. NaN with fewer than 20 rows of either class in such a pair (`TOO_FEW_MATCHED`): chance
    would decide.
    """
    unit, positive, margin, chars = cell.shared(_extremes)
    return matched_auc_draws(cell.weights, unit, positive, margin, chars)


def _extremes(cell: Cell) -> tuple[Ints, Bools, Floats, Floats]:
    """Unit, class, margin and length of the rows of the first and last label."""
    matrix, truth = cell.shared(scores), cell.shared(gold)
    extreme = (truth == 0) | (truth == matrix.shape[1] - 1)
    chars = cell.rows["chars"].to_numpy(np.float64)
    return cell.unit[extreme], truth[extreme] > 0, extreme_margin(matrix)[extreme], chars[extreme]


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


def auc_draws(weights: Floats, unit: Ints, positive: Bools, margin: Floats) -> Floats:
    """AUC (draws,) over pairs of a positive and a negative row, weighted by how often both were drawn.

    `unit`, `positive` and `margin` are (rows,). Negatives are sorted once; a running sum of their weights gives how
    many each positive beats, so the cost is linear in rows. Ties count half. NaN without a pair.
    """
    below = np.argsort(margin[~positive], kind="stable")
    negatives = margin[~positive][below]
    running = np.zeros((negatives.size + 1, weights.shape[1]))
    np.cumsum(weights[unit[~positive][below]], axis=0, out=running[1:])
    sides = [running[np.searchsorted(negatives, margin[positive], side=side)] for side in ("left", "right")]
    drawn = weights[unit[positive]]
    return quotient(np.einsum("rd,rd->d", drawn, sum(sides) / 2), drawn.sum(axis=0) * running[-1])


def matched_auc_draws(weights: Floats, unit: Ints, positive: Bools, margin: Floats, chars: Floats) -> Floats:
    """`auc_draws` over the pairs whose `chars` (rows,) differ by at most 10 %; NaN if too few rows have one.

    Mean of the AUC over the pairs whose positive row is longer and over those whose negative is; equal lengths count
    half in each.
    """
    pairs = _matched(np.log(np.maximum(chars[positive], 1)), np.log(np.maximum(chars[~positive], 1)))
    if min(len(np.unique(side)) for side in pairs) < FEWEST_MATCHED:
        return np.full(weights.shape[1], np.nan)
    above = margin[positive][pairs[0]] - margin[~positive][pairs[1]]
    shape = int(positive.sum()), int((~positive).sum())
    drawn, others = weights[unit[positive]], weights[unit[~positive]]

    def total(of_pair: Floats) -> Floats:
        beaten = np.asarray(csr_matrix((of_pair, pairs), shape=shape) @ others, dtype=np.float64)
        found: Floats = np.einsum("rd,rd->d", drawn, beaten)
        return found

    won = (np.sign(above) + 1) / 2
    longer = (np.sign(chars[positive][pairs[0]] - chars[~positive][pairs[1]]) + 1) / 2
    sides = [quotient(total(won * share), total(share)) for share in (longer, 1 - longer)]
    return (sides[0] + sides[1]) / 2


def _matched(first: Floats, second: Floats) -> tuple[Ints, Ints]:
    """Indices of all pairs of `first` and `second` (log lengths) that are within 10 %."""
    order = np.argsort(second, kind="stable")
    reach = np.log(WITHIN_LENGTH) + 1e-9
    start = np.searchsorted(second[order], first - reach, side="left")
    end = np.searchsorted(second[order], first + reach, side="right")
    counts = end - start
    rows = np.repeat(np.arange(len(first)), counts)
    # each row's run of neighbours, one after the other
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows.astype(np.int64), order[np.repeat(start, counts) + within].astype(np.int64)
