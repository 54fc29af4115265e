"""Steps that parallel text goes through before it is trained on: from the settings of a step to the step.

What a step is stands in `step`.
"""

from __future__ import annotations

from typing import Any

from ialign_ray.config import cleaning
from ialign_ray.corpus.cleaning.characters import Characters, Normalise
from ialign_ray.corpus.cleaning.duplicates import Duplicates
from ialign_ray.corpus.cleaning.identify import Identify
from ialign_ray.corpus.cleaning.near_duplicates import NearDuplicates
from ialign_ray.corpus.cleaning.pairs import Links, Numbers
from ialign_ray.corpus.cleaning.ratio import Ratio
from ialign_ray.corpus.cleaning.script import Script
from ialign_ray.corpus.cleaning.shape import Empty, Identical, Length
from ialign_ray.corpus.cleaning.step import CorpusStep, RowStep

_STEPS: dict[type[Any], type[Any]] = {
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


def make_step(settings: cleaning.Step) -> RowStep | CorpusStep:
    """The step that these settings describe. Raises ConfigError where they name something unknown."""
    step: RowStep | CorpusStep = _STEPS[type(settings)](settings)
    return step


def version_of(settings: cleaning.Step) -> int:
    """The declared version of the step that these settings describe; makes no step, which may load a model."""
    version: int = _STEPS[type(settings)].version
    return version
