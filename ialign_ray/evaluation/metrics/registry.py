"""Metrics: one declaration each, from which point values, intervals, tables and the verdict follow.

A metric is a function from a `Cell` to a draw vector; its point value is the first number, drawn with weights of one.
An installed package adds one to existing kinds of suites by an entry point of the group `ialign.metrics`, which is
imported and drawn only for suites that name it in `metric` or `also`:

    BREVITY = Metric("length ratio", lambda cell: cell.ratio(cell.rows["new_tokens"], cell.rows["tokens"]),
                     kinds=("translation",), higher_is_better=False)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics import classification, comet, probabilities
from ialign_ray.evaluation.metrics.bootstrap import Floats
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.plugins import Extensible

CLASSIFICATION: Final = "classification"
CHOICE: Final = "choice"
TRANSLATION: Final = "translation"
PERPLEXITY: Final = "perplexity"
RETRIEVAL: Final = "retrieval"
INSTRUCTIONS: Final = "instructions"
LM_EVAL: Final = "lm_eval"
MEASURED: Final = "measured:"
"""Beginning of the columns with a row's metrics by lm-evaluation-harness."""
GENERATION: Final = "generation"
FOLLOWING: Final = "following"

Draws = Floats | Mapping[str, Floats] | None
"""A draw vector (draws,); several by the suffix of their names (`share` of label 0 is `share_0`); or None if a cell has
nothing to measure."""


@dataclass(frozen=True)
class Metric:
    """One metric of a suite's predictions."""

    title: str
    """Header of its column in tables."""
    draws: Callable[[Cell], Draws]
    """Its value in every resample; raises `DataError` for rows that it cannot measure."""
    kinds: tuple[str, ...]
    """Kinds of suites that it measures."""
    higher_is_better: bool = True
    """True if higher is better."""
    words: str = ""
    """The metric in sentences, if not its title; one for which lower is better is phrased as the amount saved."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """Smallest and largest possible value, to which intervals are clipped."""
    named: bool = False
    """True if it is drawn only for suites that name it in `metric` or `also`, as those of installed packages are."""
    ready: Callable[[], None] | None = None
    """Called before anything is scored; raises `ConfigError` if the metric cannot be computed here."""


def _bits_per_byte(cell: Cell) -> Floats:
    bits: Floats = cell.ratio(cell.shared(_nats), cell.rows["bytes"]) / np.log(2)
    return bits


def _source_use(cell: Cell) -> Floats | None:
    """Bits per byte that the right source saves compared with another sentence's; 0 if the source is ignored."""
    if "mismatched_nats" not in cell.rows.columns:
        return None
    saved = cell.rows["mismatched_nats"].to_numpy(np.float64) - cell.shared(_nats)
    bits: Floats = cell.ratio(saved, cell.rows["bytes"]) / np.log(2)
    return bits


def _nats_per_token(cell: Cell) -> Floats:
    return cell.ratio(cell.shared(_nats), cell.rows["tokens"])


def _perplexity(cell: Cell) -> Floats:
    """Comparable only between models with the same tokenizer."""
    found: Floats = np.exp(_nats_per_token(cell))
    return found


def _nats(cell: Cell) -> Floats:
    nats = cell.rows["nats"].to_numpy(np.float64)
    if not np.isfinite(nats).all():
        bad = cell.rows["id"][~np.isfinite(nats)].iloc[0]
        raise DataError(f"predictions of {cell.rows['suite'].iloc[0]}: nats of id '{bad}' is NaN or infinite")
    return nats


def _generated(name: str) -> Callable[[Cell], Floats | None]:
    """A metric of generated text, absent if no text was generated."""
    return lambda cell: cell.shared(_generation).get(name)


def _generation(cell: Cell) -> Mapping[str, Floats]:
    if "hypothesis" not in cell.rows.columns:
        return {}
    # sacrebleu: only if text was generated
    from ialign_ray.evaluation.metrics.checks import check_draws
    from ialign_ray.evaluation.metrics.generation import answer_draws
    from ialign_ray.evaluation.metrics.translation import generation_draws

    if "checks" in cell.rows.columns:
        return check_draws(cell)
    return answer_draws(cell) if "references" in cell.rows.columns else generation_draws(cell)


def _chance(cell: Cell) -> Floats:
    return cell.mean(1 / cell.rows["options"])


def _order_changed(cell: Cell) -> Floats | None:
    """Absent if options were listed in one order."""
    changed = cell.rows["order_changed"] if "order_changed" in cell.rows.columns else None
    return None if changed is None or changed.isna().all() else cell.mean(changed)


def _vote_f1(cell: Cell) -> Floats | None:
    """Weighted F1 of the label that most exemplars of a row have, tied labels sharing it, without any model."""
    if "votes" not in cell.rows.columns or cell.rows["votes"].isna().any():
        return None
    votes = Cell(cell.rows, cell.unit, cell.weights, "votes")
    return classification.f1_weighted(votes)


def _nearest_share(cell: Cell) -> Floats | None:
    """Share of predictions that are the label of the nearest exemplar."""
    if "nearest_label" not in cell.rows.columns or cell.rows["nearest_label"].isna().any():
        return None
    shares = classification.predict(cell.shared(classification.scores))
    nearest = cell.rows["nearest_label"].to_numpy(np.int64)
    return cell.mean(shares[np.arange(len(nearest)), nearest])


def _by_harness(cell: Cell) -> Mapping[str, Floats]:
    columns = [name for name in cell.rows.columns if str(name).startswith(MEASURED) and cell.rows[name].notna().any()]
    return {name.removeprefix(MEASURED): cell.mean(cell.rows[name]) for name in columns}


def _found(column: str) -> Callable[[Cell], Floats]:
    return lambda cell: cell.mean(cell.rows[column] == 0)


def neural(checkpoint: str, title: str, kinds: tuple[str, ...]) -> Metric:
    """Metric of a COMET checkpoint, which suites have to name; models of this kind score about 0 to 1."""
    return Metric(title, partial(comet.comet_draws, checkpoint), kinds, named=True, ready=comet.check_installed)


_LABELS, _TEXTS, _PAIRS, _ANSWERS = (CLASSIFICATION,), (TRANSLATION,), (RETRIEVAL,), (GENERATION,)
_GENERATED = (TRANSLATION, GENERATION)
_WRITTEN = (*_GENERATED, FOLLOWING)
_RIGHT = (CLASSIFICATION, CHOICE)
_SHARE, _POSITIVE, _HUNDRED = (0.0, 1.0), (0.0, np.inf), (0.0, 100.0)
METRICS: Final = Extensible(
    "ialign.metrics",
    Metric,
    {
        "f1_weighted": Metric("F1", classification.f1_weighted, _LABELS, words="weighted F1", limits=_SHARE),
        "f1_macro": Metric("macro F1", classification.f1_macro, _LABELS, words="macro F1", limits=_SHARE),
        "accuracy": Metric("accuracy", classification.accuracy, _RIGHT, limits=_SHARE),
        "auc": Metric("AUC", classification.auc, _LABELS, words="AUC", limits=_SHARE),
        "auc_length_fixed": Metric(
            "AUC, length fixed", classification.auc_length_fixed, _LABELS, words="AUC at fixed length", limits=_SHARE
        ),
        "share": Metric("share of predictions", classification.shares, _RIGHT, limits=_SHARE),
        "vote_f1": Metric("F1 of the exemplars' vote", _vote_f1, _LABELS, limits=_SHARE),
        "nearest_share": Metric("as the nearest exemplar", _nearest_share, _LABELS, limits=_SHARE),
        "calibration_error": Metric(
            "calibration error", probabilities.calibration_error, _RIGHT, higher_is_better=False, limits=_SHARE
        ),
        "chance": Metric("chance", _chance, (CHOICE,), limits=_SHARE),
        "order_changed": Metric(
            "changed by order",
            _order_changed,
            (CHOICE,),
            higher_is_better=False,
            words="share of answers that the order of options changes",
            limits=_SHARE,
        ),
        "auc_ovr": Metric("AUC, one against the rest", probabilities.auc_ovr, _LABELS, limits=_SHARE),
        "auc_ovr_length_fixed": Metric(
            "AUC, one against the rest, length fixed", probabilities.auc_ovr_length_fixed, _LABELS, limits=_SHARE
        ),
        "bits_per_byte": Metric(
            "bits/byte",
            _bits_per_byte,
            (TRANSLATION, PERPLEXITY),
            higher_is_better=False,
            words="bits per byte saved",
            limits=_POSITIVE,
        ),
        "source_use": Metric("source use", _source_use, _TEXTS),
        "perplexity": Metric("perplexity", _perplexity, (PERPLEXITY,), higher_is_better=False, limits=_POSITIVE),
        "nats_per_token": Metric(
            "nats/token",
            _nats_per_token,
            (INSTRUCTIONS,),
            higher_is_better=False,
            words="nats per token saved",
            limits=_POSITIVE,
        ),
        "chrf": Metric("chrF++", _generated("chrf"), _GENERATED, limits=_HUNDRED),
        "chrf_copy": Metric("chrF++ of the source", _generated("chrf_copy"), _GENERATED, limits=_HUNDRED),
        "bleu": Metric("BLEU", _generated("bleu"), _TEXTS, limits=_HUNDRED),
        "bleu_copy": Metric("BLEU of the source", _generated("bleu_copy"), _TEXTS, limits=_HUNDRED),
        "spbleu": Metric("spBLEU", _generated("spbleu"), _TEXTS, limits=_HUNDRED),
        "spbleu_copy": Metric("spBLEU of the source", _generated("spbleu_copy"), _TEXTS, limits=_HUNDRED),
        "chrf_over_copy": Metric("chrF++ above copying", _generated("chrf_over_copy"), _GENERATED),
        "copied": Metric("copies", _generated("copied"), _GENERATED, higher_is_better=False, limits=_SHARE),
        "empty": Metric("empty", _generated("empty"), _WRITTEN, higher_is_better=False, limits=_SHARE),
        "cut": Metric("too long", _generated("cut"), _WRITTEN, higher_is_better=False, limits=_SHARE),
        "off_target": Metric(
            "in another language", _generated("off_target"), _GENERATED, higher_is_better=False, limits=_SHARE
        ),
        "off_target_reference": Metric(
            "references in another language", _generated("off_target_reference"), _GENERATED, limits=_SHARE
        ),
        "rouge_l": Metric("ROUGE-L", _generated("rouge_l"), _ANSWERS, limits=_SHARE),
        "rouge_l_copy": Metric("ROUGE-L of the input", _generated("rouge_l_copy"), _ANSWERS, limits=_SHARE),
        "exact_match": Metric("exact match", _generated("exact_match"), _ANSWERS, limits=_SHARE),
        "valid": Metric("valid answers", _generated("valid"), _ANSWERS, limits=_SHARE),
        "followed": Metric(
            "followed", _generated("followed"), (FOLLOWING,), words="share of prompts followed", limits=_SHARE
        ),
        "checks_met": Metric(
            "checks met", _generated("checks_met"), (FOLLOWING,), words="share of checks met", limits=_SHARE
        ),
        "comet": neural(comet.COMET, "COMET", _GENERATED),
        "africomet": neural(comet.AFRICOMET, "AfriCOMET", _GENERATED),
        "retrieval_accuracy": Metric("retrieval", _found("rank"), _PAIRS, limits=_SHARE),
        "retrieval_mrr": Metric(
            "mean reciprocal rank", lambda cell: cell.mean(1 / (1 + cell.rows["rank"])), _PAIRS, limits=_SHARE
        ),
        "retrieval_chance": Metric(
            "chance", lambda cell: cell.mean(1 / cell.rows["candidates"]), _PAIRS, limits=_SHARE
        ),
        "retrieval_surface": Metric("spelling alone", _found("surface_rank"), _PAIRS, limits=_SHARE),
        "retrieval_over_surface": Metric(
            "above spelling", lambda cell: _found("rank")(cell) - _found("surface_rank")(cell), _PAIRS
        ),
        "lm_eval_score": Metric(
            "score", lambda cell: cell.mean(cell.rows["score"]), (LM_EVAL,), words="score", limits=_SHARE
        ),
        "lm_eval_chance": Metric("chance", lambda cell: cell.mean(cell.rows["chance"]), (LM_EVAL,), limits=_SHARE),
        "lm_eval": Metric("score by metric", _by_harness, (LM_EVAL,)),
    },
)
"""Every metric by its name in results."""


def draw_metrics(cell: Cell, kind: str, also: Collection[str] = ()) -> dict[str, Floats]:
    """Draw vectors (draws,) by name, for every built-in metric of a kind of suite, and those that `also` names.

    A metric of an installed package that fails is reported once, as a warning, and skipped.
    """
    drawn: dict[str, Floats] = {}
    usual = [name for name, metric in METRICS.builtin.items() if kind in metric.kinds and not metric.named]
    for name in dict.fromkeys([*usual, *also]):
        metric = METRICS.get(name)
        if metric is None:  # a plug-in that cannot be imported has been reported
            continue
        if name in METRICS.builtin:
            drawn |= _named(name, metric.draws(cell))
            continue
        try:
            found = _named(name, metric.draws(cell))
            for one in found.values():
                if np.shape(one) != (cell.weights.shape[1],):
                    raise DataError(f"it returned an array of shape {np.shape(one)}, not {(cell.weights.shape[1],)}")
            drawn |= found
        except Exception as error:  # third-party code may raise anything, and must not crash ours
            _warn(f"plug-in metric {name!r} fails on suites of kind {kind!r}: {type(error).__name__}: {error}")
    return drawn


def _named(name: str, draws: Draws) -> dict[str, Floats]:
    if isinstance(draws, Mapping):
        return {f"{name}_{suffix}": found for suffix, found in draws.items()}
    return {} if draws is None else {name: draws}


@lru_cache(maxsize=256)
def _warn(message: str) -> None:
    logging.getLogger(__name__).warning("%s; it is left out", message)


def lower_is_better(metric: str) -> bool:
    """Return True if lower is better for a metric of the results."""
    found = METRICS.get(metric)
    return found is not None and not found.higher_is_better


def limits_of(metric: str) -> tuple[float, float]:
    """Smallest and largest value that a metric of the results can have."""
    found = METRICS.get(metric) or METRICS.get(metric.rpartition("_")[0])
    return found.limits if found else (-np.inf, np.inf)


def in_words(metric: str) -> str:
    """The name of a metric of the results in sentences."""
    found = METRICS.get(metric)
    return (found and found.words) or metric
