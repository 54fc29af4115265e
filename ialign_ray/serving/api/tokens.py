"""Tokens as texts: what log-probabilities are told by."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from ialign_ray.serving.api.responses import Alternative, ChatLogprobs, Logprobs, TokenLogprob
from ialign_ray.serving.protocol import TokenScore

_PART: Final = "\ufffd"
"""What decoding puts for a part of a character."""
_LEAST: Final = -9999.0
"""Stands for minus infinity, which JSON does not have (as OpenAI does)."""


class Pieces:
    """The texts of single tokens of one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Tokenizers that write spaces as a prefix drop the first one of a text, so a token is decoded after another.
        self._before: list[int] = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._length = len(self.decode(self._before))
        self._known: dict[int, str] = {}

    def decode(self, ids: list[int]) -> str:
        """The text of some tokens, special ones too, with no space taken away."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def text(self, token: int) -> str:
        """The text of one token within a text."""
        if token not in self._known:
            self._known[token] = self.decode([*self._before, token])[self._length :]
        return self._known[token]


@lru_cache(maxsize=8)
def pieces_of(tokenizer: Any) -> Pieces:
    """The texts of a tokenizer's tokens, kept: a tokenizer has few, and they are asked for often."""
    return Pieces(tokenizer)


class Offsets:
    """Where each token of a text begins, in characters; tokens are given as they come.

    A character of several tokens begins where its first token does. Only the tokens since the last whole character,
    and those before it, are decoded again: linear time.
    """

    def __init__(self, pieces: Pieces, at: int = 0) -> None:
        self._pieces, self._at = pieces, at
        self._settled: list[int] = []
        self._open: list[int] = []

    def push(self, token: int) -> int:
        """The offset of the next token."""
        at = self._at
        self._open.append(token)
        before = self._pieces.decode(self._settled)
        now = self._pieces.decode([*self._settled, *self._open])
        if not now.endswith(_PART) or len(self._open) > 8:  # no character has as many tokens: it is broken text
            self._at += len(now) - len(before)
            self._settled, self._open = self._open, []
        return at


def chat_logprobs(pieces: Pieces, scores: Iterable[TokenScore]) -> ChatLogprobs:
    """OpenAI's form for chat."""
    content = [
        TokenLogprob(
            **_alternative(pieces, score.token, score.log_prob).model_dump(),
            top_logprobs=[_alternative(pieces, token, log_prob) for token, log_prob in score.top],
        )
        for score in scores
    ]
    return ChatLogprobs(content=content)


def logprobs(pieces: Pieces, offsets: Offsets, scores: Iterable[TokenScore]) -> Logprobs:
    """OpenAI's form for completions; the token itself is always among its alternatives."""
    found = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for score in scores:
        text, log_prob = pieces.text(score.token), score.log_prob
        found.tokens.append(text)
        found.text_offset.append(offsets.push(score.token))
        found.token_logprobs.append(None if log_prob is None else _finite(log_prob))
        found.top_logprobs.append(None if log_prob is None else _top(pieces, score, text, log_prob))
    return found


def _top(pieces: Pieces, score: TokenScore, text: str, log_prob: float) -> dict[str, float]:
    """Text -> log-probability, best first; of tokens that read alike (parts of characters) the best one stands."""
    top: dict[str, float] = {}
    for token, value in score.top:
        top.setdefault(pieces.text(token), _finite(value))
    top.setdefault(text, _finite(log_prob))
    return top


def _alternative(pieces: Pieces, token: int, log_prob: float | None) -> Alternative:
    text = pieces.text(token)
    whole = None if _PART in text else list(text.encode())
    return Alternative(token=text, logprob=_finite(log_prob), bytes=whole)


def _finite(log_prob: float | None) -> float:
    return _LEAST if log_prob is None or log_prob < _LEAST else float(log_prob)
