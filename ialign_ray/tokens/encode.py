"""Token ids of prompt and target: the source text may be shortened, instruction and target never."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import regex

from ialign_ray.config.model import CHAT_DATE, ModelSettings
from ialign_ray.errors import ModelError
from ialign_ray.tokens.chat import (
    ASSISTANT,
    SYSTEM,
    USER,
    LocalRender,
    RefusedTurnsError,
    Render,
    Turn,
    examine,
    folded,
)
from ialign_ray.tokens.control import BREAK, TextTokenizer
from ialign_ray.tokens.joint import Joint, joint_of

_SYLLABLE = regex.compile(r"\X(?:\p{M}|(?<=[\p{InSC=Virama}\p{InSC=Invisible_Stacker}])\X)*")
"""A letter with its marks, and with the letters that a virama (Khmer coeng, Myanmar stacker) stacks under it."""
Spans = tuple[tuple[int, int], ...]
Parts = list[tuple[list[int], list[int] | None]]
"""Ids before an answer, and those of the answer; the last answer is None."""


@dataclass(frozen=True)
class Encoder:
    """Format of prompts and answers for a tokenizer; the same in training, scoring and generation.

    With a chat template the prompt is one user turn and the generation prompt, otherwise the prompt and
    a separator. The target is a separate token sequence, and ends with the token with which the template ends a turn,
    or with EOS. Neither contains a control token that a text spells (`TextTokenizer`).

    An encoder-decoder gets the two separately, without a separator: the prompt with the tokenizer's special tokens (T5:
    EOS at its end), and the target with those that precede a text (BART: `<s>`; T5: none).
    """

    tokenizer: Any
    """A transformers tokenizer."""
    chat: bool
    """True if the tokenizer's chat template is used."""
    separator: str = "\n"
    """Text between prompt and target if there is no chat template."""
    max_prompt: int = 256
    """Most prompt tokens."""
    max_target: int = 128
    """Most target tokens, including the one that ends it."""
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Language -> `max_prompt` and `max_target` of its pairs, where they differ."""
    seq2seq: bool = False
    """True if the model is an encoder-decoder."""
    lead: str = ""
    """Text before an answer, tokenised with it: the space of a separator that a byte-level tokenizer joins to the word
    after it (GPT-2 and BLOOM have a token ` positive`; a separate space and `positive` is a sequence that they never
    saw)."""
    anchor: str = ""
    """Text before an answer, tokenised with it and then removed, for tokenizers that would otherwise put a space before
    the answer (Llama 2)."""
    trimmed: bool = False
    """True if the space at the end of a rendered prompt is left out, because the answer's first token contains it."""
    opening: str = ""
    """Text that the template writes between the generation prompt and an answer; it is part of the prompt."""
    closing: str = ""
    """Text that the template writes between an answer and the token that ends it."""
    end: int | None = None
    """Token that ends a turn of the template; None for EOS."""
    folds_system: bool = False
    """True if the template has no place for system text."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Variables of the template, `model.chat_template_kwargs`."""
    date: str | None = None
    """Day that the template prints (ISO); None for the current one, as in runs that are older than this field."""
    every_answer: bool = True
    """True if every assistant turn of a conversation is learned, False for the last one only."""
    form: str | None = None
    """Unicode normalisation form of every text, that of the corpus (`cleaning`); None changes no text."""
    render: Render | None = field(default=None, compare=False, repr=False)
    """Renders turns by the chat template; None calls the tokenizer, in this process."""

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        chat: str,
        separator: str,
        max_prompt: int = 256,
        max_target: int = 128,
        *,
        seq2seq: bool = False,
        arguments: Mapping[str, Any] | None = None,
        date: str | None = CHAT_DATE,
        every_answer: bool = True,
        limits: Mapping[str, Mapping[str, int]] | None = None,
        form: str | None = None,
        render: Render | None = None,
    ) -> Encoder:
        """Return an encoder that uses the chat template if the tokenizer has one and `chat` is "auto"."""
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token; "
                "set eos_token in its tokenizer_config.json"
            )
        known: dict[str, Any] = {"max_prompt": max_prompt, "max_target": max_target}
        known |= {"every_answer": every_answer, "limits": dict(limits or {}), "form": form}
        if chat != "auto" or not getattr(tokenizer, "chat_template", None):
            joint = Joint("") if seq2seq else joint_of(tokenizer, "a", separator)
            return cls(tokenizer, False, joint.before, seq2seq=seq2seq, lead=joint.lead, anchor=joint.anchor, **known)
        texts = TextTokenizer(tokenizer)
        plain = dict(arguments or {})
        shape = examine(render or LocalRender(tokenizer, plain, date), texts)
        made = cls(
            tokenizer,
            True,
            "" if seq2seq else separator,
            seq2seq=seq2seq,
            opening=shape.opening,
            closing=shape.closing,
            end=texts.control[shape.end] if shape.end else None,
            folds_system=shape.folds_system,
            arguments=plain,
            date=date,
            render=render,
            **known,
        )
        return made if seq2seq else made._joined()

    @classmethod
    def of_model(cls, tokenizer: Any, settings: ModelSettings, **more: Any) -> Encoder:
        """Return the encoder of a model's settings; `more` are the other arguments of `of`."""
        return cls.of(
            tokenizer,
            settings.chat,
            settings.separator,
            arguments=settings.chat_template_kwargs,
            date=settings.chat_date.isoformat(),
            **more,
        )

    def settings(self) -> dict[str, Any]:
        """Everything except the tokenizer as plain data, from which `Encoder(tokenizer, **settings)` is equal."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("tokenizer", "render")}

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer: that of the template, and EOS."""
        return frozenset({self._end, int(self.tokenizer.eos_token_id)})

    def prompt(self, text: str) -> list[int]:
        """Ids of a request, up to the start of the answer."""
        if not self.chat:
            return self.plain(text + self.separator)
        return self.conversation([{"role": USER, "content": text}])

    def conversation(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of a conversation up to the answer.

        Without a chat template: each request with the separator, each answer with EOS, and system text in the line
        before the next request; an encoder-decoder reads all texts, a line each.

        Raises RefusedTurnsError if the roles or their order are not accepted.
        """
        if not self.chat:
            return [i for before, answer in self._plain_turns(turns) for i in (*before, *(answer or ()))]
        # the template has added the special tokens already
        return self.texts.rendered(self._begun(self._broken(turns)))

    def plain(self, text: str) -> list[int]:
        """Ids of a text with its special tokens; without EOS after it for a causal model, whose answer it would end."""
        ids = self.texts.framed(text)
        return ids if self.seq2seq else ids[: len(ids) - self.texts.suffix]

    def target(self, text: str) -> list[int]:
        """Ids of an answer, and the token that ends it."""
        return [*self.label(text + self.closing), self._end]

    def label(self, text: str) -> list[int]:
        """Ids of an answer without the token that ends it, as label scoring compares them."""
        if not self.seq2seq:
            return self._labels([text])[0]
        # as a target: some tokenizers put a language or start token before it
        ids = self.texts.framed(text, target=True)
        return ids[:-1] if ids[-1:] == [self.tokenizer.eos_token_id] else ids

    def labels(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of the labels of one set: each with the token that ends an answer if one of them begins another.

        Otherwise `good` could never lose to `good enough`, of whose probability it is a factor.
        """
        ids = [self.label(word) for word in words]
        begun = any(a is not b and a == b[: len(a)] for a in ids for b in ids)
        return [self.target(word) for word in words] if begun else ids

    def encode(self, prompt: str, target: str, spans: Spans = ()) -> tuple[list[int], list[int]] | None:
        """Ids of prompt and target, or None if they cannot fit.

        The texts at `spans` of the prompt are shortened by whole words, the longest first, until the
        prompt fits; at least one word of each remains.
        """
        target_ids = self.target(target)
        if len(target_ids) > self.max_target:
            return None
        prompt_ids = self.prompt(prompt)
        while len(prompt_ids) > self.max_prompt:
            # in proportion first, then again: tokens per word are known only after tokenising
            share = self.max_prompt / len(prompt_ids)
            shorter = shorten(prompt, spans, share)
            if shorter is None:
                return None
            prompt, spans = shorter
            prompt_ids = self.prompt(prompt)
        return prompt_ids, target_ids

    def encode_turns(self, turns: Sequence[Turn]) -> tuple[list[int], list[int], list[int]] | None:
        """Ids before the first learned answer, ids from it on, and places in these that are not learned; None if the
        conversation does not fit: an answer exceeds `max_target`, or all of it `max_prompt` + `max_target`.

        The last turn is the assistant's. An earlier answer is learned if the model sees exactly the ids before it when
        it gives that answer; a template may write the turns before the last one differently.

        Raises RefusedTurnsError if the roles or their order are not accepted.
        """
        if self.seq2seq or not self.every_answer:
            parts: Parts = [(self.conversation(turns[:-1]), None)]
        else:
            parts = self._template_parts(turns[:-1]) if self.chat else self._plain_turns(turns[:-1])
        *earlier, (last, _) = parts
        prompt: list[int] = []
        target: list[int] = []
        context: list[int] = []
        for before, answer in [*earlier, (last, self.target(turns[-1]["content"]))]:
            if target:
                context += range(len(target), len(target) + len(before))
            (target if target else prompt).extend(before)
            target += answer or ()
            if len(answer or ()) > self.max_target:
                return None
        return (prompt, target, context) if len(prompt) + len(target) <= self.max_prompt + self.max_target else None

    def within(self, *languages: str) -> Encoder:
        """Return the encoder with the limits of a pair of these languages: the longer ones."""
        own = [self.limits[code] for code in languages if code in self.limits]
        if not own:
            return self
        longest = {
            name: max(limits.get(name, getattr(self, name)) for limits in own) for name in ("max_prompt", "max_target")
        }
        key = tuple(longest.values())
        if key not in self._others:
            self._others[key] = replace(self, **longest)
        return self._others[key]

    def fits(self, prompt: str, target: str, turns: Sequence[Turn] = ()) -> bool:
        """Return True if an instruction or conversation, which must not be shortened, can be encoded in full.

        Raises RefusedTurnsError if the roles of `turns` or their order are not accepted.
        """
        return (self.encode_turns(turns) if turns else self.encode(prompt, target)) is not None

    def targets_fit(self, texts: list[str]) -> list[bool]:
        """For each text, True if it can be a target; a whole list is tokenised on all cores."""
        if self.seq2seq:
            return [len(ids) + len(self.target("")) <= self.max_target for ids in self.texts.batch(texts)]
        return [len(ids) < self.max_target for ids in self._labels([text + self.closing for text in texts])]

    # --- internal ---------------------------------------------------------------------------------------

    @cached_property
    def texts(self) -> TextTokenizer:
        """The tokenizer for texts."""
        return TextTokenizer(self.tokenizer, self.form)

    @cached_property
    def _others(self) -> dict[tuple[int, ...], Encoder]:
        return {}

    @property
    def _end(self) -> int:
        return int(self.tokenizer.eos_token_id if self.end is None else self.end)

    @cached_property
    def _render(self) -> Render:
        return self.render or LocalRender(self.tokenizer, self.arguments, self.date)

    @cached_property
    def _anchored(self) -> list[int]:
        return self.texts.ids(self.anchor)

    def _labels(self, texts: Sequence[str]) -> list[list[int]]:
        found = self.texts.batch([self.anchor + self.lead + text for text in texts])
        if not self.anchor:
            return found
        n = len(self._anchored)
        # where anchor and answer merge, the answer alone
        return [
            ids[n:] if ids[:n] == self._anchored else self.texts.ids(self.lead + text)
            for ids, text in zip(found, texts, strict=True)
        ]

    def _broken(self, turns: Sequence[Turn]) -> list[Turn]:
        turns = folded(turns) if self.folds_system else turns
        contents = self.texts.broken([turn["content"] for turn in turns])
        return [{**turn, "content": content} for turn, content in zip(turns, contents, strict=True)]

    def _begun(self, turns: Sequence[Turn]) -> str:
        """The rendered turns up to an answer."""
        rendered = self._render(turns, True) + self.opening
        return rendered.removesuffix(" ") if self.trimmed else rendered

    def _template_parts(self, turns: Sequence[Turn]) -> Parts:
        """The turns before the last answer."""
        turns = self._broken(turns)
        whole, at = self._begun(turns), 0
        end = "" if self.end is None else str(self.tokenizer.convert_ids_to_tokens(self.end))
        parts: Parts = []
        for k, turn in enumerate(turns):
            if turn["role"] != ASSISTANT or not end:
                continue
            begun = self._begun(turns[:k])
            for content in dict.fromkeys((turn["content"], turn["content"].strip())):  # many templates strip
                said = begun + (" " if self.trimmed else "") + content + self.closing + end
                if len(begun) >= at and whole.startswith(said):
                    answer = self.target(content.replace(BREAK, ""))
                    parts.append((self._since(whole[at : len(begun)], end if at else ""), answer))
                    at = len(said)
                    break
        return [*parts, (self._since(whole[at:], end if at else ""), None)]

    def _since(self, text: str, end: str) -> list[int]:
        """Ids of a part of a rendered text, after the token that ends a turn if it follows one."""
        ids = self.texts.rendered(end + text)
        return ids[1:] if end else ids

    def _plain_turns(self, turns: Sequence[Turn]) -> Parts:
        """The turns before the last answer, without a template."""
        if self.seq2seq:
            return [(self.plain("\n".join(turn["content"] for turn in turns)), None)]
        parts: Parts = []
        asked: list[Turn] = []
        for turn in (*turns, None):
            if turn is not None and turn["role"] in (USER, SYSTEM):
                asked.append(turn)
                continue
            if not any(before["role"] == USER for before in asked) or (turn and turn["role"] != ASSISTANT):
                raise _not_in_turn(turns)
            text = "\n".join(before["content"] for before in asked) + self.separator
            request = self.texts.ids(text) if parts else self.plain(text)
            parts.append((request, self.target(turn["content"]) if turn else None))
            asked = []
        return parts

    def _joined(self) -> Encoder:
        """The encoder with answers that are joined to the generation prompt as in one text."""
        try:
            begun = self._begun([{"role": USER, "content": "a"}])
        except ModelError:  # it is raised again by whatever needs the prompt
            return self
        name = self.texts.last_control(begun)
        before = begun[begun.rfind(name) + len(name) :]
        joint = joint_of(self.tokenizer, name, before)
        return replace(self, lead=joint.lead, anchor=joint.anchor, trimmed=joint.before != before)


def _not_in_turn(turns: Sequence[Turn]) -> RefusedTurnsError:
    roles = ", ".join(turn["role"] for turn in turns)
    return RefusedTurnsError(
        f"a model without a chat template accepts system text, requests and answers in turn, up to a request; these "
        f"roles are {roles}"
    )


def shorten(prompt: str, spans: Spans, share: float) -> tuple[str, Spans] | None:
    """Cut the longest span to about `share` of its words, one fewer at least; None if all are one word.

    A text that is written without spaces (Thai, Chinese, Khmer) is cut between written syllables.
    """
    divisible = [k for k, (start, end) in enumerate(spans) if len(_pieces(prompt[start:end])[0]) > 1]
    if not divisible:
        return None
    longest = max(divisible, key=lambda k: spans[k][1] - spans[k][0])
    start, end = spans[longest]
    pieces, joint = _pieces(prompt[start:end])
    text = joint.join(pieces[: max(1, min(len(pieces) - 1, int(len(pieces) * share)))])
    # spans after the shortened one move with the text
    moved = len(text) - (end - start)
    shifted = tuple(
        (start, start + len(text)) if k == longest else (a + moved, b + moved) if a >= end else (a, b)
        for k, (a, b) in enumerate(spans)
    )
    return prompt[:start] + text + prompt[end:], shifted


def _pieces(text: str) -> tuple[list[str], str]:
    """Pieces of a text, and their separator: words, or written syllables if a word is implausibly long."""
    words = text.split()
    return (_SYLLABLE.findall(text), "") if len(words) == 1 and len(text) > 40 else (words, " ")
