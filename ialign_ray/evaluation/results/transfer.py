"""Gains by language and group: the language x run matrix, and the correlation of gains on L3 with gains on L2.

The sign of changes is such that + is better.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.registry import lower_is_better
from ialign_ray.evaluation.results.cells import Measured
from ialign_ray.evaluation.results.significance import Correlation, correlation
from ialign_ray.evaluation.scoring.suite_kinds import SUITES

MATRIX = [
    "suite", "kind", "metric", "language", "run", "value", "low", "high", "n", "p", "p_holm", "detectable", "luck"
]  # fmt: skip


def language_matrix(comparisons: pd.DataFrame, scorer: str, against: str) -> pd.DataFrame:
    """One row per suite, language and run: the change of the chief metric against another run, + is better."""
    return chief_changes(comparisons, scorer, against, "language:").rename(columns={"of": "language"})[MATRIX]


def chief_changes(comparisons: pd.DataFrame, scorer: str, against: str, scope: str) -> pd.DataFrame:
    """The comparisons with `against` by the chief metric of each kind, in the mean over prompts, + is better.

    `scope` is "language:" or "group:"; column `of` contains the part after it. Baselines are excluded.
    """
    if comparisons.empty:
        return pd.DataFrame(columns=[*MATRIX, "of"])
    chief = [SUITES[kind].metric for kind in comparisons["kind"]]
    scored = [SUITES[kind].scored(scorer) for kind in comparisons["kind"]]
    found = comparisons[
        (comparisons["against"] == against)
        & (comparisons["prompt"] == "all")
        & comparisons["scope"].str.startswith(scope)
        & (comparisons["metric"] == chief)
        & (comparisons["scorer"] == scored)
        & ~comparisons["run"].isin(BASELINES)
    ]
    falling = found["metric"].map(lower_is_better).astype(bool)
    turned = found.assign(
        of=found["scope"].str.removeprefix(scope),
        value=found["value"].where(~falling, -found["value"]),
        # turning the sign swaps the ends of the interval
        low=found["low"].where(~falling, -found["high"]),
        high=found["high"].where(~falling, -found["low"]),
    )
    return turned.reset_index(drop=True)


def gains_by_seed(runs: Mapping[str, Measured], scorer: str, base: str = "base") -> pd.DataFrame:
    """One row per trained run (a seed of an arm), suite and group: its gain over base, + is better.

    Columns: run, seed (its number), suite, kind, group, gain.
    """
    rows = []
    for run, measured in runs.items():
        if run == base or run in BASELINES or base not in runs:
            continue
        for key, m in measured.measures.items():
            kind, before = SUITES[key.kind], runs[base].measures.get(key)
            chief = (key.prompt, key.metric, key.scorer) == ("all", kind.metric, kind.scored(scorer))
            if not chief or before is None or not key.scope.startswith("group:"):
                continue
            sign = -1 if lower_is_better(key.metric) else 1
            of = {"run": run, "suite": key.suite, "kind": key.kind, "group": key.scope.removeprefix("group:")}
            rows += [{**of, "seed": k, "gain": sign * (v - float(before.draws[0]))} for k, v in enumerate(m.values)]
    return pd.DataFrame(rows, columns=["run", "seed", "suite", "kind", "group", "gain"])


def transfer_correlations(gains: pd.DataFrame, first: str = "L2", second: str = "L3") -> dict[str, Correlation]:
    """Suite -> correlation over trained runs of the gains on two groups; suites that have both."""
    found = {}
    for suite, part in gains.groupby("suite", sort=False):
        wide = part.pivot_table(index=["run", "seed"], columns="group", values="gain")
        if {first, second} <= set(wide.columns):
            both = wide[[first, second]].dropna()
            found[str(suite)] = correlation(both[first].tolist(), both[second].tolist())
    return found
