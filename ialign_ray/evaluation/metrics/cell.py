"""One cell of predictions (suite, prompt and language) under resampling, from which every metric is computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints

LIKELIHOOD: Final = "likelihood"
"""Scorer of kinds that score one text, not labels."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Cell:
    """Predictions of one suite, prompt and language by one scorer, and the weights of each sentence.

    Column 0 of the weights is the sample itself, all ones: the first number of every draw vector is the point value.
    """

    rows: pd.DataFrame
    """One row per example; the columns of the suite's kind."""
    unit: Ints
    """Sentence of each row (rows,), as its row in `weights`."""
    weights: Floats
    """Weights (sentences, draws), from `bootstrap.resample_weights`."""
    scorer: str = LIKELIHOOD
    """Column of `rows` with a score for each label, for kinds that score labels; for others the scorer's name in
    results."""
    _shared: dict[Callable[[Cell], Any], Any] = field(default_factory=dict, repr=False)

    @property
    def where(self) -> str:
        """Suite, prompt and language, for messages."""
        return "/".join(str(self.rows[c].iloc[0]) for c in ("suite", "prompt", "language") if c in self.rows.columns)

    def shared(self, make: Callable[[Cell], T]) -> T:
        """Return `make` of this cell, computed once for all metrics that need it."""
        if make not in self._shared:
            self._shared[make] = make(self)
        return cast(T, self._shared[make])

    def mean(self, values: ArrayLike) -> Floats:
        """Mean of `values` (rows,) over the rows drawn, as a draw vector (draws,); rows that are NaN are ignored."""
        return self.ratio(values, np.ones(len(self.rows)))

    def ratio(self, amounts: ArrayLike, sizes: ArrayLike) -> Floats:
        """Total of `amounts` over total of `sizes` (both (rows,)), as a draw vector (draws,).

        Rows whose amount is NaN are ignored in both; a draw without size is NaN.
        """
        above, below = np.asarray(amounts, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
        known = np.isfinite(above)
        return quotient(self._total(above, known), self._total(below, known))

    def _total(self, values: Floats, known: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
        by_unit = np.bincount(self.unit[known], values[known], minlength=len(self.weights)).astype(np.float64)
        total: Floats = by_unit @ self.weights
        return total


def quotient(numerator: Floats, denominator: Floats) -> Floats:
    """Elementwise division; NaN if the denominator is not above 0."""
    found: Floats = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=found, where=np.broadcast_to(denominator > 0, found.shape))
    return found
