"""Prompts with a context: exemplars, pairs, words and label lines before the question, never cut inside one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ialign_ray.errors import DataError
from ialign_ray.tasks.templating import fill
from ialign_ray.tokens.chat import ASSISTANT, USER, Turn

Form = Literal["lines", "turns", "table"]
SEPARATOR: Final = "\n\n"
"""Text between the blocks of a prompt."""
Prompt = str | list[Turn]


@dataclass(frozen=True)
class ContextBlock:
    """One part of a context, which is in the prompt as a whole or not at all."""

    texts: Mapping[str, str]
    """Texts of an exemplar by slot; of a line without an answer, the line as `line`."""
    answer: str | None = None
    """Label word of an exemplar."""

    @classmethod
    def line(cls, text: str) -> ContextBlock:
        """A block that is a line of text."""
        return cls({"line": text})


@dataclass(frozen=True)
class Context:
    """Blocks before one question, in the order of the prompt, the nearest exemplar last."""

    head: Sequence[ContextBlock] = ()
    """Label line and dictionary, which are never dropped."""
    before: Sequence[ContextBlock] = ()
    """Pairs before the exemplars."""
    exemplars: Sequence[ContextBlock] = ()
    after: Sequence[ContextBlock] = ()
    """Pairs after the exemplars."""

    @property
    def size(self) -> int:
        """Blocks that may be dropped."""
        return len(self.before) + len(self.exemplars) + len(self.after)

    def shorter(self) -> Context:
        """The context without its farthest block: pairs first. Raises DataError if no block is left to drop."""
        for name in ("before", "after", "exemplars"):
            if blocks := getattr(self, name):
                kept = {key: getattr(self, key) for key in ("head", "before", "exemplars", "after")}
                return Context(**{**kept, name: blocks[1:]})
        raise DataError("no exemplar and no pair fits the model's window; lower k, or choose shorter texts")


def render(context: Context, question: Mapping[str, str], text: str, form: Form) -> Prompt:
    """The prompt of a question (slot -> text) under a wording `text`, as one text, or as turns for `form: turns`."""
    asked = fill(text, dict(question))[0]
    lines = [block.texts["line"] for block in (*context.head, *context.before)]
    if form == "turns":
        turns: list[Turn] = []
        for block in context.exemplars:
            turns.append({"role": USER, "content": fill(text, dict(block.texts))[0]})
            turns.append({"role": ASSISTANT, "content": block.answer or ""})
        turns.append({"role": USER, "content": asked})
        first = SEPARATOR.join([*lines, turns[0]["content"]])
        return [{"role": USER, "content": first}, *turns[1:]]
    if form == "table" and context.exemplars:
        rows = [
            " | ".join([*(" ".join(t.split()) for t in b.texts.values()), b.answer or ""]) for b in context.exemplars
        ]
        lines.append("\n".join(rows))
    else:
        lines += [f"{fill(text, dict(block.texts))[0]}\n{block.answer}" for block in context.exemplars]
    return SEPARATOR.join([*lines, *(block.texts["line"] for block in context.after), asked])


def fitting(context: Context, renders: Callable[[Context], int], room: int) -> tuple[Context, int]:
    """The context without as many blocks as are too long, and their number.

    `renders` returns the tokens of the prompt with a context, of which `room` fit the model. Raises DataError if a
    context with blocks would lose all of them.
    """
    size = context.size
    while context.size and renders(context) > room:
        context = context.shorter()
    if size and not context.size:
        context.shorter()  # raises
    return context, size - context.size


def pair_line(source: str, target: str, source_language: str, target_language: str) -> ContextBlock:
    """A translation pair as a line."""
    return ContextBlock.line(f'"{source}" ({source_language}) means "{target}" ({target_language}).')


def word_lines(words: Sequence[tuple[str, str]]) -> ContextBlock:
    """Words with their translations as one block."""
    return ContextBlock.line("Words: " + "; ".join(f"{word} = {meaning}" for word, meaning in words))


def label_line(first: Sequence[str], second: Sequence[str], first_language: str, second_language: str) -> ContextBlock:
    """The label words of two languages as one block."""
    pairs = ", ".join(f'"{a}" is "{b}"' for a, b in zip(first, second, strict=True))
    return ContextBlock.line(f"Labels in {first_language} and {second_language}: {pairs}.")
