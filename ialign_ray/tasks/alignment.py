"""Alignment tasks: how one example is drawn from a pair of translations (InstructAlign, arXiv 2305.13627).

An installed package adds a task by an entry point of the group `ialign.tasks` that names an `AlignmentTask`;
experiments then give it a weight in `tasks.mix`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ialign_ray.plugins import Extensible
from ialign_ray.tasks.negatives import Negatives, Pair
from ialign_ray.tasks.noise import Noise, noisy


@dataclass(frozen=True)
class TaskDraw:
    """One example before it is worded."""

    sentences: Mapping[str, str]
    """Text slot -> sentence."""
    languages: Mapping[str, str]
    """Name slot -> language code; the template shows its name in the language of the wording."""
    target: str
    """Text to be learned."""


@dataclass(frozen=True)
class DrawContext:
    """Material for a draw in addition to the pair."""

    negatives: Negatives
    """Mismatched sentences of the corpus."""
    answers: Mapping[bool, str]
    """The words for yes (True) and no (False) in the language of the wording."""
    noise: Noise
    """Probabilities of the token noises."""


@dataclass(frozen=True)
class AlignmentTask:
    """The declaration of a task, in `TASKS` under the name that `tasks.mix` and template sets use."""

    text_slots: tuple[str, ...]
    """Slots that each template must have exactly once: they contain sentences, which may be shortened."""
    name_slots: tuple[str, ...]
    """Slots that a template may have: they contain names of languages."""
    draw: Callable[[Pair, random.Random, DrawContext], TaskDraw | None]
    """Draw an example with values for all slots, with no source of randomness other than the generator, so that runs
    can be repeated. None for a pair that the task cannot use: it becomes an example of `FALLBACK`."""
    version: int = 1
    """Raised whenever the same pair and random numbers give a different example: part of the key of encoded
    examples."""
    templates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Language of the wording -> template id -> template, for template sets of that language that lack the task."""


def restore(pair: Pair, rng: random.Random, context: DrawContext) -> TaskDraw | None:
    """MLM: noisy source -> source. None for a source that cannot be noised."""
    damaged = noisy(pair.source, rng, context.noise)
    if damaged is None:
        return None
    return TaskDraw({"source": damaged}, {"language": pair.source_language}, pair.source)


def restore_with_translation(pair: Pair, rng: random.Random, context: DrawContext) -> TaskDraw | None:
    """TLM: noisy source with its clean translation -> source. None for a source that cannot be noised."""
    damaged = noisy(pair.source, rng, context.noise)
    if damaged is None:
        return None
    languages = {"language": pair.source_language, "context_language": pair.target_language}
    return TaskDraw({"source": damaged, "context": pair.target}, languages, pair.source)


def translate(pair: Pair, rng: random.Random, context: DrawContext) -> TaskDraw:
    """MT: source -> target."""
    languages = {"source_language": pair.source_language, "target_language": pair.target_language}
    return TaskDraw({"source": pair.source}, languages, pair.target)


def judge(pair: Pair, rng: random.Random, context: DrawContext) -> TaskDraw | None:
    """XSS: source with its translation or a mismatched sentence, half and half -> yes or no.

    None if a mismatched sentence is needed and the corpus lacks one, or if the surface gives the answer away.
    """
    match = rng.random() < 0.5
    second = pair.target if match else context.negatives.draw(pair, rng)
    if second is None or not context.negatives.uses(pair, second, match, rng):
        return None
    languages = {"first_language": pair.source_language, "second_language": pair.target_language}
    return TaskDraw({"first": pair.source, "second": second}, languages, context.answers[match])


XSS = "xss"
FALLBACK = "mt"
"""The task of pairs that the drawn task cannot use; every template set of a run has templates for it."""
TASKS: Extensible[AlignmentTask] = Extensible(
    "ialign.tasks",
    AlignmentTask,
    {
        "mlm": AlignmentTask(("source",), ("language",), restore, version=2),
        "tlm": AlignmentTask(
            ("source", "context"), ("language", "context_language"), restore_with_translation, version=2
        ),
        "mt": AlignmentTask(("source",), ("source_language", "target_language"), translate),
        XSS: AlignmentTask(("first", "second"), ("first_language", "second_language"), judge, version=2),
    },
)
