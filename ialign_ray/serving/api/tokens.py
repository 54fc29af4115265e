"""Texts and offsets of tokens, for log-probabilities in OpenAI's forms."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from ialign_ray.serving.api.responses import Alternative, ChatLogprobs, Logprobs, TokenLogprob
from ialign_ray.serving.protocol import TokenScore

_PART: Final = "\ufffd"
"""Replacement character, which decoding returns for a part of a character."""
_LEAST: Final = -9999.0
"""OpenAI's value for minus infinity, which JSON lacks."""


class Pieces:
    """Texts of single tokens of one tokenizer, cached."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        # Tokenizers that write spaces as a prefix drop the first one of a text, so a token is decoded after another.
        self._before: list[int] = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._length = len(self.decode(self._before))
        self._known: dict[int, str] = {}

    def decode(self, ids: list[int]) -> str:
        """Decode tokens, special ones included, without removing spaces."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def text(self, token: int) -> str:
        """Return the text of one token within a text."""
        if token not in self._known:
            self._known[token] = self.decode([*self._before, token])[self._length :]
        return self._known[token]


@lru_cache(maxsize=8)
def pieces_of(tokenizer: Any) -> Pieces:
    """Return the `Pieces` of a tokenizer, which are kept between requests."""
    return Pieces(tokenizer)


class Offsets:
    """Character offsets of a text's tokens, computed token by token.

    A character of several tokens begins at its first token. Only the tokens since the last whole character, and the
    group before them, are decoded again, so the time is linear.
    """

    def __init__(self, pieces: Pieces, at: int = 0) -> None:
        self._pieces, self._at = pieces, at
        self._settled: list[int] = []
        self._open: list[int] = []

    def push(self, token: int) -> int:
        """Add a token and return its offset."""
        at = self._at
        self._open.append(token)
        before = self._pieces.decode(self._settled)
        now = self._pieces.decode([*self._settled, *self._open])
        if not now.endswith(_PART) or len(self._open) > 8:  # no character has that many tokens: the text is broken
            self._at += len(now) - len(before)
            self._settled, self._open = self._open, []
        return at


def chat_logprobs(pieces: Pieces, scores: Iterable[TokenScore]) -> ChatLogprobs:
    """Return log-probabilities in OpenAI's form for chat."""
    content = [
        TokenLogprob(
            **_alternative(pieces, score.token, score.log_prob).model_dump(),
            top_logprobs=[_alternative(pieces, token, log_prob) for token, log_prob in score.top],
        )
        for score in scores
    ]
    return ChatLogprobs(content=content)


def logprobs(pieces: Pieces, offsets: Offsets, scores: Iterable[TokenScore]) -> Logprobs:
    """Return log-probabilities in OpenAI's form for completions; each token is among its own alternatives."""
    found = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for score in scores:
        text, log_prob = pieces.text(score.token), score.log_prob
        found.tokens.append(text)
        found.text_offset.append(offsets.push(score.token))
        found.token_logprobs.append(None if log_prob is None else _finite(log_prob))
        found.top_logprobs.append(None if log_prob is None else _top(pieces, score, text, log_prob))
    return found


def _top(pieces: Pieces, score: TokenScore, text: str, log_prob: float) -> dict[str, float]:
    """Map text to log-probability, best first; of tokens with equal texts (parts of characters) keep the best."""
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
