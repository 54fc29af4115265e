"""`promotion`: what a candidate must show before it becomes the champion."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ialign_ray.config.section import Section


class PromotionConfig(Section):
    """Limits of the gate, declared before the scores are known, beside `evaluate.scorer` and `evaluate.tolerance`."""

    better_on: Annotated[list[str], Field(min_length=1)] | None = None
    """Suites on each of which the new languages (L2) must be better; when left out, all classification suites that
    hold one, or all translation suites where there is none. On the other suites they must not be shown worse."""
    loss_tolerance: float = Field(0.1, ge=0)
    """Largest acceptable rise of loss on old work: nats/token of old instructions, bits/byte of old translations. The
    verdict of an evaluation speaks of the same limit."""
    min_rows: int = Field(30, ge=2)
    """Fewer sentences in common than this decide nothing."""
