"""Prompts as token ids, worded as in the model's training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import langcodes

from ialign_ray.config.languages import LanguagesConfig
from ialign_ray.errors import ConfigError
from ialign_ray.languages import canonical, display_name
from ialign_ray.serving.api.errors import ApiError, printable, wrong
from ialign_ray.serving.api.schemas import Message
from ialign_ray.serving.api.tokeniser import Tokeniser
from ialign_ray.serving.protocol import Served
from ialign_ray.tasks.alignment import FALLBACK
from ialign_ray.tasks.templating import TemplateSet, fill, load_templates
from ialign_ray.tokens.chat import RefusedTurnsError, Turn


def chat_prompt(tokeniser: Tokeniser, messages: Sequence[Message]) -> list[int]:
    """Encode a conversation up to the beginning of the answer, exactly as in training.

    Without a chat template it has the form of `Encoder.conversation`. Raises ApiError as `Tokeniser.prompt` does.
    """
    turns: list[Turn] = [{"role": m.role.replace("developer", "system"), "content": m.text} for m in messages]
    return turns_prompt(tokeniser, turns, "messages")


def turns_prompt(tokeniser: Tokeniser, turns: Sequence[Turn], param: str) -> list[int]:
    """Encode turns up to the beginning of the answer. Raises ApiError, which names `param` if a turn is refused."""
    encoder = tokeniser.served.encoder
    tokeniser.checked("".join(turn["content"] for turn in turns), "prompt")
    try:
        return [int(i) for i in encoder.conversation(turns)]
    except RefusedTurnsError as error:
        message = "the model's chat template does not accept these roles in this order"
        raise wrong(param, message if encoder.chat else str(error)) from error


def known_ids(served: Served, ids: Sequence[int]) -> list[int]:
    """Return the ids. Raises ApiError (400) if the model lacks one."""
    size = len(served.encoder.tokenizer)
    if max(ids) >= size:
        raise wrong("prompt", f"token id {max(ids)} is not one of this model's 0 to {size - 1}")
    return list(ids)


def language_of(text: str, param: str, experiment: Any) -> str:
    """Return the code of a language given by code or name; the experiment's names take precedence.

    Raises ApiError (400) if it is not a known language.
    """
    names = experiment.languages if experiment is not None else LanguagesConfig()
    wanted = text.strip().casefold()
    if not text.isprintable() or not 2 <= len(wanted) <= 64:
        raise _no_language(text, param)
    for code in dict.fromkeys([*names.l1, *names.l2, *names.l3, *names.names]):
        called = {display_name(code, spoken, names.names).casefold() for spoken in ("eng", "ind", code)}
        if wanted == code.casefold() or wanted in called:
            return str(code)
    try:
        code = _code(text.strip())
        display_name(code, "eng", names.names)
    except (ConfigError, LookupError, ValueError) as error:
        raise _no_language(text, param) from error
    return code


def _code(text: str) -> str:
    try:
        return canonical(text)
    except ConfigError:
        return canonical(str(langcodes.find(text)))


def _no_language(text: str, param: str) -> ApiError:
    message = f"{param} {printable(text)!r} is not a known language; use a code such as ind, or a name"
    return wrong(param, message, "unknown_language")


class Wording:
    """Wording of translation requests: the first template of the model's training that names both languages."""

    def __init__(self, served: Served, prompt_language: str | None) -> None:
        self.names = served.experiment.languages.names if served.experiment is not None else {}
        sets = _sets(tuple(served.experiment.tasks.templates) if served.experiment is not None else ())
        spoken = None if prompt_language is None else language_of(prompt_language, "prompt_language", None)
        fitting = [one for one in sets if spoken in (None, one.language)]
        if not fitting:
            have = ", ".join(one.language for one in sets)
            raise wrong("prompt_language", f"the model was not trained with requests in that language, but in {have}")
        self.language = fitting[0].language
        both = [
            t.input
            for t in fitting[0].tasks[FALLBACK]
            if "{source_language}" in t.input and "{target_language}" in t.input
        ]
        self._template = (both or [fitting[0].tasks[FALLBACK][0].input])[0]

    def of(self, text: str, source: str, target: str) -> str:
        """Build the request to translate a text."""
        called = {
            f"{side}_language": display_name(code, self.language, self.names)
            for side, code in (("source", source), ("target", target))
        }
        return fill(self._template, {"source": text}, called)[0]


@lru_cache(maxsize=64)
def _sets(names: tuple[str, ...]) -> tuple[TemplateSet, ...]:
    """Load the sets with translation templates, skipping files that exist only on the training machine."""
    found = []
    for name in names:
        try:
            found.append(load_templates(name))
        except ConfigError:
            continue
    return tuple(one for one in found if FALLBACK in one.tasks) or (load_templates("eng"),)
