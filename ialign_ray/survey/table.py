"""The survey as one table: a row per language, each number with its 95 % interval and its units."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from ialign_ray.evaluation.metrics.bootstrap import Floats, Interval, interval, resample_weights
from ialign_ray.evaluation.metrics.retrieval import ranks
from ialign_ray.survey.advice import NOT_ADVISED, PIVOT, advise
from ialign_ray.survey.measure import SurveyWork
from ialign_ray.survey.texts import FEWEST

_LONGEST_WORD: Final = 25
"""Mean characters of a word from which white space does not separate words."""
NUMBERS: Final = (
    "bits_per_byte", "parity", "tokens_per_word", "tokens_per_character", "tokens_per_byte", "premium", "broken",
    "unknown", "retrieval", "surface",
)  # fmt: skip
"""Columns of numbers; the interval of each is in `_low` and `_high`."""


def survey_table(work: SurveyWork) -> pd.DataFrame:
    """Table of the stored measures, the pivot first; NaN where a number is not defined or has fewer than 5 units.

    code, name, script (of the texts), units (aligned with the pivot), read (of these, by the model), and:

    - bits_per_byte: of the texts that were read, each given the start token alone.
    - parity: bits of the pivot's texts / bits of their translations (Tsvetkov and Kipnis 2024, "Information Parity",
      findings of EMNLP): independent of script and bytes; 1 is as well known as the pivot.
    - tokens_per_word (where words are separated by spaces), tokens_per_character, tokens_per_byte.
    - premium: tokens / tokens of the pivot's translations (Petrov et al. 2023, arXiv 2305.15425).
    - broken, unknown: share of tokens that are part of a character, and that are unknown.
    - retrieval: accuracy of the nearest pivot unit among those read, by mean hidden states minus each language's
      mean; chance: 1 / read; surface: accuracy by character n-grams of the texts.
    - known, advice: see `advice`.

    Ratios are of sums, with a bootstrap over units, of their logarithm unless they are shares; accuracies have Wilson's
    interval.
    """
    texts = work.texts
    pivot = work.stored(texts.pivot).set_index("unit")
    rows: list[dict[str, Any]] = []
    for code in texts.units:
        own = work.stored(code).set_index("unit")
        read = own[own["nats"].notna()]
        row: dict[str, Any] = {"code": code, "name": texts.names.get(code, code), "script": texts.scripts.get(code, "")}
        row |= {"units": len(own), "read": len(read)}
        numbers = _ratios(own, read, pivot)
        if code != texts.pivot:
            numbers |= _retrieval(read, pivot)
        for name in NUMBERS:
            found = numbers.get(name, _NOTHING)
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        row["chance"] = 1 / len(read) if len(read) >= FEWEST else math.nan
        given = advise(row["parity"], row["broken"] + row["unknown"]) if len(own) >= FEWEST else NOT_ADVISED
        given = PIVOT if code == texts.pivot else given
        rows.append(row | {"known": given.kind, "advice": given.text})
    return pd.DataFrame(rows)


_NOTHING = Interval(math.nan, math.nan, math.nan, 0)


def _ratios(own: pd.DataFrame, read: pd.DataFrame, pivot: pd.DataFrame) -> dict[str, Interval]:
    beside, there = pivot.loc[own.index], pivot.loc[read.index]
    words = own["words"].to_numpy(np.float64)
    # Javanese script, for one, separates sentences alone
    spaced = not np.isnan(words).any() and own["characters"].sum() < _LONGEST_WORD * words.sum()
    return {
        "bits_per_byte": _ratio(read["nats"] / math.log(2), read["bytes"]),
        "parity": _ratio(there["nats"], read["nats"]),
        "tokens_per_word": _ratio(own["tokens"], own["words"]) if spaced else _NOTHING,
        "tokens_per_character": _ratio(own["tokens"], own["characters"]),
        "tokens_per_byte": _ratio(own["tokens"], own["bytes"]),
        "premium": _ratio(own["tokens"], beside["tokens"]),
        "broken": _part(own["broken"], own["tokens"]),
        "unknown": _part(own["unknown"], own["tokens"]),
    }


def _ratio(above: pd.Series, below: pd.Series) -> Interval:
    """Ratio of positive sums over units; its interval is that of the logarithm, so that no end is below 0."""
    if len(above) < FEWEST:
        return _NOTHING
    found = interval(np.log(_quotients(above, below)), len(above))
    value, low, high = (math.exp(end) for end in (found.value, found.low, found.high))
    return Interval(value, low, high, len(above))


def _part(part: pd.Series, whole: pd.Series) -> Interval:
    """Share of a sum over units, which may be 0."""
    if len(part) < FEWEST:
        return _NOTHING
    found = interval(_quotients(part, whole), len(part))
    low, high = np.clip([found.low, found.high], 0, 1).tolist()
    return Interval(found.value, low, high, len(part))


def _quotients(above: pd.Series, below: pd.Series) -> Floats:
    """Draw vector of the ratio of two sums."""
    weights = resample_weights(len(above))
    sums = [side.to_numpy(np.float64) @ weights for side in (above, below)]
    found: Floats = sums[0] / sums[1]
    return found


def _retrieval(read: pd.DataFrame, pivot: pd.DataFrame) -> dict[str, Interval]:
    if len(read) < FEWEST:
        return {}
    sides = [np.stack(side["vector"].to_list()).astype(np.float64) for side in (read, pivot.loc[read.index])]
    found = ranks(*(side - side.mean(axis=0) for side in sides))
    return {"retrieval": _share(found == 0), "surface": _share(read["surface_rank"].to_numpy() == 0)}


def _share(right: np.ndarray) -> Interval:
    """Share with Wilson's interval: with a handful of units the bootstrap's is empty at 0 and 1."""
    low, high = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Interval(float(right.mean()), float(low), float(high), len(right))
