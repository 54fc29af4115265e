"""A model with its encoder: the scoring functions that every suite is built from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ialign_ray.errors import ConfigError
from ialign_ray.inference.continuations import score_tokens
from ialign_ray.inference.embedding import Layer, embed
from ialign_ray.inference.generation import Generation, generate
from ialign_ray.inference.scoring import LabelScores, score_continuations, score_labels
from ialign_ray.tokens.chat import RefusedTurnsError, Turn
from ialign_ray.tokens.encode import Encoder


class Scorer:
    """Scores texts; texts longer than the model's context are cut at the front, as the question is at the end."""

    def __init__(self, model: Any, encoder: Encoder, batch_tokens: int) -> None:
        self.model, self.encoder, self.batch_tokens = model, encoder, batch_tokens
        longest = getattr(model.config, "max_position_embeddings", None)
        self._room = int(longest) if longest else 1 << 20
        self._priors: dict[tuple[tuple[str, ...], tuple[str, ...]], LabelScores] = {}

    def labels(self, prompts: Sequence[str | Sequence[Turn]], words: Sequence[str]) -> LabelScores:
        """Summed log-probability of each label word given each prompt or the turns before it, [n, L]."""
        labels = self.encoder.labels(words)
        longest = max(len(label) for label in labels)
        asked = [self._tail(self._asked(prompt), longest) for prompt in prompts]
        return score_labels(self.model, asked, labels, max_batch_tokens=self.batch_tokens)

    def room(self, words: Sequence[str]) -> int:
        """Most tokens of a prompt before one of these label words."""
        return self.window(max(map(len, self.encoder.labels(words))))

    def window(self, answer: int) -> int:
        """Most tokens of a prompt before an answer of this many tokens."""
        return self._room - (0 if self.encoder.seq2seq else answer)

    def target_tokens(self, text: str) -> int:
        """Tokens of an answer, with the one that ends it."""
        return len(self.encoder.target(text))

    def prompt_tokens(self, prompt: str | Sequence[Turn]) -> int:
        """Tokens of a prompt, or of the turns before an answer."""
        return len(self._asked(prompt))

    def options(self, prompts: Sequence[str], options: Sequence[Sequence[str]]) -> LabelScores:
        """Summed log-probability of each of a prompt's own options, [n, L]."""
        texts = list(dict.fromkeys(option for of_row in options for option in of_row))
        ids = dict(zip(texts, map(self.encoder.label, texts), strict=True))
        sets = [[ids[option] for option in of_row] for of_row in options]
        tokenised = {prompt: self.encoder.prompt(prompt) for prompt in dict.fromkeys(prompts)}
        asked = [self._tail(tokenised[p], max(map(len, of_row))) for p, of_row in zip(prompts, sets, strict=True)]
        return score_labels(self.model, asked, sets, max_batch_tokens=self.batch_tokens)

    def content_free(self, prompts: Sequence[str], words: Sequence[str]) -> LabelScores:
        """Return `labels`, cached: the prior of a prompt is needed for every shard of its rows."""
        key = (tuple(prompts), tuple(words))
        if key not in self._priors:
            self._priors[key] = self.labels(prompts, words)
        return self._priors[key]

    def nats(
        self, prompts: Sequence[str | Sequence[Turn]], targets: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Nats [n] of each target, with the token that ends it, given its prompt or the turns before it, and its number
        of tokens [n]."""
        answers = [self.encoder.target(t)[: self._room - 1] for t in targets]
        asked = [self._tail(self._asked(p), len(a)) for p, a in zip(prompts, answers, strict=True)]
        scores = score_continuations(self.model, asked, answers, max_batch_tokens=self.batch_tokens)
        return -scores.log_prob, scores.tokens

    def free_nats(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Nats [n] of each text given only the start-of-text tokens, and its number of tokens [n]; without EOS."""
        start = self._start()
        targets = [self.encoder.label(text)[: self._room - 1] for text in texts]
        scores = score_continuations(self.model, [[start]] * len(texts), targets, max_batch_tokens=self.batch_tokens)
        return -scores.log_prob, scores.tokens

    def token_log_probs(self, texts: Sequence[str], most: int) -> list[NDArray[np.float64]]:
        """Log-probabilities of the first `most` tokens of each text given only the start-of-text tokens, in nats.

        Raises ConfigError for an encoder-decoder, which is not trained on plain text.
        """
        if self.encoder.seq2seq:
            raise ConfigError("evaluate.membership needs a causal model, and the base is an encoder-decoder; remove it")
        targets = [self.encoder.label(text)[: min(most, self._room - 1)] for text in texts]
        return score_tokens(self.model, [[self._start()]] * len(texts), targets, max_batch_tokens=self.batch_tokens)

    def _start(self) -> int:
        tokenizer = self.encoder.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id)

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[Generation]:
        """Return the greedy answer to each prompt."""
        asked = [self._tail(self.encoder.prompt(prompt), max_new_tokens) for prompt in prompts]
        return generate(
            self.model,
            self.encoder.tokenizer,
            asked,
            max_new_tokens=max_new_tokens,
            ends=self.encoder.ends,
            max_batch_tokens=self.batch_tokens,
        )

    def vectors(self, texts: Sequence[str], layer: Layer) -> NDArray[np.float32]:
        """Mean hidden state of each text [n, H], with the tokenizer's special tokens, without a prompt."""
        ids = [self.encoder.texts.framed(text)[: self._room] for text in texts]
        return embed(self.model, ids, layer=layer, max_batch_tokens=self.batch_tokens)

    def accepts(self, prompt: str | Sequence[Turn]) -> bool:
        """Return False for turns that the chat template refuses; it takes every single request."""
        if isinstance(prompt, str):
            return True
        try:
            self._asked(prompt)
        except RefusedTurnsError:
            return False
        return True

    def embedder(self, layer: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
        """`vectors` at a layer that is given as text. Raises ConfigError if it is not a layer."""
        if layer not in ("middle", "last") and not layer.removeprefix("-").isdecimal():
            raise ConfigError(f"retriever 'model:{layer}' names no layer; use model:middle, model:last or a number")
        chosen = cast(Layer, layer if layer in ("middle", "last") else int(layer))
        return lambda texts: self.vectors(texts, chosen)

    def _asked(self, prompt: str | Sequence[Turn]) -> list[int]:
        return self.encoder.prompt(prompt) if isinstance(prompt, str) else self.encoder.conversation(prompt)

    def _tail(self, prompt: list[int], answer: int) -> list[int]:
        taken = 0 if self.encoder.seq2seq else answer  # an encoder-decoder counts the two sides separately
        return prompt[-max(1, self._room - taken) :]
