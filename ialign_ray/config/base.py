"""Base class of the sections of the experiment file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of the experiment file: unknown keys are refused, and the docstring under a field documents it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True)
