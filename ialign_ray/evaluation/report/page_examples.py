"""The sentences on which a run got worst against another, with their texts read again from the suite's source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ialign_ray.config import Experiment, Suite
from ialign_ray.errors import IalignError
from ialign_ray.evaluation.results.analysis import RunFrames
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, label_names

SHOWN = 5
_KEYS = ["language", "id"]
_SHOWN_TEXTS = ("text", "prompt", "source", "target", "reference", "checks")


@dataclass(frozen=True)
class ScoredSentence:
    """One sentence with its cost before and after training."""

    language: str
    id: str
    before: float
    after: float
    what: str
    texts: dict[str, str]
    """Name of a text -> text; texts that both models generated are included."""


def worst_examples(
    experiment: Experiment, run: Sequence[RunFrames], against: Sequence[RunFrames], texts: Mapping[str, pd.DataFrame]
) -> dict[str, list[ScoredSentence]]:
    """Suite -> the examples whose cost rose most (mean over prompts and seeds), worst first.

    `texts` as from `suite_texts`; a suite without texts shows no example.
    """
    found = {}
    for suite in experiment.evaluate.suites:
        kind = SUITES[suite.kind]
        frames = [[seed[suite.name] for seed in seeds if suite.name in seed] for seeds in (run, against)]
        if kind.cost is None or suite.name not in texts or not all(frames):
            continue
        costs = [_costs(part, suite.kind, experiment.evaluate.scorer) for part in frames]
        both = pd.concat(costs, axis=1, keys=["after", "before"]).dropna()
        rise = (both["after"] - both["before"]).sort_values(ascending=False, kind="stable")
        worse = rise[rise > 0].index[:SHOWN]
        found[suite.name] = [
            ScoredSentence(
                str(key[0]),
                str(key[1]),
                float(both.loc[key, "before"]),
                float(both.loc[key, "after"]),
                kind.cost_name,
                _texts(texts[suite.name], key) | _answers(frames, key, suite, experiment.evaluate.scorer),
            )
            for key in worse
        ]
    return {suite: examples for suite, examples in found.items() if examples}


def suite_texts(experiment: Experiment) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Suite -> its rows with their texts, indexed by language and id; and notes on suites without texts."""
    texts: dict[str, pd.DataFrame] = {}
    notes = []
    for suite in experiment.evaluate.suites:
        kind = SUITES[suite.kind]
        if kind.cost is None or kind.texts is None:
            continue
        try:
            rows = kind.texts(suite, experiment)
        except (IalignError, OSError) as error:
            notes.append(f"No examples of {suite.name} are shown, since its source cannot be read: {error}")
            continue
        texts[suite.name] = rows.assign(id=rows["id"].astype(str)).drop_duplicates(_KEYS).set_index(_KEYS)
    return texts, notes


def _costs(frames: Sequence[pd.DataFrame], kind: str, scorer: str) -> pd.Series:
    cost = SUITES[kind].cost
    assert cost is not None
    rows = [frame[_KEYS].assign(id=frame["id"].astype(str), cost=cost(frame, scorer)) for frame in frames]
    return pd.concat(rows).groupby(_KEYS)["cost"].mean()


def _texts(rows: pd.DataFrame, key: tuple[str, str]) -> dict[str, str]:
    if key not in rows.index:
        return {}
    row: Any = rows.loc[key]
    names = [c for c in rows.columns if c in _SHOWN_TEXTS or str(c).startswith("text:")]
    return {str(name).removeprefix("text:"): str(row[name]) for name in names if isinstance(row[name], str)}


def _answers(
    frames: Sequence[Sequence[pd.DataFrame]], key: tuple[str, str], suite: Suite, scorer: str
) -> dict[str, str]:
    """The right label, and what the first seed of either run answered (labels: the mean over prompts)."""
    made: dict[str, str] = {}
    for who, parts in zip(("before", "after"), (frames[1], frames[0])):
        of = parts[0][(parts[0]["language"] == key[0]) & (parts[0]["id"].astype(str) == key[1])]
        if labels := label_names(suite):
            made["right"] = labels[int(of["label"].iloc[0])]
            made[who] = labels[int(np.mean(np.stack(of[scorer].dropna().tolist()), axis=0).argmax())]
        elif "hypothesis" in of.columns:
            made[who] = str(of["hypothesis"].iloc[0])
    return made
