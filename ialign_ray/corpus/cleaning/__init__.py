"""Cleaning steps of parallel text by their settings; `step` declares their interface."""

from __future__ import annotations

from typing import Any

from ialign_ray.config import cleaning
from ialign_ray.config.base import Section
from ialign_ray.corpus.cleaning.characters import Characters, Normalise
from ialign_ray.corpus.cleaning.duplicates import Duplicates
from ialign_ray.corpus.cleaning.identify import Identify
from ialign_ray.corpus.cleaning.near_duplicates import NearDuplicates
from ialign_ray.corpus.cleaning.pairs import Links, Numbers
from ialign_ray.corpus.cleaning.ratio import Ratio
from ialign_ray.corpus.cleaning.script import Script
from ialign_ray.corpus.cleaning.shape import Empty, Identical, Length
from ialign_ray.corpus.cleaning.step import CorpusStep, RowStep

STEPS: dict[type[Section], type[Any]] = {
    cleaning.NormaliseStep: Normalise,
    cleaning.CharactersStep: Characters,
    cleaning.EmptyStep: Empty,
    cleaning.IdenticalStep: Identical,
    cleaning.LengthStep: Length,
    cleaning.RatioStep: Ratio,
    cleaning.ScriptStep: Script,
    cleaning.LanguageStep: Identify,
    cleaning.NumbersStep: Numbers,
    cleaning.LinksStep: Links,
    cleaning.DuplicatesStep: Duplicates,
    cleaning.NearDuplicatesStep: NearDuplicates,
}
"""Settings -> RowStep or CorpusStep. Reading `STEPS[type(settings)].version` does not create the step, which may load a
model."""


def make_step(settings: cleaning.Step) -> RowStep | CorpusStep:
    """Create the step that these settings describe. Raises ConfigError if they name something unknown."""
    step: RowStep | CorpusStep = STEPS[type(settings)](settings)
    return step
