"""Measured runs as tidy records: scores of each run, and paired differences between two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.bootstrap import LEVEL, RESAMPLES, Estimates, Floats, estimates
from ialign_ray.evaluation.metrics.registry import limits_of
from ialign_ray.evaluation.results.cells import (
    CellDraws,
    Frames,
    Key,
    Measured,
    ResamplingPlan,
    clustered,
    measure,
    restricted,
)
from ialign_ray.evaluation.results.significance import with_holm
from ialign_ray.evaluation.results.training_luck import declared_spread, with_luck


def summarise(
    predictions_by_run: Mapping[str, Frames | Measured],
    groups: Mapping[str, str],
    *,
    kinds: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Tidy records of all runs: one row per run, suite, prompt, scorer, scope and metric.

    Columns: run, suite, kind, prompt ("all" = mean over prompts), scorer, scope ("language:jav",
    "group:L2", "all"), metric, value, low, high (95 %, over sentences), n (sentence ids), clusters (independent units
    among them), seeds, seed_sd; where prompt is "all", prompts (their number) with prompt_sd, prompt_min and prompt_max
    of the value over them. A translation direction belongs to the group of its less-known language. Raises `DataError`
    as `measure` does.
    """
    plan = ResamplingPlan(groups, kinds, resamples=resamples, seed=seed)
    records = []
    for run, given in predictions_by_run.items():
        measured = given if isinstance(given, Measured) else measure(given, plan)
        found = _estimates(measured, [(key.suite, m.draws, m.units) for key, m in measured.measures.items()])
        # an interval by t may exceed the bounds of the metric
        limits = np.array([_limits(key.metric, float(m.draws[0])) for key, m in measured.measures.items()]).T
        low, high = (np.clip(end, *limits).tolist() for end in found.bounds())
        records += [
            {"run": run, **key._asdict(), "value": float(m.draws[0]), "low": low[row], "high": high[row]}
            | _size(m)
            | spread
            for row, (key, m, spread) in enumerate(_with_prompts(measured))
        ]
    return pd.DataFrame(records)


def compare(
    run: str,
    first: Measured,
    against: str,
    second: Measured,
    *,
    recipes: tuple[bool, bool] = (True, True),
    seed_spread: float | dict[str, float] | None = None,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Paired differences `run - against` on the ids that both have, for each key that both have.

    Columns of `summarise` without those of prompts, with `against`, the two-sided p, `p_holm` (over the languages of
    a suite), `detectable` (the smallest true difference that would be detected), `error` (the standard error that low,
    high and p come from), `sentence_error` (its part by sentences) and `luck`, a word of `training_luck`; seed_sd is
    that of the difference. `recipes` is False for a side that is a fixed model, whose training is not part of the
    claim; `seed_spread` is the declared spread over seeds, for a metric or for all. `level` is that of low and high.
    Raises `DataError` if the two were measured by different plans or share no id.
    """
    if first.plan != second.plan:
        raise DataError(f"compare: '{run}' and '{against}' were measured by different plans; use one plan")
    first, second = on_common_ids(run, first, against, second)
    pairs = [(key, a, second.measures[key]) for key, a in first.measures.items() if key in second.measures]
    if not pairs:
        return pd.DataFrame()
    sentences = _estimates(first, [(key.suite, a.draws - b.draws, a.units) for key, a, b in pairs])
    declared = [declared_spread(seed_spread, key.metric) for key, _, _ in pairs]
    found, lucks = with_luck(sentences, [(a, b) for _, a, b in pairs], recipes, declared)
    low, high = found.bounds(level)
    frame = pd.DataFrame([{"run": run, "against": against, **key._asdict()} for key, _, _ in pairs])
    return with_holm(
        frame.assign(
            value=found.value,
            low=low,
            high=high,
            n=[a.n for _, a, _ in pairs],
            clusters=[a.units for _, a, _ in pairs],
            p=found.p(),
            detectable=found.detectable(),
            seeds=[luck.seeds for luck in lucks],
            seed_sd=[luck.seed_sd for luck in lucks],
            luck=[luck.kind for luck in lucks],
            error=found.error,
            sentence_error=sentences.error,
        )
    )


def compare_all(
    runs: Mapping[str, Measured],
    *,
    base: str = "base",
    control: str = "control",
    seed_spread: float | dict[str, float] | None = None,
) -> pd.DataFrame:
    """Every comparison that `verdict.verdict` reads, as one frame.

    Each run except the baselines is compared with base, control and the length-only baseline, if those exist. Runs are
    recipes, whose training luck counts; base and baselines are fixed models.
    """
    given = (base, *BASELINES)
    pairs = [
        (run, against)
        for run in runs
        if run not in BASELINES
        for against in (base, control, "length")
        if against in runs and against != run and not (run == base and against == control)
    ]
    frames = [
        compare(
            run,
            runs[run],
            against,
            runs[against],
            recipes=(run not in given, against not in given),
            seed_spread=seed_spread,
        )
        for run, against in pairs
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _estimates(measured: Measured, drawn: Sequence[tuple[str, Floats, int]]) -> Estimates:
    """Estimates of (suite, draw vector, units), suite by suite, as each has separate weights."""
    parts = []
    for suite, found in groupby(drawn, key=lambda one: one[0]):
        _, draws, units = zip(*found, strict=True)
        parts.append(estimates(np.stack(draws), units, measured.weights(suite)))
    return Estimates.joined(parts)


def _limits(metric: str, value: float) -> tuple[float, float]:
    low, high = limits_of(metric)
    # a task of the harness may score in percent
    return (low, high) if not (value < low or value > high) else (-np.inf, np.inf)


def _size(m: CellDraws) -> dict[str, float]:
    return {"n": m.n, "clusters": m.units, "seeds": len(m.values), "seed_sd": m.seed_sd}


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
    """Return both runs measured on the ids that both have, in the same clusters. Raises `DataError` if there is no such
    id."""
    common = {key: ids & second.ids[key] for key, ids in first.ids.items() if key in second.ids}
    if not any(common.values()):
        raise DataError(f"compare: '{run}' and '{against}' share no sentence id; evaluate both on one suite")
    # predictions that were stored before the suite had clusters are resampled in those of the other run
    clusters = second.clusters | first.clusters
    both = [
        one if one.clusters == clusters else measure(clustered(one.frames, clusters), one.plan)
        for one in (first, second)
    ]
    return restricted(both[0], common), restricted(both[1], common)
