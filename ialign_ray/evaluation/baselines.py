"""Baselines that never read the text: a uniform guess, the majority label, and text length alone.

All are fitted on *training* labels and written in the form of a run's predictions, so that they go through
the same metrics and intervals. Length matters: on NusaX positive texts are longer, and a tree that sees
only the character count reaches a weighted F1 of .44-.55.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd
from sklearn.tree import DecisionTreeClassifier

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics import SCORERS, Floats, Ints, gold_labels

BASELINES: Final = ("random", "majority", "length")
_FLOOR: Final = 1e-6  # a label unseen in training is improbable, not impossible: scores stay finite


def random_scores(train_labels: Ints, train_chars: Floats, test_chars: Floats, labels: int) -> Floats:
    """Equal scores (rows, labels): metrics share ties equally, so this is the expected uniform guess."""
    return np.zeros((len(test_chars), labels))


def majority_scores(train_labels: Ints, train_chars: Floats, test_chars: Floats, labels: int) -> Floats:
    """Log shares of the training labels (rows, labels): every row gets the most frequent label."""
    shares = np.bincount(train_labels, minlength=labels) / len(train_labels)
    return np.tile(np.log(np.maximum(shares, _FLOOR)), (len(test_chars), 1))


def length_scores(train_labels: Ints, train_chars: Floats, test_chars: Floats, labels: int) -> Floats:
    """Log-probabilities (rows, labels) of a depth-2 decision tree on the number of characters."""
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    tree.fit(train_chars[:, None], train_labels)
    scores = np.full((len(test_chars), labels), np.log(_FLOOR))
    scores[:, tree.classes_] = np.log(np.maximum(tree.predict_proba(test_chars[:, None]), _FLOOR))
    return scores


_SCORES: Final[Mapping[str, Callable[[Ints, Floats, Floats, int], Floats]]] = {
    "random": random_scores,
    "majority": majority_scores,
    "length": length_scores,
}


def baseline_predictions(train: pd.DataFrame, test: pd.DataFrame, labels: Mapping[str, int]) -> dict[str, pd.DataFrame]:
    """Predictions of every baseline, in the columns of a run's classification predictions.

    `train` needs the columns suite, language, label, chars; `test` suite, language, id, label, chars (a
    run's predictions will do: its prompts are dropped); `labels` gives each suite's number of labels.
    Fitted for each language on its own training rows, or on those of all languages of the suite where it
    has none. The scores stand in all three scorer columns, so that any scorer's table can show them; the
    prompt is "none". Test labels are copied, never fitted on. Raises `DataError` for a missing column, a
    suite without training labels or without a number of labels.
    """
    _require(train, ("suite", "language", "label", "chars"), "training labels")
    _require(test, ("suite", "language", "id", "label", "chars"), "test rows")
    rows = test[["suite", "language", "id", "label", "chars"]].drop_duplicates(["suite", "language", "id"])
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in BASELINES}
    for (suite, language), part in rows.groupby(["suite", "language"], sort=False):
        if suite not in labels:
            raise DataError(f"labels: suite '{suite}' has no number of labels; give one")
        known = _training_rows(train, str(suite), str(language))
        gold = gold_labels(known["label"].to_numpy(), labels[str(suite)], len(known))
        lengths = (known["chars"].to_numpy(np.float64), part["chars"].to_numpy(np.float64))
        for name in BASELINES:
            scores = _SCORES[name](gold, *lengths, labels[str(suite)])
            columns = {scorer: list(scores) for scorer in SCORERS}
            parts[name].append(part.assign(prompt="none", **columns))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items() if frames}


def _training_rows(train: pd.DataFrame, suite: str, language: str) -> pd.DataFrame:
    of_suite = train[train["suite"] == suite]
    if of_suite.empty:
        raise DataError(f"training labels: suite '{suite}' has none, so its baselines cannot be fitted")
    own = of_suite[of_suite["language"] == language]
    return of_suite if own.empty else own


def _require(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{what}: column '{missing[0]}' is missing; give {', '.join(columns)}")
