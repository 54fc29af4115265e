"""From what was asked to token ids, worded as the model was trained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import langcodes

from ialign_ray.config.languages import LanguagesConfig
from ialign_ray.errors import ConfigError
from ialign_ray.languages import canonical, display_name
from ialign_ray.serving.api.errors import ApiError, printable, wrong
from ialign_ray.serving.api.request import Call
from ialign_ray.serving.api.schemas import Message
from ialign_ray.serving.protocol import Served
from ialign_ray.tasks.alignment import FALLBACK
from ialign_ray.tasks.templating import TemplateSet, fill, load_templates

Tokens = TypeVar("Tokens")
_LONG = 16_384  # bytes of a body; as many are tokenised in some 10 ms


async def tokenised(call: Call, served: Served, tokenise: Callable[[], Tokens]) -> Tokens:
    """What the function gives; of a long body in a thread, since it would hold up all other answers.

    Not of an encoder-decoder, whose tokenizer may have modes for source and target and so belongs to one thread.
    """
    here = call.bytes_in < _LONG or served.encoder.seq2seq
    return tokenise() if here else await asyncio.to_thread(tokenise)


def chat_prompt(served: Served, messages: Sequence[Message]) -> list[int]:
    """A conversation up to where the answer begins; a single user turn exactly as training asks it.

    Without a chat template there is nothing that tells turns apart: one user turn is taken, and system texts before
    it are put in front.
    """
    if not served.encoder.chat:
        return [int(i) for i in served.encoder.prompt(_single(messages))]
    if len(messages) == 1 and messages[0].role == "user":
        return [int(i) for i in served.encoder.prompt(messages[0].text)]
    turns = [{"role": m.role.replace("developer", "system"), "content": m.text} for m in messages]
    tokenizer = served.encoder.tokenizer
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja2's: templates refuse roles in an order that they do not know
        if not type(error).__module__.startswith("jinja2"):
            raise
        raise wrong("messages", "the model's chat template does not take these roles in this order") from error
    return [int(i) for i in tokenizer(rendered, add_special_tokens=False)["input_ids"]]


def _single(messages: Sequence[Message]) -> str:
    roles = [message.role for message in messages]
    if roles[-1] != "user" or not set(roles[:-1]) <= {"system", "developer"}:
        message = "this model has no chat template, so it takes one user turn (with system texts before it, if any)"
        raise wrong("messages", message, "single_turn_only")
    return "\n".join(message.text for message in messages)


def read(served: Served, text: str) -> list[int]:
    """The ids of a text as it is; of an empty one, what begins a text."""
    tokenizer = served.encoder.tokenizer
    ids = [int(i) for i in tokenizer(text)["input_ids"]]
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ids or [int(start)]


def known_ids(served: Served, ids: Sequence[int]) -> list[int]:
    """The ids, if the model has them all."""
    size = len(served.encoder.tokenizer)
    if max(ids) >= size:
        raise wrong("prompt", f"token id {max(ids)} is not one of this model's 0 to {size - 1}")
    return list(ids)


def language_of(text: str, param: str, experiment: Any) -> str:
    """The code of a language given by code or by name; the experiment's own names come first.

    Raises ApiError (400) where it is no language that can be named.
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
    message = f"{param} {printable(text)!r} is no language that is known; use a code such as ind, or a name"
    return wrong(param, message, "unknown_language")


class Wording:
    """How a model is asked to translate: the first template of its training that names both languages."""

    def __init__(self, served: Served, prompt_language: str | None) -> None:
        self._names = served.experiment.languages.names if served.experiment is not None else {}
        sets = _sets(tuple(served.experiment.tasks.templates) if served.experiment is not None else ())
        spoken = None if prompt_language is None else language_of(prompt_language, "prompt_language", None)
        fitting = [one for one in sets if spoken in (None, one.language)]
        if not fitting:
            have = ", ".join(one.language for one in sets)
            raise wrong("prompt_language", f"the model was not trained with requests in that language, but in {have}")
        self._language = fitting[0].language
        both = [
            t.input
            for t in fitting[0].tasks[FALLBACK]
            if "{source_language}" in t.input and "{target_language}" in t.input
        ]
        self._template = (both or [fitting[0].tasks[FALLBACK][0].input])[0]

    def of(self, text: str, source: str, target: str) -> str:
        """The request to translate a text."""
        called = {
            f"{side}_language": display_name(code, self._language, self._names)
            for side, code in (("source", source), ("target", target))
        }
        return fill(self._template, {"source": text}, called)[0]


@lru_cache(maxsize=64)
def _sets(names: tuple[str, ...]) -> tuple[TemplateSet, ...]:
    """The readable sets that have templates for translation; a user's file may exist on the training machine only."""
    found = []
    for name in names:
        try:
            found.append(load_templates(name))
        except ConfigError:
            continue
    return tuple(one for one in found if FALLBACK in one.tasks) or (load_templates("eng"),)
