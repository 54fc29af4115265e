"""`train.validation` and `train.stop`: what is looked at during a run, and what ends it early."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ialign_ray.config.section import Section

METRIC = r"^validation/(pairs(/[^/]+-[^/]+)?|instructions)$"
"""Metrics by which a run may be stopped or its best checkpoint chosen: all are losses, so lower is better."""


class ValidationConfig(Section):
    """The loss on held-out pairs and old instructions, at intervals; never on an evaluation suite."""

    every: int = Field(50, ge=1)
    """Steps between validations; the base, before the first step, and the last step are validated too."""
    pairs: int = Field(200, ge=0)
    """Directed pairs at most: of the corpora's `holdout`, and where a corpus has none, kept from its training pairs by
    whole sentences, a tenth of them at most."""
    instructions: int = Field(200, ge=0)
    """Old instructions at most, kept from the replay pool, a tenth of it at most; read for a ratio of 0 too."""
    asynchronous: bool = False
    """Have a Ray task of its own validate the step's checkpoint while training goes on, but for the base and the last
    step. Results come some steps late, how many depends on the machine: so does the step at which `train.stop` ends a
    run, and the weights of such a run. It may be changed when a run goes on."""


class StopRule(Section):
    """One reason to end a run early: no more gain (`patience`) or forgetting (`max_rise`)."""

    metric: str = Field("validation/instructions", pattern=METRIC)
    """`validation/pairs`, `validation/pairs/eng-jav` (a direction) or `validation/instructions`."""
    patience: int | None = Field(None, ge=1)
    """End after this many validations in a row without a gain."""
    min_delta: float = Field(0.0, ge=0)
    """Nats per token by which the loss must fall to count as a gain."""
    max_rise: float | None = Field(None, ge=0)
    """End when the loss is this many nats per token above the base's; such a step is never the best."""

    @model_validator(mode="after")
    def _one_reason(self) -> Self:
        if (self.patience is None) == (self.max_rise is None):
            raise ValueError("give exactly one of `patience` and `max_rise`; a list may hold both as two rules")
        return self
