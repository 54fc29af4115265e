"""Baselines of multiple choice that read no question: chance, the usual position, the longest option, and n-grams.

They have the names of the baselines of classification, so that one row of a table holds both: `random`, `majority` (the
position that is most often right), `length` (the longest option) and `ngrams` (wording of right and wrong options). The
last finds right options by their style alone, as annotators write true and false statements differently: on ROC stories
style alone chose the right ending of .72 of the stories (Schwartz et al. 2017, arXiv 1702.01841).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import BASELINES, FLOOR, FREQUENT
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints

CHOICE_VERSION: Final = 1
"""Version; raise it when the same rows give different baselines, so that stored ones are recomputed."""


def choice_predictions(rows: pd.DataFrame, columns: Sequence[str], scorers: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Predictions of every baseline, in the columns of a run's predictions of the same suite.

    `rows` needs the columns suite, language, id, label, chars, options, fold (int), and `columns` with one option each.
    A row is predicted by what was fitted on the rows of its language in the other folds, or of all languages if it has
    no others. The scores are in all `scorers`; the prompt is "none". Raises `DataError` if all rows are in one fold.
    """
    if rows["fold"].nunique() < 2:
        raise DataError("the rows of a suite are all in one fold, so its baselines cannot be fitted; give it more rows")
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in BASELINES}
    every = rows.reset_index(drop=True)
    for _, part in every.groupby("language", sort=False):
        others = part if part["fold"].nunique() > 1 else every
        for name, scores in _fitted(others, part, columns).items():
            about = part[["suite", "language", "id", "label", "chars", "options"]]
            parts[name].append(about.assign(prompt="none", **{scorer: list(scores) for scorer in scorers}))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def _fitted(known: pd.DataFrame, part: pd.DataFrame, columns: Sequence[str]) -> dict[str, Floats]:
    """Baseline -> scores (rows, options) of one language's rows."""
    count = len(columns)
    found = {name: np.zeros((len(part), count)) for name in BASELINES}
    found["length"] = np.stack([np.log(part[c].str.len().to_numpy(np.float64)) for c in columns], axis=1)
    # counted once for all folds: counting takes longer than fitting
    texts = [text for row in known[list(columns)].to_numpy(object) for text in row]
    grams = CountVectorizer(analyzer="char_wb", ngram_range=(1, 4)).fit_transform(texts)
    gold, place = known["label"].to_numpy(np.int64), pd.Series(np.arange(len(known)), known.index)
    for fold in part["fold"].unique():
        inside = (part["fold"] == fold).to_numpy(bool)
        learned = np.flatnonzero((known["fold"] != fold).to_numpy(bool))
        asked = place[part.index[inside]].to_numpy()
        shares = np.bincount(gold[learned], minlength=count) / len(learned)
        found["majority"][inside] = np.log(np.maximum(shares, FLOOR))
        found["ngrams"][inside] = _wording(grams, gold, learned, asked, count)
    return found


def _wording(grams: csr_matrix, gold: Ints, learned: Ints, asked: Ints, count: int) -> Floats:
    """Log-odds (asked, options) of being right, by logistic regression on character n-grams (1 to 4, TF-IDF)."""
    of = (learned[:, None] * count + np.arange(count)).ravel()
    new = (asked[:, None] * count + np.arange(count)).ravel()
    right = (np.arange(count) == gold[learned][:, None]).ravel()
    frequent = np.sort(np.argsort(-np.asarray(grams[of].sum(axis=0)).ravel(), kind="stable")[:FREQUENT])
    weights = TfidfTransformer(sublinear_tf=True).fit(grams[of][:, frequent])
    model = LogisticRegression(C=10, max_iter=300, tol=1e-3).fit(weights.transform(grams[of][:, frequent]), right)
    odds: Floats = model.decision_function(weights.transform(grams[new][:, frequent])).reshape(len(asked), count)
    return odds
