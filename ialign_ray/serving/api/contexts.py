"""Contexts of requests: the examples of each text, as many as fit, and their place in the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ialign_ray.config.contexts import NO_CONTEXT, ContextConfig, ContextPairs, ExemplarConfig
from ialign_ray.config.serve import LimitsConfig
from ialign_ray.config.slots import filled_length
from ialign_ray.corpus.identity import lines_of, text_key
from ialign_ray.errors import DataError
from ialign_ray.incontext.prompts import (
    SEPARATOR,
    Context,
    ContextBlock,
    Prompt,
    fitting,
    label_line,
    pair_line,
    render,
)
from ialign_ray.incontext.stored import ContextExemplar, ContextPair, ExemplarPool, StoredContext
from ialign_ray.languages import display_name
from ialign_ray.serving.api.context_schemas import ContextSettings, ExemplarContext, PairContext
from ialign_ray.serving.api.errors import ApiError, printable, wrong
from ialign_ray.serving.api.prompts import turns_prompt
from ialign_ray.serving.api.responses import UsedContext, UsedExemplar, UsedPair
from ialign_ray.serving.api.tokeniser import Tokeniser
from ialign_ray.serving.protocol import Served
from ialign_ray.tasks.templating import fill

OWN_POOL: Final = ""
"""Name of the pool that a request brings."""
_SLACK: Final = 4
"""Tokens that a block may have more alone than in a prompt."""
_TOO_LONG: Final = "context_length_exceeded"


@dataclass(frozen=True)
class PromptContext:
    """Examples of one text."""

    name: str | None
    """Name of the model's context; None for examples of the request."""
    blocks: Context
    exemplars: Sequence[ContextExemplar] = ()
    """The exemplars of `blocks`, in their order."""
    pairs: Sequence[ContextPair] = ()
    """The pairs of `blocks`, in their order."""
    refused: int = 0
    most: int | None = None
    """Most tokens of a prompt, by the context's settings."""

    def fit(
        self, size: Callable[[ContextBlock], int], whole: Callable[[Context], int], room: int
    ) -> tuple[Context, UsedContext]:
        """Drop examples until the prompt has at most `room` tokens; return the others, and how the answer lists them.

        `size` is the number of tokens of one block, `whole` that of a prompt. Raises ApiError (400) if none is left.
        """
        room, context = min(room, self.most or room), self.blocks
        # blocks that cannot fit are dropped by their own lengths, since a prompt of all of them may be very long
        total = sum(size(b) - _SLACK for b in (*context.before, *context.exemplars, *context.after))
        while context.size > 1 and total > room:
            first = next(side for side in (context.before, context.after, context.exemplars) if side)[0]
            total -= size(first) - _SLACK
            context = context.shorter()
        try:
            context, _ = fitting(context, whole, room)
        except DataError as error:
            raise wrong("context", str(error), _TOO_LONG) from error
        kept = len(self.exemplars) - len(context.exemplars)
        pairs = list(self.pairs[len(self.pairs) - len(context.before) - len(context.after) :])
        used = UsedContext(
            name=self.name,
            exemplars=[
                UsedExemplar(id=e.id, language=e.language, text=_plain(e.texts), label=e.label)
                for e in self.exemplars[kept:]
            ],
            pairs=[UsedPair(**{name: getattr(pair, name) for name in UsedPair.model_fields}) for pair in pairs],
            dropped=self.blocks.size - context.size,
            refused=self.refused,
        )
        return context, used

    @property
    def characters(self) -> int:
        """Characters of the lines; exemplars are counted with their prompt."""
        return sum(len(b.texts["line"]) for b in (*self.blocks.head, *self.blocks.before, *self.blocks.after))


@dataclass(frozen=True)
class LabelContext:
    """Context of classifications: its pool, and the wording of its exemplars."""

    stored: StoredContext
    name: str | None
    suite: str
    """Name of the pool."""
    template: str
    words: Mapping[str, str]
    """Label -> its word after an exemplar."""
    head: Sequence[ContextBlock] = ()
    language: str | None = None
    """Language of the texts; None if unknown."""
    spoken: str = "eng"
    """Language of the prompt, in which languages are named."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def form(self) -> Any:
        """Layout of the exemplars."""
        return self.stored.settings.exemplars.form if self.stored.settings.exemplars else "lines"

    def of(self, texts: Mapping[str, str]) -> PromptContext:
        """Find the examples of one text. Raises ApiError (400) if the pool has no other text."""
        try:
            found = self.stored.exemplars(self.suite, texts, self.language)
        except DataError as error:
            raise wrong("context", str(error)) from error
        settings = self.stored.settings
        try:
            pivot = settings.pairs.language if settings.pairs else None
            pairs = self.stored.similar_pairs("\n".join(texts.values()), self.language, pivot)
            lines, refused = pairs.items, found.refused + pairs.refused
        except DataError:  # a language without pairs is asked alone, as in suites
            lines, refused = (), found.refused
        written = pair_blocks(lines, self.spoken, self.names)
        after = settings.pairs is not None and settings.pairs.place == "after"
        exemplars = [ContextBlock(e.texts, self.words[e.label]) for e in found.items]
        blocks = Context(self.head, () if after else written, exemplars, written if after else ())
        return PromptContext(self.name, blocks, found.items, lines, refused, settings.max_tokens)

    def characters(self, context: PromptContext, texts: Mapping[str, str]) -> int:
        """Characters of a prompt with its examples, before any is filled."""
        exemplars = sum(filled_length(self.template, e.texts) for e in context.exemplars)
        return context.characters + exemplars + filled_length(self.template, texts)

    def prompt(self, tokeniser: Tokeniser, context: Context, texts: Mapping[str, str]) -> list[int]:
        """Encode the prompt of a text with its examples. Raises ApiError as `Tokeniser.prompt` does."""
        return encoded(tokeniser, render(context, texts, self.template, self.form))

    def block_text(self, block: ContextBlock) -> str:
        """The text of one block."""
        return block.texts["line"] if block.answer is None else fill(self.template, block.texts)[0] + block.answer


@dataclass(frozen=True)
class PairMemory:
    """Translation pairs for requests: a model's context, or those of a request."""

    stored: StoredContext
    name: str | None
    source: str | None = None
    """Language of the texts; None if unknown, as in a conversation."""
    target: str | None = None
    spoken: str = "eng"
    """Language of the request, in which languages are named."""
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, given: PairContext | None, served: Served, limits: LimitsConfig, **about: Any) -> PairMemory | None:
        """The memory of a request; None without a context. Raises ApiError (400) if the context has no pairs."""
        if given is None:
            return None
        languages = (about.get("source"), about.get("target"))
        if given.name is None:
            return cls(own_pairs(given, *languages, limits), None, **about)
        if (kept := named_context(given, served)) is None:
            return None
        if kept.settings.pairs is None or not kept.pairs:
            message = f"context {kept.name!r} has labels and no pairs; use it in /v1/classify, or give pairs"
            raise wrong("context", message)
        return cls(kept, kept.name, **about)

    def find(self, text: str) -> PromptContext:
        """Find the pairs of one text, without those that it quotes. Raises ApiError (400) if the pool has no other."""
        try:
            found = self.stored.similar_pairs(text, self.source, self.target)
        except DataError as error:
            raise wrong("context", str(error)) from error
        quoted = {text_key(part) for part in lines_of(text)}
        pairs = [p for p in found.items if text_key(p.source) not in quoted]
        blocks = Context(before=pair_blocks(pairs, self.spoken, self.names))
        refused = found.refused + len(found.items) - len(pairs)
        return PromptContext(self.name, blocks, (), pairs, refused, self.stored.settings.max_tokens)


def before_request(context: Context, request: str) -> str:
    """A request after the lines of a context."""
    return SEPARATOR.join([*(block.texts["line"] for block in context.before), request])


def line_text(block: ContextBlock) -> str:
    """The text of a block that is a line."""
    return block.texts["line"]


def encoded(tokeniser: Tokeniser, prompt: Prompt) -> list[int]:
    """Encode a prompt of one text or of turns. Raises ApiError as `Tokeniser.prompt` does."""
    return tokeniser.prompt(prompt) if isinstance(prompt, str) else turns_prompt(tokeniser, prompt, "context")


def fitted_context(
    tokeniser: Tokeniser,
    found: PromptContext,
    room: int,
    text: Callable[[ContextBlock], str],
    prompt: Callable[[Context], list[int]],
) -> tuple[Context, UsedContext]:
    """Drop the examples of a prompt that do not fit; see `PromptContext.fit`."""
    tokenizer = tokeniser.served.encoder.tokenizer

    def size(block: ContextBlock) -> int:
        tokeniser.call.check()
        return len(tokenizer(text(block), add_special_tokens=False)["input_ids"])

    def whole(context: Context) -> int:
        try:
            return len(prompt(context))
        except ApiError as error:
            if error.code == _TOO_LONG and context.size:
                return room + 1
            raise

    return found.fit(size, whole, room)


def room_of(served: Served, answer: int, limits: LimitsConfig, batch_tokens: int) -> int:
    """Most tokens of a prompt before an answer of so many tokens."""
    known = [batch_tokens] if limits.prompt_tokens is None else [batch_tokens, limits.prompt_tokens]
    if served.max_positions is not None:
        known.append(served.max_positions - (0 if served.encoder.seq2seq else answer))
    return min(known)


def pair_blocks(
    pairs: Sequence[ContextPair], spoken: str, names: Mapping[str, Mapping[str, str]]
) -> list[ContextBlock]:
    """Pairs as lines, with the names of their languages if they are known."""
    blocks = []
    for p in pairs:
        if p.source_language is None or p.target_language is None:
            blocks.append(ContextBlock.line(f'"{p.source}" means "{p.target}".'))
            continue
        called = [display_name(code, spoken, names) for code in (p.source_language, p.target_language)]
        blocks.append(pair_line(p.source, p.target, called[0], called[1]))
    return blocks


def named_context(given: ContextSettings, served: Served) -> StoredContext | None:
    """The model's context of a name; None for `none`. Raises ApiError (400) if the model has no such context."""
    if given.name == NO_CONTEXT:
        return None
    if served.context is None or served.context.name != given.name:
        has = "has no context" if served.context is None else f"has {served.context.name!r}"
        message = f"context {printable(given.name or '')!r} is unknown: this model {has}; use `none`, or give examples"
        raise wrong("context", message, "unknown_context")
    return served.context


def own_exemplars(
    given: ExemplarContext, slots: Sequence[str], words: Mapping[str, str], limits: LimitsConfig
) -> StoredContext:
    """A context of a request's exemplars; `words` are the labels of its question. Raises ApiError (400)."""
    found = []
    for k, one in enumerate(given.exemplars or ()):
        if one.label not in words:
            known = ", ".join(printable(label) for label in list(words)[:10])
            message = f"exemplar {k} has the label {printable(one.label)!r}, but the labels are {known}; correct it"
            raise wrong(f"context.exemplars.{k}.label", message, "unknown_label")
        texts = {slots[0]: one.text} if isinstance(one.text, str) else one.text
        if set(texts) != set(slots):
            message = f"exemplar {k} needs a text for each slot of the prompt: {', '.join(slots)}"
            raise wrong(f"context.exemplars.{k}.text", message)
        found.append(ContextExemplar(one.id or str(k), None, {slot: texts[slot] for slot in slots}, one.label))
    _check_sizes("exemplars", [e.text for e in found], limits)
    settings = ExemplarConfig(
        retriever=[given.retriever],
        language="any",
        k=_size("exemplars", given.k, len(found)),
        form=given.form,
        balanced=given.balanced,
    )
    pool = ExemplarPool(tuple(slots), {label: {} for label in words}, found)
    return StoredContext(ContextConfig(name="request", exemplars=settings, seed=given.seed), {OWN_POOL: pool})


def own_pairs(given: PairContext, source: str | None, target: str | None, limits: LimitsConfig) -> StoredContext:
    """A context of a request's pairs. Raises ApiError (400)."""
    found = [
        ContextPair(one.id or str(k), one.source, one.target, source, target) for k, one in enumerate(given.pairs or ())
    ]
    _check_sizes("pairs", [p.source + p.target for p in found], limits)
    size = _size("pairs", given.k, len(found))
    settings = ContextPairs(retriever=[given.retriever], k=32 if size == "auto" else size[0])
    return StoredContext(ContextConfig(name="request", pairs=settings, seed=given.seed), {}, found)


def label_head(stored: StoredContext, suite: str, spoken: str, names: Mapping[str, Any]) -> list[ContextBlock]:
    """The line that says which label word of one language is which of another; empty without that setting."""
    labels = stored.settings.labels
    if labels is None or not labels.line:
        return []
    codes = (labels.exemplars or spoken, labels.answers or spoken)
    sides = [[words[code] for words in stored.pools[suite].words.values()] for code in codes]
    called = [display_name(code, spoken, names) for code in codes]
    return [label_line(sides[0], sides[1], called[0], called[1])]


def _size(pool: str, k: int | None, size: int) -> Any:
    if k is not None and k > size:
        raise wrong("context.k", f"context.k is {k}, but {pool} has {size}; lower it")
    return "auto" if k is None else [k]


def _check_sizes(pool: str, texts: Sequence[str], limits: LimitsConfig) -> None:
    if len(texts) > limits.exemplars:
        message = f"there are {len(texts)} {pool}; this server accepts {limits.exemplars}, so send fewer"
        raise wrong(f"context.{pool}", message)
    if (characters := sum(map(len, texts))) > limits.context_chars:
        message = f"{pool} has {characters:,} characters; this server accepts {limits.context_chars:,}, so send fewer"
        raise wrong(f"context.{pool}", message)


def _plain(texts: Mapping[str, str]) -> str | dict[str, str]:
    return next(iter(texts.values())) if len(texts) == 1 else dict(texts)
