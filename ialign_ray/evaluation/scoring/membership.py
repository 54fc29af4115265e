"""Hints that a model has read a suite: Min-K% Prob (Shi et al. 2024, arXiv 2310.16789) against fresh sentences.

The score of a text is the mean log-probability of its least likely tokens: a text that was trained on has few that
surprise the model. Texts of a suite are compared with sentences that no model can have read, in the same language and
of as many tokens. An AUC above one half is a hint and not proof: other topics or an easier style also raise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from ialign_ray.config import Experiment
from ialign_ray.config.base import parse_yaml
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.metrics.bootstrap import Floats
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.languages import canonical
from ialign_ray.storage import write_text

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer

TABLE: Final = "membership.csv"
FEWEST: Final = 10
"""Fewest texts of either side for an AUC, and fewest fresh sentences of a language."""
_COLUMNS: Final = ["suite", "language", "auc", "low", "high", "n", "fresh"]
_OWN: Final = Path(__file__).parent / "fresh.yaml"


@dataclass(frozen=True)
class MembershipUnit(Unit):
    """Min-K% scores of a suite's texts and of fresh sentences."""

    k: float
    """Share of a text's tokens whose log-probabilities are averaged, the lowest ones."""
    tokens: int
    """Number of first tokens of a text that are read."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, fresh (bool) and min_k (nats, negative)."""
        found = scorer.token_log_probs(list(rows["text"]), self.tokens)
        return rows[["suite", "language", "id", "fresh"]].assign(
            min_k=[lowest_mean(of_row, self.k) for of_row in found]
        )


def lowest_mean(log_probs: Floats, k: float) -> float:
    """Mean of the lowest share `k` of a text's log-probabilities, of one at least; NaN for a text without tokens."""
    if not len(log_probs):
        return float("nan")
    count = max(1, int(len(log_probs) * k))
    return float(np.sort(log_probs)[:count].mean())


def membership_units(experiment: Experiment, units: Sequence[Unit]) -> list[MembershipUnit]:
    """Units of every suite with texts in a language that there are fresh sentences of.

    `units` as from `suite_units`. Raises ConfigError for a file of fresh sentences that cannot be used.
    """
    settings = experiment.evaluate.membership
    if settings is None:
        return []
    fresh = fresh_sentences(settings.fresh)
    found = []
    for name in dict.fromkeys(unit.suite for unit in units):
        texts = _texts(next(unit.rows for unit in units if unit.suite == name))
        texts = texts[texts["language"].isin(fresh)].drop_duplicates(["language", "text"])
        baselines = [
            pd.DataFrame({"language": code, "id": [f"fresh:{k}" for k in range(len(fresh[code]))], "text": fresh[code]})
            for code in texts["language"].unique()
        ]
        if baselines:
            rows = pd.concat([texts.assign(fresh=False), *(b.assign(fresh=True) for b in baselines)], ignore_index=True)
            rows = rows.assign(suite=name, length=rows["text"].str.len())
            found.append(MembershipUnit(name, "membership", rows, settings.k, settings.tokens))
    return found


def _texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns language, id and text of a suite's rows: the texts of a row, or the target of a likelihood."""
    names = [c for c in rows.columns if str(c) == "text" or (str(c).startswith("text:") and ":option " not in str(c))]
    chosen = names or [c for c in ("target", "prompt") if c in rows.columns][:1]
    made = rows[["language", "id"]].assign(text=rows[chosen].astype(str).agg("\n".join, axis=1) if chosen else "")
    # a direction "eng-jav" has its target's text
    made["language"] = [canonical_or_none(str(code).rpartition("-")[2]) for code in made["language"]]
    return made[made["text"].str.strip() != ""].reset_index(drop=True)


def canonical_or_none(code: str) -> str | None:
    """Return the canonical code of a language; None for the name of an instruction suite."""
    try:
        return canonical(code)
    except ConfigError:
        return None


def fresh_sentences(file: str | None) -> dict[str, list[str]]:
    """Language -> sentences that no model can have read: ours, or those of a YAML file with `written` and `sentences`.

    Raises ConfigError for a file that cannot be read or is of another form, or for under ten sentences of a language.
    """
    path = Path(file) if file else _OWN
    where = f"evaluate.membership.fresh is {str(path)!r}"
    try:
        read: Any = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}, which cannot be read as YAML in UTF-8: {' '.join(str(error).split())}") from error
    sentences = read.get("sentences") if isinstance(read, dict) else None
    if not isinstance(sentences, dict) or not all(isinstance(texts, list) for texts in sentences.values()):
        raise ConfigError(f"{where}, which has no `sentences`; give a list of sentences for each language code")
    found = {}
    for code, texts in sentences.items():
        kept = list(dict.fromkeys(str(text).strip() for text in texts if text and str(text).strip()))
        if len(kept) < FEWEST:
            raise ConfigError(f"{where}, which has {len(kept)} sentences of {code}; a baseline needs {FEWEST}")
        found[canonical(str(code))] = kept
    return found


def membership_table(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per suite and language: AUC of its texts against fresh sentences with its 95 % interval, and numbers.

    `frames`: suite -> predictions of its `MembershipUnit`. The interval is NaN with fewer than ten texts.
    """
    rows = []
    for suite, frame in frames.items():
        for code, part in frame.dropna(subset=["min_k"]).groupby("language", sort=True):
            fresh = part["fresh"].to_numpy(bool)
            scores = part["min_k"].to_numpy(np.float64)
            found = auc_interval(scores[~fresh], scores[fresh])
            rows.append([suite, code, *found, int((~fresh).sum()), int(fresh.sum())])
    return pd.DataFrame(rows, columns=_COLUMNS)


def auc_interval(texts: Floats, fresh: Floats) -> tuple[float, float, float]:
    """AUC of scores of texts against those of fresh sentences, with its 95 % interval (DeLong et al. 1988, JSTOR
    2531595), by Student's t with the smaller side's degrees of freedom."""
    if not len(texts) or not len(fresh):
        return float("nan"), float("nan"), float("nan")
    above = (texts[:, None] > fresh) + 0.5 * (texts[:, None] == fresh)
    value, smaller = float(above.mean()), min(above.shape)
    if smaller < FEWEST:
        return value, float("nan"), float("nan")
    variance = sum(above.mean(axis=axis).var(ddof=1) / above.shape[1 - axis] for axis in (0, 1))
    half = float(stats.t.ppf(0.975, smaller - 1) * np.sqrt(variance))
    return value, max(0.0, value - half), min(1.0, value + half)


def write_membership(table: pd.DataFrame | None, folder: Path) -> None:
    """Write the table, or remove that of an earlier evaluation if there is no table."""
    if table is None:
        (folder / TABLE).unlink(missing_ok=True)
    else:
        write_text(folder / TABLE, table.to_csv(index=False))


def read_membership(folder: Path) -> pd.DataFrame:
    """The table that `write_membership` wrote; empty if there is no such table."""
    return pd.read_csv(folder / TABLE) if (folder / TABLE).exists() else pd.DataFrame(columns=_COLUMNS)
