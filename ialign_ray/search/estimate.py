"""`ialign tune --dry-run`: the number of trials and tokens, and an estimate of the time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console

from ialign_ray.config import Experiment, SearchConfig
from ialign_ray.search.budget import budgets, concurrency, whole_budget
from ialign_ray.search.space import check_space, search_of, size, trial_count
from ialign_ray.search.trial import TrialRun
from ialign_ray.search.trial_context import SearchContext, assemble, confirming_seeds, own_control_point, seeds
from ialign_ray.terminal import BlockTable
from ialign_ray.training.trainer import cores

MEASURED = [1, 3, 4]
"""Number of steps to time: the first includes one-off costs, the last writes a model folder and is not needed."""
TOO_LARGE = 1_000_000_000
"""Number of parameters above which no step is timed, since this machine may not run the search."""


@dataclass(frozen=True)
class Speed:
    """Times of one trial, measured on this machine, in seconds."""

    token: float
    """Seconds to train on one token."""
    validation: float
    """Seconds of one validation."""
    start: float
    """Seconds to create the model."""


@dataclass(frozen=True)
class SearchEstimate:
    """A search's cost."""

    reach: list[int]
    """Trials that are expected to reach each budget; all of them reach the first."""
    tokens: float
    """Expected tokens, with early stopping and including controls (of each seed, and of the winner)."""
    most_tokens: float
    """Tokens if no trial were stopped."""
    seconds: float
    """NaN if nothing could be measured."""


def reaching(search: SearchConfig, ends: Sequence[int]) -> list[int]:
    """Trials expected at each budget: with early stopping one in `reduction` continues from each.

    ASHA promotes a few more, since it decides before all have reported.
    """
    n = trial_count(search)
    if search.scheduler == "none":
        return [n] * len(ends)
    return [max(1, math.ceil(n / search.reduction**k)) for k in range(len(ends))]


def estimate(
    search: SearchConfig, ends: Sequence[int], per_unit: float, controls: int, speed: Speed | None, at_a_time: int
) -> SearchEstimate:
    """The cost of a search with `per_unit` tokens per unit of budget."""
    reach = reaching(search, ends)
    parts = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    trained = sum(n * part for n, part in zip(reach, parts, strict=True)) + controls * ends[-1]
    most = (reach[0] + controls) * ends[-1]
    seconds = math.nan
    if speed:
        validations = sum(reach) + controls * (len(ends) + 1)
        work = trained * per_unit * speed.token + validations * speed.validation + (reach[0] + controls) * speed.start
        seconds = work / max(1, min(at_a_time, reach[0]))
    return SearchEstimate(reach, trained * per_unit, most * per_unit, seconds)


def measure(shared: SearchContext) -> Speed:
    """Time a few steps and one validation of the experiment's default settings, in a temporary folder."""
    trial_context = shared.trial_context(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, math.floor(search_of(shared.experiment).cpus_per_trial)))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            run = TrialRun(
                shared.experiment,
                Path(scratch),
                MEASURED,
                "steps",
                shared.example_cache(shared.experiment),
                trial_context,
            )
            first, second = run.report(0), run.report(1)
    finally:
        torch.set_num_threads(threads)
    seconds, tokens = (second[k] - first[k] for k in ("train_seconds", "tokens"))
    # the rest of the first report's time, besides steps and validation, created the model
    start = max(0.0, first["seconds"] - first["train_seconds"] - first["validation_seconds"])
    return Speed(seconds / tokens, second["validation_seconds"], start)


def tokens_a_step(shared: SearchContext, steps: int = 20) -> float:
    """Mean tokens of a step with the experiment's replay ratio."""
    example_cache = shared.example_cache(shared.experiment)
    stream = example_cache.steps(example_cache.trial_plan(shared.experiment), shared.experiment.train.batch_size, 0)
    return sum(len(e) for step in islice(stream, steps) for e in step) / steps


def print_estimate(experiment: Experiment, console: Console) -> SearchEstimate:
    """Check everything, and print trials, tokens and time; no cluster is started."""
    check_space(experiment)
    search = search_of(experiment)
    ends = budgets(search, whole_budget(experiment, search))
    shared = assemble(experiment, console)
    large = sum(math.prod(shape) for _, shape in shared.model.forms.values()) > TOO_LARGE
    speed = None if large else measure(shared)
    at_a_time = concurrency(search, [{"CPU": float(cores()), "GPU": float(torch.cuda.device_count())}])
    per_unit = 1.0 if search.unit == "tokens" else tokens_a_step(shared)
    # one more: the winner's, unless no searched field affects the control
    values = [(field, v) for field, domain in search.space.items() for v in domain.values or domain.bounds or ()]
    own = any(own_control_point(experiment, {field: v}) for field, v in values)
    controls = len(seeds(experiment)) + own + 2 * len(confirming_seeds(experiment, {}))
    found = estimate(search, ends, per_unit, controls, speed, at_a_time)
    show(found, search, ends, at_a_time, len(shared.held_out), console)
    return found


def show(
    found: SearchEstimate, search: SearchConfig, ends: Sequence[int], at_a_time: int, held_out: int, console: Console
) -> None:
    """Print an estimate."""
    every = size(search.space)
    space = "a continuous space" if every is None else f"{every} settings"
    console.print(
        f"{found.reach[0]} trials ({search.searcher}, {search.scheduler}) of {space}, {at_a_time} at a time on this "
        f"machine; chosen by {held_out} held-out examples",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    rows = [(f"{end:,}", str(count)) for end, count in zip(ends, found.reach, strict=True)]
    console.print(BlockTable((f"budget ({search.unit})", "trials expected"), rows))
    known = math.isfinite(found.seconds)
    duration = (
        f"about {words(found.seconds)}, plus the start of Ray, as measured on a few steps here"
        if known
        else "unknown before a trial"
    )
    console.print(
        f"Tokens: about {found.tokens:,.0f} expected, {found.most_tokens:,.0f} if no trial were stopped\n"
        f"Time:   {duration}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def words(seconds: float) -> str:
    """Format a duration."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
