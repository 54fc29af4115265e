"""Scores of labels and texts, computed between two steps: several requests of one adapter at once, in slices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor, nn
from transformers import DynamicCache

from ialign_ray.inference.batching import device_of, padded, takes_left_padding
from ialign_ray.inference.scoring import score_labels
from ialign_ray.modeling.architecture import is_encoder_decoder
from ialign_ray.serving.engine.decoding import Continued
from ialign_ray.serving.engine.lora import LoraBank
from ialign_ray.serving.engine.requests import Labels, Reading, Text
from ialign_ray.serving.engine.sampling import NO_NUMBER, token_scores
from ialign_ray.serving.protocol import NotANumberError, TokenScore

LOGITS = 1024
"""Positions whose logits are in memory at once: they are the largest tensor when a text is scored."""


class Reader:
    """Scores labels and texts with the base and its adapters.

    A slice has at most `budget` tokens (one prompt or text is never divided), so that running rows wait no longer for
    it than for prompts.
    """

    def __init__(self, model: nn.Module, bank: LoraBank) -> None:
        self._model, self._bank = model, bank
        self._continued = Continued(model) if not is_encoder_decoder(model) and takes_left_padding(model) else None

    def slice(self, waiting: Sequence[Reading], budget: int) -> list[Reading]:
        """Choose the requests of the next slice: the oldest, and those of its kind and adapter, in order."""
        head = waiting[0]
        chosen: list[Reading] = []
        spent = 0
        for request in waiting:
            if type(request) is not type(head) or request.adapter != head.adapter:
                continue
            if isinstance(request, Labels) and isinstance(head, Labels) and len(request.labels) != len(head.labels):
                continue
            if chosen and spent + request.positions() > budget:
                break
            chosen.append(request)
            spent += request.positions() * (len(request.prompts) - request.done if isinstance(request, Labels) else 1)
        return chosen

    def read(self, chosen: Sequence[Reading], budget: int) -> list[tuple[Reading, object]]:
        """Compute a slice; return the requests that it completes, with their answers.

        The answer of a request for which the model computes NaN is a NotANumberError.
        """
        with self._bank.using([chosen[0].adapter]):
            texts = [request for request in chosen if isinstance(request, Text)]
            if texts:
                found = zip(texts, self._texts(texts), strict=True)
                return [(text, scores if _finite(scores) else NotANumberError(NO_NUMBER)) for text, scores in found]
            return self._labels([request for request in chosen if isinstance(request, Labels)], budget)

    def _labels(self, chosen: Sequence[Labels], budget: int) -> list[tuple[Reading, object]]:
        units: list[tuple[Labels, int]] = []
        spent = 0
        for request in chosen:
            for at in range(request.done, len(request.prompts)):
                spent += len(request.prompts[at]) + request.label_tokens
                if units and spent > budget:
                    break
                units.append((request, at))
        prompts = [request.prompts[at] for request, at in units]
        sets = [request.labels for request, _ in units]
        found = score_labels(self._model, prompts, sets, max_batch_tokens=budget).log_prob
        for (request, at), sums in zip(units, found):
            request.sums[at] = sums
            request.done += 1
        broken = [request for request in chosen if not np.isfinite(request.sums).all()]
        done = [request for request in chosen if request not in broken and request.done == len(request.prompts)]
        return [
            *((request, NotANumberError(NO_NUMBER)) for request in broken),
            *((request, request.result()) for request in done),
        ]

    def _texts(self, chosen: Sequence[Text]) -> list[list[TokenScore]]:
        ids, mask = padded([text.ids for text in chosen], device_of(self._model))
        found = [[TokenScore(text.ids[0], None)] for text in chosen]
        for begin, log_probs in self._parts(ids, mask):
            for scores, text, own in zip(found, chosen, log_probs):
                scores += token_scores(own, text.ids[begin + 1 : begin + 1 + len(own)], text.top)
        return found

    def _parts(self, ids: Tensor, mask: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (first column, log-probabilities [rows, columns, V]), in parts if the model has a cache."""
        width = max(1, LOGITS // len(ids)) if self._continued else ids.shape[1]
        cache, places = DynamicCache(), (mask.cumsum(1) - 1).clamp(min=0)
        for begin in range(0, ids.shape[1], width):
            end = min(begin + width, ids.shape[1])
            if self._continued:
                inputs = self._continued(cache, mask[:, :end], places[:, begin:end])
            else:
                inputs = {"attention_mask": mask}
            yield begin, self._model(input_ids=ids[:, begin:end], **inputs).logits.float().log_softmax(-1)


def _finite(scores: Sequence[TokenScore]) -> bool:
    return all(score.log_prob is None or math.isfinite(score.log_prob) for score in scores)
