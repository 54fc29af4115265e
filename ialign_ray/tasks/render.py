"""A pair of sentences as one example of MLM, TLM, MT or XSS (InstructAlign, arXiv 2305.13627)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ialign_ray.corpus.identity import text_key
from ialign_ray.tasks.noise import Noise, noisy
from ialign_ray.tasks.templating import TemplateSet, fill

Names = Callable[[str, str], str]
"""(language code, language of the wording) -> the language's name."""


@dataclass(frozen=True)
class Pair:
    """A directed pair of translations."""

    row_id: str
    source_language: str
    target_language: str
    source: str
    target: str


@dataclass(frozen=True)
class Example:
    """Text that goes in and text that is learned."""

    prompt: str
    target: str
    spans: tuple[tuple[int, int], ...]
    """Character ranges of the prompt that may be shortened: sentences, never the instruction."""
    task: str
    template: str
    """Set and id, `eng/mt-3`; for replay, the source."""


class Negatives:
    """Sentences that are no translation of each other, alike on the surface.

    A negative is a true sentence of the corpus: of 24 candidates drawn at random, one of similar length
    to the true translation, and for half of them the one that shares most words and numbers with it.
    """

    CANDIDATES = 24

    def __init__(self, sentences: Mapping[str, Mapping[str, str]]) -> None:
        """`sentences`: language -> sentence id -> text."""
        self._ids = {language: sorted(by_id) for language, by_id in sentences.items()}
        self._texts = sentences

    def draw(self, pair: Pair, rng: random.Random) -> str | None:
        """A sentence of the pair's target language that translates another one; None if there is none."""
        ids, texts = self._ids.get(pair.target_language, []), self._texts.get(pair.target_language, {})
        own = pair.row_id.rpartition(":")[0]
        found = [texts[i] for i in (rng.choice(ids) for _ in range(self.CANDIDATES if ids else 0)) if i != own]
        found = [t for t in found if text_key(t) != text_key(pair.target)]
        if not found:
            return None
        # the four nearest in length, so that the ratio of lengths tells nothing
        near = sorted(found, key=lambda t: abs(len(t) - len(pair.target)))[:4]
        return max(near, key=lambda t: overlap(t, pair.target)) if rng.random() < 0.5 else near[0]


def overlap(a: str, b: str) -> float:
    """Shared words as a share of all words of two texts (Jaccard)."""
    left, right = set(a.casefold().split()), set(b.casefold().split())
    return len(left & right) / max(1, len(left | right))


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
    """One example. A sentence that cannot be noised, or has no mismatch, becomes an MT example.

    MLM: noisy source -> source. TLM: noisy source with its clean translation -> source. MT: source ->
    target. XSS: source with its translation or a mismatched sentence, half and half -> yes or no.
    """
    wording = rng.choice(templates)
    a, b = (names(code, wording.language) for code in (pair.source_language, pair.target_language))
    if task in ("mlm", "tlm"):
        damaged = noisy(pair.source, rng, noise)
        if damaged is not None:
            sentences = {"source": damaged, "context": pair.target}
            return _example(task, wording, rng, sentences, {"language": a, "context_language": b}, pair.source)
    if task == "xss":
        match = rng.random() < 0.5
        second = pair.target if match else negatives.draw(pair, rng)
        if second is not None:
            sentences = {"first": pair.source, "second": second}
            spoken = {"first_language": a, "second_language": b}
            return _example(task, wording, rng, sentences, spoken, wording.answers[match])
    return _example(
        "mt", wording, rng, {"source": pair.source}, {"source_language": a, "target_language": b}, pair.target
    )


def _example(
    task: str,
    wording: TemplateSet,
    rng: random.Random,
    sentences: Mapping[str, str],
    names: Mapping[str, str],
    target: str,
) -> Example:
    template = rng.choice(getattr(wording, task))
    prompt, spans = fill(template.input, sentences, names)
    return Example(prompt, target, spans, task, f"{wording.name}/{template.id}")
