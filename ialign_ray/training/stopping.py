"""Early stopping and choice of the best step: pure functions of the validations so far.

A resumed run reads the validations from the run's folder, so it decides like an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from ialign_ray.config import StopRule

PREFIX = "validation/"


@dataclass(frozen=True)
class Validated:
    """The losses of one step on the held-out examples."""

    step: int
    """Number of the step; 0 is the base."""
    losses: Mapping[str, float]
    """Metric, without `validation/`, -> nats per target token."""

    def loss(self, metric: str) -> float:
        """Return the loss that a setting names."""
        return self.losses[metric.removeprefix(PREFIX)]


def reason_to_stop(rules: Sequence[StopRule], history: Sequence[Validated]) -> str | None:
    """One sentence about the first rule that applies after the last of `history` (in the order of steps), or None."""
    return next((said for rule in rules if (said := _holds(rule, history))), None)


def best_steps(rules: Sequence[StopRule], metric: str, history: Sequence[Validated]) -> list[Validated]:
    """Trained steps by loss, the lowest (of equal ones the earliest) first, without steps that a `max_rise` rules
    out."""
    # step 0 is the base, which has no checkpoint
    known = [v for v in history if v.step and isfinite(v.loss(metric))]
    allowed = [v for v in known if not any(_risen(rule, v, history) for rule in rules)]
    return sorted(allowed, key=lambda v: (v.loss(metric), v.step))


def _holds(rule: StopRule, history: Sequence[Validated]) -> str | None:
    if not history:
        return None
    if rule.patience is not None:
        return _worn_out(rule, rule.patience, history)
    return _risen(rule, history[-1], history)


def _risen(rule: StopRule, now: Validated, history: Sequence[Validated]) -> str | None:
    base = history[0]
    # a run that was first validated late has no base loss to compare with
    if rule.max_rise is None or base.step:
        return None
    rise = now.loss(rule.metric) - base.loss(rule.metric)
    if rise <= rule.max_rise:  # false for NaN too, which is worse than any rise
        return None
    return (
        f"{rule.metric} at step {now.step} is {now.loss(rule.metric):.3f} nats per token, {rise:.3f} above the base's "
        f"(train.stop max_rise {rule.max_rise:g})"
    )


def _worn_out(rule: StopRule, patience: int, history: Sequence[Validated]) -> str | None:
    *_, gained = _gains(rule, history)
    since = sum(v.step > gained.step for v in history)
    if since < patience:
        return None
    return (
        f"{rule.metric} has not fallen below the {gained.loss(rule.metric):.3f} nats per token of step {gained.step} "
        f"in {since} validations (train.stop patience {patience})"
    )


def _gains(rule: StopRule, history: Sequence[Validated]) -> Iterator[Validated]:
    """Yield the first, and each that is `min_delta` below the last one yielded."""
    best = history[0]
    yield best
    for validated in history[1:]:
        if validated.loss(rule.metric) < best.loss(rule.metric) - rule.min_delta:
            best = validated
            yield best
