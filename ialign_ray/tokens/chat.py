"""Chat templates: how one is rendered, and what it writes around an assistant's answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

from jinja2 import TemplateError

from ialign_ray.errors import ModelError
from ialign_ray.tokens.control import TextTokenizer

Turn = Mapping[str, str]
"""`role` and `content`."""
Render = Callable[[Sequence[Turn], bool], str]
"""Renders turns; True adds the generation prompt, the beginning of the assistant's turn."""

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
_ASKED, _ANSWERED, _RULED = "Qzxq", "Xqzx", "Szqs"
"""Contents of the turns by which a template is examined; no template contains these words."""
_CLOCK: Final = re.compile(r"""strftime_now\s*\(\s*(["'])(.*?)\1\s*\)""")
_CALLED: Final = re.compile(r"strftime_now\s*\(")
_OPENED: Final = re.compile(r"<(think|thinking|thought|reason|reasoning|analysis)>\s*$")


class RefusedTurnsError(ModelError):
    """The template does not accept these roles in this order."""


@dataclass(frozen=True)
class TurnShape:
    """Texts that a template writes around an answer, and its treatment of system text."""

    opening: str = ""
    """Text after the generation prompt and before an answer without reasoning: Qwen3's empty `<think>` block."""
    closing: str = ""
    """Text between an answer and the token that ends it: the space of Llama 2."""
    end: str = ""
    """Name of the control token that ends a turn; empty if the template writes none."""
    folds_system: bool = False
    """True if the template refuses or drops system text, which then begins the first user turn (Gemma)."""


@dataclass(frozen=True)
class LocalRender:
    """Rendering with a tokenizer, in this process."""

    tokenizer: Any
    arguments: Mapping[str, Any]
    """Variables of the template."""
    date: str | None
    """Day that the template prints (ISO); None for the current one."""

    @cached_property
    def _template(self) -> str:
        return dated(str(self.tokenizer.get_chat_template()), self.date)

    def __call__(self, turns: Sequence[Turn], generation: bool) -> str:
        """Render turns, with the generation prompt if `generation`.

        Raises RefusedTurnsError with the template's own reason, or ModelError if the template fails.
        """
        cure = "set model.chat: never, or variables of the template in model.chat_template_kwargs"
        name = repr(self.tokenizer.name_or_path)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(turns),
                    chat_template=self._template,
                    tokenize=False,
                    add_generation_prompt=generation,
                    **self.arguments,
                )
            )
        except TemplateError as error:
            roles = ", ".join(turn["role"] for turn in turns)
            # `raise_exception` of a template raises this very class
            kind = RefusedTurnsError if type(error) is TemplateError else ModelError
            raise kind(f"the chat template of {name} refuses the roles {roles}: {error}; {cure}") from error
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise ModelError(f"the chat template of {name} fails ({type(error).__name__}: {error}); {cure}") from error


def dated(template: str, date: str | None) -> str:
    """Return a template that prints this day (ISO) where it asks for the current one; unchanged for None.

    Raises ModelError if the template computes the format of the date.
    """
    if date is None:
        return template
    day = datetime.fromisoformat(date)
    # in the source: transformers passes no function to a template
    found = _CLOCK.sub(lambda call: json.dumps(day.strftime(call[2])), template)
    if _CALLED.search(found):
        raise ModelError(
            "the chat template computes how it prints the date, so that the date cannot be fixed; set model.chat: never"
        )
    return found


def examine(render: Render, texts: TextTokenizer) -> TurnShape:
    """Find out what a template writes, from short conversations; the default where it refuses those."""
    ask, answer = {"role": USER, "content": _ASKED}, {"role": ASSISTANT, "content": _ANSWERED}
    try:
        begin = render([ask], True)
        folds = _folds(render, ask)
        whole = render([ask, answer], False)
    except ModelError:
        return TurnShape()
    at = whole.rfind(_ANSWERED)
    if at < 0:
        return TurnShape(folds_system=folds)
    tail = whole[at + len(_ANSWERED) :]
    opening = whole[len(begin) : at] if whole.startswith(begin) else ""
    # a model that is asked to think before each answer learns to answer at once; an answer inside the reasoning would
    # be neither
    if (opened := _OPENED.search(begin)) and f"</{opened[1]}>" not in opening:
        opening = ("" if begin.endswith("\n") else "\n") + f"</{opened[1]}>\n\n"
    end = texts.first_control(tail)
    closing = tail[: tail.find(end)] if end else ""
    return TurnShape(opening, closing, end, folds)


def _folds(render: Render, ask: Turn) -> bool:
    try:
        return _RULED not in render([{"role": SYSTEM, "content": _RULED}, ask], True)
    except ModelError:
        return True


def folded(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with system text at the beginning of the first user turn after it."""
    found: list[Turn] = []
    rules: list[str] = []
    for turn in turns:
        if turn["role"] == SYSTEM:
            rules.append(turn["content"])
        elif turn["role"] == USER and rules:
            found.append({**turn, "content": "\n\n".join([*rules, turn["content"]])})
            rules = []
        else:
            found.append(turn)
    return found
