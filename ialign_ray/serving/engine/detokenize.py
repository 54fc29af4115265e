"""Incremental decoding of an answer: whole characters only, and no part of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ialign_ray.serving.protocol import TokenScore

UNFINISHED = "\ufffd"
LONGEST_CHARACTER = 8
"""Tokens after which a replacement character counts as part of the answer: a character has at most four bytes."""


class AnswerText:
    """Turns tokens into text piece by piece.

    A token's text depends on its neighbours (spaces, characters of several bytes), so each is decoded in a window
    that begins a few tokens before it; the cost does not grow with the answer's length.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = (), *, whole: bool = False) -> None:
        """`whole`: `take` is called only at the end, so earlier text is decoded only to find stop texts."""
        self._decode, self._stop = decode, [text for text in stop if text]
        self._at_end = whole and not self._stop
        self._ids: list[int] = []
        self._scores: list[tuple[int, TokenScore]] = []
        self._window = self._read = self._sent = 0
        self._before = ""
        self.text = ""
        self.stopped = False

    def add(self, score: TokenScore) -> bool:
        """Append a token. Return True if it completes a stop text, which ends the answer."""
        self._scores.append((len(self.text), score))
        self._ids.append(score.token)
        if self._at_end:
            return False
        window = self._decode(self._ids[self._window :])
        unfinished = window.endswith(UNFINISHED) and len(self._ids) - self._read < LONGEST_CHARACTER
        if not unfinished and len(window) > len(self._before):
            self._extend(window[len(self._before) :])
            self._window, self._read = self._read, len(self._ids)
            self._before = self._decode(self._ids[self._window :])
        return self.stopped

    def end(self) -> None:
        """Finish: no token follows, so text that was held back is part of the answer."""
        whole = self._decode(self._ids)
        if not self.stopped and whole.startswith(self.text):
            self._extend(whole[len(self.text) :])

    def take(self, *, last: bool = False) -> tuple[str, tuple[TokenScore, ...]]:
        """Return the new text that is certain, and the tokens that begin in it.

        `last` returns all that remains. Tokens that begin in the stop text are never returned.
        """
        upto = len(self.text) if last else len(self.text) - self._held()
        text = self.text[self._sent : upto]
        self._sent = max(self._sent, upto)
        whole = last and not self.stopped
        count = next((i for i, (at, _) in enumerate(self._scores) if at >= upto and not whole), len(self._scores))
        taken, self._scores = self._scores[:count], self._scores[count:]
        return text, tuple(score for _, score in taken)

    def _extend(self, more: str) -> None:
        known = len(self.text)
        self.text += more
        found = [at for stop in self._stop if (at := self.text.find(stop, max(0, known - len(stop) + 1))) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _held(self) -> int:
        """Count the characters at the end that may begin a stop text."""
        for size in range(max(map(len, self._stop), default=1) - 1, 0, -1):
            if any(len(stop) > size and self.text.endswith(stop[:size]) for stop in self._stop):
                return size
        return 0
