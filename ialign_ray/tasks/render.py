"""One worded example of a pair of sentences."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ialign_ray.errors import ConfigError, DataError
from ialign_ray.tasks.alignment import FALLBACK, TASKS, DrawContext
from ialign_ray.tasks.negatives import Negatives, Pair
from ialign_ray.tasks.noise import Noise
from ialign_ray.tasks.templating import TemplateSet, fill

Names = Callable[[str, str], str]
"""(language code, language of the wording) -> the language's name."""


@dataclass(frozen=True)
class Example:
    """A prompt and the text to be learned."""

    prompt: str
    target: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges of the prompt that may be shortened: sentences, never the instruction."""
    task: str
    template: str
    """Set and id, `eng/mt-3`; for replay, the source."""
    turns: tuple[Mapping[str, str], ...] = ()
    """Turns (`role`, `content`) of a conversation that is more than a request and its answer."""


def draw_task(mix: Mapping[str, float], rng: random.Random) -> str:
    """One task of a mix."""
    return rng.choices(list(mix), list(mix.values()))[0]


def render(
    task: str,
    pair: Pair,
    *,
    rng: random.Random,
    templates: Sequence[TemplateSet],
    names: Names,
    negatives: Negatives,
    noise: Noise | None = None,
) -> Example:
    """One example of a task, or of `FALLBACK` for a pair that the task cannot use.

    The order in which random numbers are drawn is part of the result: wording, the task's draws, template.
    Raises ConfigError for an unknown task, or one that leaves a slot of its template without a value.
    """
    wording = rng.choice(templates)
    context = DrawContext(negatives, wording.answers, noise or Noise())
    drawn = TASKS.find(task, "tasks.mix").draw(pair, rng, context)
    if drawn is None:
        task = FALLBACK
        drawn = TASKS[task].draw(pair, rng, context)
        assert drawn is not None  # any pair can be translated
    template = rng.choice(wording.tasks[task])
    spoken = {slot: names(code, wording.language) for slot, code in drawn.languages.items()}
    try:
        prompt, spans = fill(template.input, drawn.sentences, spoken)
    except DataError as error:
        raise ConfigError(f"tasks.mix: task {task!r} and its template {template.id!r}: {error}") from error
    return Example(prompt, drawn.target, spans, task, f"{wording.name}/{template.id}")
