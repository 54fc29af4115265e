"""Metrics that a suite may name: built in, or of an installed package, which is imported for that."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import AfterValidator

from ialign_ray.errors import ConfigError
from ialign_ray.plugins import Extensible

OF_LABELS = ("f1_weighted", "f1_macro", "accuracy", "auc", "auc_ovr")
OF_TEXT = ("chrf", "bleu", "spbleu")
OF_ANSWERS = ("chrf", "rouge_l", "exact_match", "valid")
OF_CHECKS = ("followed", "checks_met")
NEURAL = ("comet", "africomet")
"""Built-in metrics that are computed only for suites that name them."""


def measures(kind: str, *built_in: str) -> AfterValidator:
    """Check that a suite's `metric` is built in, or added to its kind by an installed package."""
    return AfterValidator(lambda value: check_metric(value, kind, built_in))


def check_metric(value: str, kind: str, built_in: Iterable[str], field: str = "metric") -> str:
    """Return the name of a metric. Raises ValueError if it is unknown, or does not measure the kind of suite."""
    others = [name for name in NEURAL if name not in built_in]
    known: Extensible[object] = Extensible("ialign.metrics", object, dict.fromkeys(built_in))
    try:
        entry = None if value in others else known.find(value, field)
    except ConfigError as error:
        alone = f"{field} is {value!r}, and no installed package adds a metric; leave it out"
        raise ValueError(alone if str(error).endswith("use one of ") else str(error)) from error
    if value not in known.builtin and kind not in getattr(entry, "kinds", ()):
        raise ValueError(f"{field} is {value!r}, which does not measure suites of kind {kind!r}; name another")
    return value
