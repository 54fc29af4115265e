"""`ablate`: which settings are varied, and how."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ialign_ray.config.section import Section

VARIED = ("tasks.", "replay.", "corpora.", "train.", "model.lora.", "model.tuning", "model.vocabulary")
"""What decides a run's weights; all runs are scored alike, from one base model."""


class AblateConfig(Section):
    """Lists of settings that `ialign ablate` trains and puts into one table."""

    axes: dict[str, list[Any]] = Field(default_factory=dict)
    """Field -> its values, e.g. `{replay.ratio: [0, 0.5], tasks.mix: [tlm, mt], "corpora.*.share": [0.1]}`."""
    one_at_a_time: bool = True
    """Vary one field and keep the file's own values for the others; false trains every combination."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    """Every setting runs once with each."""

    @field_validator("axes")
    @classmethod
    def _decides_weights(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for field, values in axes.items():
            if not field.startswith(VARIED) or field == "train.seed":
                raise ValueError(f"{field!r} cannot be an axis; use fields of {', '.join(VARIED)} and `seeds`")
            if not values:
                raise ValueError(f"{field!r} has no values; list some or leave it out")
        return axes
