"""Measured runs as tidy records: scores of each run, and paired differences between two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.bootstrap import RESAMPLES, differences, intervals
from ialign_ray.evaluation.results.cells import CellDraws, Frames, Key, Measured, ResamplingPlan, measure, restricted
from ialign_ray.evaluation.results.significance import detectable, with_holm


def summarise(
    predictions_by_run: Mapping[str, Frames | Measured],
    groups: Mapping[str, str],
    *,
    kinds: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Tidy records of all runs, a row for each run, suite, prompt, scorer, scope and metric.

    Columns: run, suite, kind, prompt ("all" = mean over prompts), scorer, scope ("language:jav",
    "group:L2", "all"), metric, value, low, high (95 %), n (sentence ids), seeds, seed_sd; where
    prompt is "all", prompts (their number) with prompt_sd, prompt_min and prompt_max of the value over them. A
    translation direction belongs to the group of its less known side. Raises `DataError` as `measure` does.
    """
    plan = ResamplingPlan(groups, kinds, resamples=resamples, seed=seed)
    records = []
    for run, given in predictions_by_run.items():
        measured = given if isinstance(given, Measured) else measure(given, plan)
        every = measured.measures.values()
        bounds = intervals(np.stack([m.draws for m in every]), [m.n for m in every])
        records += [
            {"run": run, **key._asdict(), **vars(found), **_seeds(m), **spread}
            for (key, m, spread), found in zip(_with_prompts(measured), bounds, strict=True)
        ]
    return pd.DataFrame(records)


def compare(run: str, first: Measured, against: str, second: Measured) -> pd.DataFrame:
    """Paired differences `run - against` on the ids both have, for each key both have.

    Columns of `summarise` without those of prompts, with `against`, the two-sided p, `p_holm` (over the languages of
    a suite) and `detectable` (the smallest true difference that would be seen); seed_sd is that of the difference,
    seeds taken as independent. Raises `DataError` if the two were measured by different plans or share no id.
    """
    if first.plan != second.plan:
        raise DataError(f"compare: '{run}' and '{against}' were measured by different plans; use one plan")
    first, second = on_common_ids(run, first, against, second)
    pairs = [(key, a, second.measures[key]) for key, a in first.measures.items() if key in second.measures]
    if not pairs:
        return pd.DataFrame()
    draws = np.stack([a.draws - b.draws for _, a, b in pairs])
    found = differences(draws, [a.n for _, a, _ in pairs])
    records = [
        {"run": run, "against": against, **key._asdict(), **vars(d), "detectable": seen}
        | {"seeds": min(len(a.values), len(b.values)), "seed_sd": float(np.hypot(a.seed_sd, b.seed_sd))}
        for (key, a, b), d, seen in zip(pairs, found, detectable(draws).tolist(), strict=True)
    ]
    return with_holm(pd.DataFrame(records))


def compare_all(runs: Mapping[str, Measured], *, base: str = "base", control: str = "control") -> pd.DataFrame:
    """Every comparison that `verdict.verdict` reads, one frame.

    Each run that is no baseline against base, control and the length-only baseline, where those exist.
    """
    pairs = [
        (run, against)
        for run in runs
        if run not in BASELINES
        for against in (base, control, "length")
        if against in runs and against != run and not (run == base and against == control)
    ]
    frames = [compare(run, runs[run], against, runs[against]) for run, against in pairs]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _seeds(m: CellDraws) -> dict[str, float]:
    return {"seeds": len(m.values), "seed_sd": m.seed_sd}


def _with_prompts(measured: Measured) -> Iterator[tuple[Key, CellDraws, dict[str, float]]]:
    """Each measure with the spread of its value over prompts."""
    over: dict[Key, list[float]] = defaultdict(list)
    for key, m in measured.measures.items():
        if key.prompt != "all":
            over[key._replace(prompt="all")].append(float(m.draws[0]))
    for key, m in measured.measures.items():
        yield key, m, _prompts(over[key]) if key in over else {}


def _prompts(values: list[float]) -> dict[str, float]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return {"prompts": len(values), "prompt_sd": sd, "prompt_min": min(values), "prompt_max": max(values)}


def on_common_ids(run: str, first: Measured, against: str, second: Measured) -> tuple[Measured, Measured]:
    """Return both runs measured on the ids that both have. Raises `DataError` if there is none."""
    common = {key: ids & second.ids[key] for key, ids in first.ids.items() if key in second.ids}
    if not any(common.values()):
        raise DataError(f"compare: '{run}' and '{against}' share no sentence id; evaluate both on one suite")
    return restricted(first, common), restricted(second, common)
