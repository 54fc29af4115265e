"""Kinds of suites: which columns their predictions hold, how a cell of rows is drawn, and what is shown of them.

A new kind is one `Kind` in `KINDS`; measuring, comparing, the verdict and the report read nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import classification_draws, likelihood_draws
from ialign_ray.evaluation.metrics.classification import (
    SCORERS,
    Floats,
    Ints,
    gold_labels,
    predict,
    score_matrix,
)
from ialign_ray.evaluation.metrics.columns import (
    CLASSIFICATION,
    INSTRUCTIONS,
    PERPLEXITY,
    RETRIEVAL,
    TRANSLATION,
)
from ialign_ray.evaluation.metrics.probabilities import probability_draws
from ialign_ray.evaluation.metrics.retrieval import retrieval_draws

__all__ = ["CLASSIFICATION", "INSTRUCTIONS", "KINDS", "LIKELIHOOD", "PERPLEXITY", "RETRIEVAL", "TRANSLATION", "Kind"]

NEAREST: Final = "nearest"  # stands in the scorer column of retrieval
LIKELIHOOD: Final = "likelihood"  # stands in the scorer column of kinds that score one text, not labels

Drawn = dict[tuple[str, str], Floats]
"""(scorer, metric) -> draw vector."""
Draw = Callable[[pd.DataFrame, Ints, Floats], Drawn]
"""Of one cell (suite, prompt, language): its rows, the index of each row's sentence id (rows,), and the weights
(ids, draws) of `statistics.resample_weights`. Raises `DataError` for rows that cannot be drawn."""
Rows = Callable[[pd.DataFrame, str], Floats]
"""Of predictions and the experiment's scorer, one number a row."""


@dataclass(frozen=True)
class Kind:
    """One kind of suite."""

    columns: tuple[str, ...]
    """That its predictions must hold beside suite, language and id; cells are by `prompt` where there is one."""
    draw: Draw
    shown: tuple[tuple[str, str], ...]
    """(metric, title) of what tables show; the first is the one that gain and forgetting are judged by."""
    scorer: str | None = LIKELIHOOD
    """What its records hold as scorer; None where labels are scored: then the experiment chooses one."""
    right: Rows | None = None
    """Whether each answer is right (rows,): 1, 0, or a share where labels tie. None where nothing is right or wrong."""
    cost: Rows | None = None
    """What each row costs (rows,), lower is better: finds the examples on which a run got worst."""
    cost_name: str = "nats"
    """What `cost` is, for the reader."""
    old: Literal["score", "loss"] | None = None
    """Which tolerance its change on old work is judged by, if it is."""
    by_source: bool = False
    """Its `language` is a source of old instructions, grouped by `group_key` where it has one."""

    @property
    def metric(self) -> str:
        """The metric that it is judged by."""
        return self.shown[0][0]

    def scored(self, scorer: str) -> str:
        """What stands in the scorer column, `scorer` being the experiment's choice."""
        return self.scorer or scorer


def draw_classification(rows: pd.DataFrame, unit: Ints, weights: Floats) -> Drawn:
    """F1, accuracy, AUC, calibration error and label shares for each column of label scores."""
    where = "/".join(str(rows[column].iloc[0]) for column in ("suite", "prompt", "language"))
    scorers = [name for name in SCORERS if name in rows.columns and rows[name].notna().any()]
    if not scorers:
        raise DataError(f"predictions of {where}: no column of scores; give one of {', '.join(SCORERS)}")
    drawn: Drawn = {}
    known: list[tuple[Floats, dict[str, Floats]]] = []  # scorers agree on baselines, and on labels of one token
    for scorer in scorers:
        scores = score_matrix(rows[scorer], f"{where}, scorer '{scorer}'")
        metrics = next((found for of, found in known if np.array_equal(of, scores)), None)
        if metrics is None:
            gold = gold_labels(rows["label"], scores.shape[1], len(scores))
            cell = (weights, unit, gold, scores, rows["chars"].to_numpy())
            metrics = classification_draws(*cell) | probability_draws(*cell)
            known.append((scores, metrics))
        drawn |= {(scorer, metric): draws for metric, draws in metrics.items()}
    return drawn


def right_label(rows: pd.DataFrame, scorer: str) -> Floats:
    """Share of the prediction that the right label gets (rows,)."""
    shares = predict(score_matrix(rows[scorer]))
    right: Floats = shares[np.arange(len(rows)), rows["label"].to_numpy(np.int64)]
    return right


def label_cost(rows: pd.DataFrame, scorer: str) -> Floats:
    """Nats of the right label among the labels (rows,): 0 is certainty."""
    logs = log_softmax(score_matrix(rows[scorer]), axis=1)
    cost: Floats = -logs[np.arange(len(rows)), rows["label"].to_numpy(np.int64)]
    return cost


def text_cost(rows: pd.DataFrame, scorer: str) -> Floats:
    """Nats of the target (rows,)."""
    return rows["nats"].to_numpy(np.float64)


def draw_translation(rows: pd.DataFrame, unit: Ints, weights: Floats) -> Drawn:
    """Bits per byte of the target, what the right source saves of them, and scores of what was generated."""
    nats, sizes = _finite_nats(rows), rows["bytes"].to_numpy(np.float64)
    drawn = {(LIKELIHOOD, "bits_per_byte"): likelihood_draws(weights, unit, nats, sizes) / np.log(2)}
    if "mismatched_nats" in rows.columns:
        wrong = rows["mismatched_nats"].to_numpy(np.float64)
        drawn[LIKELIHOOD, "source_use"] = likelihood_draws(weights, unit, nats, sizes, wrong) / np.log(2)
    if "hypothesis" in rows.columns:
        from ialign_ray.evaluation.metrics.translation import (
            generation_draws,  # sacrebleu: only where text was made
        )

        source, reference, hypothesis = (rows[name].tolist() for name in ("source", "reference", "hypothesis"))
        target = str(rows["language"].iloc[0]).rpartition("-")[2]
        made = generation_draws(weights, unit, source, reference, hypothesis, target, rows["cut"].tolist())
        drawn |= {(LIKELIHOOD, metric): draws for metric, draws in made.items()}
    return drawn


def draw_perplexity(rows: pd.DataFrame, unit: Ints, weights: Floats) -> Drawn:
    """Bits per byte of the text, and its perplexity, which compares models of one tokenizer only."""
    nats, sizes, tokens = _finite_nats(rows), rows["bytes"].to_numpy(np.float64), rows["tokens"].to_numpy(np.float64)
    return {
        (LIKELIHOOD, "bits_per_byte"): likelihood_draws(weights, unit, nats, sizes) / np.log(2),
        (LIKELIHOOD, "perplexity"): np.exp(likelihood_draws(weights, unit, nats, tokens)),
    }


def draw_retrieval(rows: pd.DataFrame, unit: Ints, weights: Floats) -> Drawn:
    """Share of sentences whose translation is the nearest, beside chance and spelling alone."""
    columns = (rows[name].to_numpy() for name in ("rank", "surface_rank", "candidates"))
    return {(NEAREST, metric): draws for metric, draws in retrieval_draws(weights, unit, *columns).items()}


def found(rows: pd.DataFrame, scorer: str) -> Floats:
    """Whether the translation was the nearest (rows,): 1 or 0."""
    right: Floats = np.asarray(rows["rank"] == 0, dtype=np.float64)
    return right


def draw_instructions(rows: pd.DataFrame, unit: Ints, weights: Floats) -> Drawn:
    """Nats per token of the answer."""
    tokens = rows["tokens"].to_numpy(np.float64)
    return {(LIKELIHOOD, "nats_per_token"): likelihood_draws(weights, unit, _finite_nats(rows), tokens)}


def kind_of(suite: str, rows: pd.DataFrame, given: Mapping[str, str] | None) -> str:
    """Kind of a suite: as given, else by the columns and the shape of `language` ("eng-jav")."""
    if given and suite in given:
        return given[suite]
    if "label" in rows.columns:
        return CLASSIFICATION
    directions = rows["language"].astype(str).str.fullmatch(r"[a-z]{2,3}-[a-z]{2,3}")
    return TRANSLATION if directions.all() else INSTRUCTIONS


def _finite_nats(rows: pd.DataFrame) -> Floats:
    nats = rows["nats"].to_numpy(np.float64)
    if not np.isfinite(nats).all():
        bad = rows["id"][~np.isfinite(nats)].iloc[0]
        raise DataError(f"predictions of {rows['suite'].iloc[0]}: nats of id '{bad}' is NaN or infinite")
    return nats


_TEXT: Final = ("nats", "tokens", "bytes")
KINDS: Final[dict[str, Kind]] = {
    CLASSIFICATION: Kind(
        ("prompt", "label", "chars"),
        draw_classification,
        (("f1_weighted", "F1"), ("auc_length_fixed", "AUC, length fixed")),
        scorer=None,
        right=right_label,
        cost=label_cost,
        cost_name="nats of the right label",
        old="score",
    ),
    TRANSLATION: Kind(
        _TEXT,
        draw_translation,
        (
            ("bits_per_byte", "bits/byte"),
            ("source_use", "source use"),
            ("chrf", "chrF++"),
            ("chrf_over_copy", "chrF++ above copying"),
            ("bleu", "BLEU"),
        ),
        cost=text_cost,
        cost_name="nats of the translation",
    ),
    PERPLEXITY: Kind(
        _TEXT,
        draw_perplexity,
        (("bits_per_byte", "bits/byte"), ("perplexity", "perplexity")),
        cost=text_cost,
        cost_name="nats of the text",
    ),
    RETRIEVAL: Kind(
        ("rank", "surface_rank", "candidates"),
        draw_retrieval,
        (
            ("retrieval_accuracy", "retrieval"),
            ("retrieval_over_surface", "above spelling"),
            ("retrieval_chance", "chance"),
        ),
        scorer=NEAREST,
        right=found,
    ),
    INSTRUCTIONS: Kind(
        _TEXT,
        draw_instructions,
        (("nats_per_token", "nats/token"),),
        cost=text_cost,
        cost_name="nats of the answer",
        old="loss",
        by_source=True,
    ),
}
"""Every kind of suite by its name in the experiment file."""

NAMES: Final[Mapping[str, str]] = {
    "f1_weighted": "weighted F1",
    "f1_macro": "macro F1",
    "auc": "AUC",
    "auc_length_fixed": "AUC at fixed length",
    "bits_per_byte": "bits per byte saved",
    "nats_per_token": "nats per token saved",
}
"""Metrics in words, where their name is not the word; falling ones are told as what was saved."""
