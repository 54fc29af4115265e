"""Objective of a trial: gain on new languages over the control of equal compute, and forgetting.

Both are differences of held-out losses over the same sentences, so their intervals are paired. A trial is feasible if
its old-instruction loss is shown to have risen by no more than the tolerance: the whole interval is within it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ialign_ray.config import SearchConfig
from ialign_ray.training.validation import INSTRUCTIONS, PAIRS, Loss, LossEstimate, estimate

Array = npt.NDArray[np.float64]
SHOWN, ESTIMATE = "shown", "estimate"
"""Values of `search.feasible`."""
PENALTY = 1.0
"""Penalty in nats per token of gain, for schedulers, for each nat beyond the tolerance. Of 20 replayed searches ASHA
kept the grid's best setting in 17 at 1, in 8 at 5 and in 4 at 0 (docs/results/search-grid): a higher one stops settings
that forget at first and recover as the learning rate falls."""
FAILED_SCORE = -1e9
"""Score of a failed trial for schedulers, which need a number: below every trial that ended."""


@dataclass(frozen=True)
class Losses:
    """Held-out losses of one model: summed nats and tokens of every sentence with text in a new language, and of every
    old instruction; in the same order for all models of a search."""

    new: Array
    """[sentences, 2]: nats, tokens."""
    old: Array
    """[instructions, 2]."""

    @classmethod
    def of(cls, rows: Iterable[Loss], l1: Iterable[str]) -> Losses:
        """Losses from each example's; directions whose target is old do not measure the new language's text."""
        known = set(l1)
        new: dict[str, tuple[float, float]] = {}
        old: dict[str, tuple[float, float]] = {}
        for source, row_id, tokens, nats in rows:
            if source == INSTRUCTIONS:
                old[row_id] = (nats, float(tokens))
            elif source.startswith(PAIRS) and source.rpartition("-")[2] not in known:
                sentence = row_id.rpartition(":")[0]
                before = new.get(sentence, (0.0, 0.0))
                new[sentence] = (before[0] + nats, before[1] + tokens)
        return cls(_sorted(new), _sorted(old))

    def towards(self, other: Losses, share: float) -> Losses:
        """Interpolate linearly to another model's losses, for a point between two validations."""
        return Losses(self.new + share * (other.new - self.new), self.old + share * (other.old - self.old))


def _sorted(units: Mapping[str, tuple[float, float]]) -> Array:
    return np.array([units[k] for k in sorted(units)], float).reshape(-1, 2)


def difference(a: Array, b: Array) -> LossEstimate:
    """Nats per token by which `a` exceeds `b` over the same sentences, with a paired 95 % interval."""
    return estimate([(float(x - y), int(tokens)) for (x, tokens), (y, _) in zip(a, b, strict=True)])


@dataclass(frozen=True)
class References:
    """Losses that trials are compared with."""

    base: Losses
    control: Sequence[tuple[int, Losses]]
    """Pairs (budget, losses) of the replay-only run, budgets rising."""

    def control_at(self, budget: float) -> Losses:
        """The control after this much compute, interpolated linearly between two of its validations."""
        known = [(0, self.base), *self.control]
        # base at budget 0, then the control's validations
        for (a, first), (b, second) in pairwise(known):
            if budget <= b:
                return first.towards(second, (budget - a) / (b - a))
        return known[-1][1]


@dataclass(frozen=True)
class Worth:
    """A trial at one budget."""

    gain: LossEstimate
    """Nats per token of new-language text saved against the control."""
    forgetting: LossEstimate
    """Nats per token by which the loss on old instructions rose; below 0 it fell."""
    tolerance: float
    rule: str = SHOWN
    """`search.feasible`."""

    @property
    def violation(self) -> float:
        """Nats per token beyond the tolerance, of the bound that `search.feasible` names; 0 or less is feasible.

        Infinite if there is only one instruction and so no interval: nothing is shown then.
        """
        bound = self.forgetting.high if self.rule == SHOWN else self.forgetting.value
        return math.inf if math.isnan(bound) and math.isfinite(self.forgetting.value) else bound - self.tolerance

    @property
    def feasible(self) -> bool:
        """True if forgetting is within the tolerance."""
        return self.violation <= 0

    @property
    def score(self) -> float:
        """One number for schedulers: the gain minus the penalty for forgetting beyond the tolerance."""
        return max(FAILED_SCORE / 2, self.gain.value - PENALTY * max(0.0, self.violation))


def worth(losses: Losses, references: References, budget: float, search: SearchConfig) -> Worth:
    """Compare a trial with the control of equal compute, and with base or control for forgetting."""
    control = references.control_at(budget)
    old = references.base if search.against == "base" else control
    forgetting = difference(losses.old, old.old)
    return Worth(difference(control.new, losses.new), forgetting, search.tolerance, search.feasible)


def flat(result: Worth) -> dict[str, Any]:
    """Flatten a result into metrics for Ray Tune, MLflow and the tables."""
    found: dict[str, Any] = {"score": result.score, "violation": result.violation}
    found["feasible"] = result.feasible
    for name, value in (("gain", result.gain), ("forgetting", result.forgetting)):
        found |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high, f"{name}_n": value.n}
    return found


def pareto(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the Pareto front: rows that no other beats in both gain and forgetting, by falling gain, without
    NaN."""
    order = sorted(
        (k for k, r in enumerate(rows) if math.isfinite(r["gain"]) and math.isfinite(r["forgetting"])),
        key=lambda k: (-rows[k]["gain"], rows[k]["forgetting"]),
    )
    front, least = [], math.inf
    # by falling gain, so a row is on the front if it forgets less than every row before it
    for k in order:
        if rows[k]["forgetting"] < least:
            front.append(k)
            least = rows[k]["forgetting"]
    return front


def best(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The winner among finished trials: the feasible one with the largest gain, otherwise the smallest violation."""
    known = [k for k, r in enumerate(rows) if math.isfinite(r["gain"]) and not math.isnan(r["violation"])]
    if not known:
        return None
    feasible = [k for k in known if rows[k]["violation"] <= 0]
    if feasible:
        return max(feasible, key=lambda k: rows[k]["gain"])
    return min(known, key=lambda k: rows[k]["violation"])
