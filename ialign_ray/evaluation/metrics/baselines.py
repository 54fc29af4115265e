"""Baselines without language understanding: a uniform guess, the majority label, text length, and character n-grams.

All are fitted on *training* labels and have the form of a run's predictions, so that they get the same metrics and
intervals. Length matters: on NusaX positive texts are longer, and a tree that sees only the character count reaches a
weighted F1 of .44-.55. Character n-grams learn the wording of a data set: their score needs no knowledge of the
language and, on pairs of texts, no comparison of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints
from ialign_ray.evaluation.metrics.classification import SCORERS, gold_labels

BASELINES: Final = ("random", "majority", "length", "ngrams")
FLOOR: Final = 1e-6  # a label unseen in training is improbable, not impossible: scores stay finite


VERSION: Final = 2
"""Version; raise it when the same rows give different baselines, so that stored ones are recomputed."""


@dataclass(frozen=True)
class Surface:
    """Features of rows that baselines use."""

    chars: Floats
    """Characters of each row (rows,)."""
    grams: tuple[csr_matrix, ...]
    """Counts of character n-grams (rows, n-grams), a matrix for each text of a row."""

    def of(self, chosen: Any) -> Surface:
        """Rows by a mask or by their numbers."""
        return Surface(self.chars[chosen], tuple(grams[chosen] for grams in self.grams))


def random_scores(gold: Ints, learned: Surface, asked: Surface, labels: int) -> Floats:
    """Equal scores (rows, labels): metrics split ties equally, so this is the expected uniform guess."""
    return np.zeros((len(asked.chars), labels))


def majority_scores(gold: Ints, learned: Surface, asked: Surface, labels: int) -> Floats:
    """Log shares of the training labels (rows, labels): every row gets the most frequent label."""
    shares = np.bincount(gold, minlength=labels) / len(gold)
    return np.tile(np.log(np.maximum(shares, FLOOR)), (len(asked.chars), 1))


def length_scores(gold: Ints, learned: Surface, asked: Surface, labels: int) -> Floats:
    """Log-probabilities (rows, labels) of a depth-2 decision tree on the number of characters."""
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    tree.fit(learned.chars[:, None], gold)
    return _logs(tree.predict_proba(asked.chars[:, None]), tree.classes_, labels)


def ngram_scores(gold: Ints, learned: Surface, asked: Surface, labels: int) -> Floats:
    """Log-probabilities (rows, labels) of logistic regression on character n-grams (1 to 4, TF-IDF).

    Each text of a row has separate n-grams: the model can distinguish premise and hypothesis, but has no joint n-gram.
    Falls back to the majority label if the training rows have one label or no text.
    """
    if len(np.unique(gold)) < 2:
        return majority_scores(gold, learned, asked, labels)
    sides = []
    for known, new in zip(learned.grams, asked.grams, strict=True):
        # the 5,000 most frequent score as all do within .005 F1 (NusaX, NusaParagraph, XNLI), in half the time
        frequent = np.sort(np.argsort(-np.asarray(known.sum(axis=0)).ravel(), kind="stable")[:FREQUENT])
        weights = TfidfTransformer(sublinear_tf=True).fit(known[:, frequent])
        sides.append([weights.transform(counts[:, frequent]) for counts in (known, new)])
    model = LogisticRegression(C=10, max_iter=300, tol=1e-3)
    model.fit(hstack([side[0] for side in sides]).tocsr(), gold)
    return _logs(model.predict_proba(hstack([side[1] for side in sides]).tocsr()), model.classes_, labels)


_SCORES: Final[Mapping[str, Callable[[Ints, Surface, Surface, int], Floats]]] = {
    "random": random_scores,
    "majority": majority_scores,
    "length": length_scores,
    "ngrams": ngram_scores,
}
FREQUENT: Final = 5_000
"""Number of n-grams, the most frequent ones, that baselines learn from."""


def baseline_predictions(train: pd.DataFrame, test: pd.DataFrame, labels: Mapping[str, int]) -> dict[str, pd.DataFrame]:
    """Predictions of every baseline, in the columns of a run's classification predictions.

    `train` needs the columns suite, language, label, chars; `test` suite, language, id, label, chars (a run's
    predictions are accepted: its prompts are dropped); `labels` gives each suite's number of labels. `ngrams` is added
    if both have texts (`text`, or `text:SLOT` for each text of a row). Fitted for each language on its training rows,
    or on those of all languages of the suite if it has no training rows. If `train` has a `fold`, a test row is
    predicted by what was fitted on the rows of the other folds. The scores are in all scorer columns, so that any
    scorer's table can show them; the prompt is "none". Test labels are copied, never fitted on. Raises `DataError` for
    a missing column, a suite without training labels or without a number of labels.
    """
    _require(train, ("suite", "language", "label", "chars"), "training labels")
    _require(test, ("suite", "language", "id", "label", "chars"), "test rows")
    rows = test.drop_duplicates(["suite", "language", "id"])
    made = BASELINES if text_columns(train) and text_columns(train) == text_columns(test) else BASELINES[:-1]
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in made}
    for (suite, language), part in rows.groupby(["suite", "language"], sort=False):
        if suite not in labels:
            raise DataError(f"labels: suite '{suite}' has no number of labels; give one")
        known = train[train["suite"] == suite]
        if known.empty:
            raise DataError(f"training labels: suite '{suite}' has no training rows, so its baselines cannot be fitted")
        for name, scores in _fitted(made, known, part, str(language), labels[str(suite)]).items():
            columns = {scorer: list(scores) for scorer in SCORERS}
            parts[name].append(part[["suite", "language", "id", "label", "chars"]].assign(prompt="none", **columns))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items() if frames}


def text_columns(rows: pd.DataFrame) -> list[str]:
    """Columns with the texts of classification rows."""
    return [column for column in rows.columns if column == "text" or str(column).startswith("text:")]


def _fitted(
    names: Sequence[str], known: pd.DataFrame, part: pd.DataFrame, language: str, labels: int
) -> dict[str, Floats]:
    """Scores of one language's test rows by each baseline, fold by fold if there are folds."""
    crossed = "fold" in known.columns and bool(known["fold"].notna().any())
    folds = part["fold"].unique() if crossed else [None]
    learned = {fold: _training_rows(known[known["fold"] != fold] if crossed else known, language) for fold in folds}
    # folds share training rows; each is counted once
    rows = pd.concat([*learned.values()]).loc[lambda frame: ~frame.index.duplicated()]
    surface = _surface(pd.concat([rows, part]), "ngrams" in names)
    place, asked = pd.Series(np.arange(len(rows)), rows.index), surface.of(np.arange(len(rows), len(rows) + len(part)))
    found = {name: np.zeros((len(part), labels)) for name in names}
    for fold, chosen in learned.items():
        inside = (part["fold"] == fold).to_numpy(bool) if crossed else np.ones(len(part), bool)
        gold = gold_labels(chosen["label"].to_numpy(), labels, len(chosen))
        for name, scores in found.items():
            scores[inside] = _SCORES[name](gold, surface.of(place[chosen.index].to_numpy()), asked.of(inside), labels)
    return found


def _surface(rows: pd.DataFrame, grams: bool) -> Surface:
    """Features of texts, with n-grams counted once for all folds: counting takes longer than fitting."""
    counter = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4))
    counts = [counter.fit_transform(rows[column]) for column in (text_columns(rows) if grams else [])]
    return Surface(rows["chars"].to_numpy(np.float64), tuple(counts))


def _training_rows(known: pd.DataFrame, language: str) -> pd.DataFrame:
    own = known[known["language"] == language]
    chosen = known if own.empty else own
    if chosen.empty:
        raise DataError(
            "training labels: the rows of a suite without training rows are all in one fold; give it more rows"
        )
    return chosen


def _logs(probabilities: Floats, classes: Ints, labels: int) -> Floats:
    scores = np.full((len(probabilities), labels), np.log(FLOOR))
    scores[:, classes] = np.log(np.maximum(probabilities, FLOOR))
    return scores


def _require(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{what}: column '{missing[0]}' is missing; give {', '.join(columns)}")
