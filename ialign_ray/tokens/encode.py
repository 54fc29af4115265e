"""Token ids of prompt and target: the source text may be shortened, instruction and target never."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ialign_ray.errors import ModelError

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Encoder:
    """Format of prompts and answers for a tokenizer; the same in training, scoring and generation.

    With a chat template the prompt is one user turn and the generation prompt, otherwise the prompt and
    a separator. The target is its own token sequence and ends with EOS.

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
    """Most target tokens, including EOS."""
    seq2seq: bool = False
    """True if the model is an encoder-decoder."""
    lead: str = ""
    """Text before an answer, tokenised with it: the space of a separator that a byte-level tokenizer joins to the word
    after it (GPT-2 and BLOOM have a token ` positive`; a separate space and `positive` is a sequence that they never
    saw)."""
    render: Callable[[Sequence[Mapping[str, str]]], str] | None = field(default=None, compare=False, repr=False)
    """Renders turns by the chat template up to the answer; None calls the tokenizer, in this process."""

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
    ) -> Encoder:
        """Return an encoder that uses the chat template if the tokenizer has one and `chat` is "auto"."""
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path!r} has no end-of-sequence token; "
                "set eos_token in its tokenizer_config.json"
            )
        uses_chat = chat == "auto" and bool(getattr(tokenizer, "chat_template", None))
        separator = "" if seq2seq else separator
        lead = "" if uses_chat or not separator.endswith(" ") else _joined_space(tokenizer, separator)
        before = separator.removesuffix(lead)
        return cls(tokenizer, uses_chat, before, max_prompt, max_target, seq2seq, lead)

    def prompt(self, text: str) -> list[int]:
        """Ids of a request, up to the start of the answer."""
        if not self.chat:
            return list(self.tokenizer(text + self.separator)["input_ids"])
        return self.conversation([{"role": "user", "content": text}])

    def conversation(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """Ids of a conversation (`role` and `content` of each turn) by the chat template, up to the answer."""
        if self.render is not None:
            rendered = self.render(turns)
        else:
            rendered = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        # the template has added the special tokens already
        return list(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def target(self, text: str) -> list[int]:
        """Ids of an answer and EOS."""
        return [*self.label(text), int(self.tokenizer.eos_token_id)]

    def label(self, text: str) -> list[int]:
        """Ids of an answer without EOS, as label scoring compares them."""
        if not self.seq2seq:
            return list(self.tokenizer(self.lead + text, add_special_tokens=False)["input_ids"])
        # as a target: some tokenizers put a language or start token before it
        ids = list(self.tokenizer(text_target=text)["input_ids"])
        return ids[:-1] if ids[-1:] == [self.tokenizer.eos_token_id] else ids

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

    def fits(self, prompt: str, target: str) -> bool:
        """Return True if an instruction, which must not be shortened, can be encoded in full."""
        return self.encode(prompt, target) is not None

    def targets_fit(self, texts: list[str]) -> list[bool]:
        """For each text, True if it can be a target; a whole list is tokenised on all cores."""
        ids = self.tokenizer([self.lead + t for t in texts], add_special_tokens=False)["input_ids"] if texts else []
        # EOS, and what an encoder-decoder's tokenizer puts before a text
        beside = len(self.target("")) if self.seq2seq else 1
        return [len(i) + beside <= self.max_target for i in ids]


def _joined_space(tokenizer: Any, separator: str) -> str:
    """Return " " if prompt and answer as one text have the separator's space in the answer's first token."""

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    whole = ids(f"a{separator}b")
    apart, joined = ids(f"a{separator}") + ids("b"), ids(f"a{separator[:-1]}") + ids(" b")
    return " " if whole == joined != apart else ""


def shorten(prompt: str, spans: Spans, share: float) -> tuple[str, Spans] | None:
    """Cut the longest span to about `share` of its words, one fewer at least; None if all are one word.

    A text that is written without spaces (Thai, Chinese, Khmer) is cut by characters.
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
    """Pieces of a text, and their separator: words, or characters if a word is implausibly long."""
    words = text.split()
    return (list(text), "") if len(words) == 1 and len(text) > 40 else (words, " ")
