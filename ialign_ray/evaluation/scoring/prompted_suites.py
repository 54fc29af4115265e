"""Units of evaluation: one suite under one prompt, as rows and the method that predicts them.

Everything that runs an evaluation (in this process or on replicas), stores it and resumes after a kill
accesses suites only through this interface.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from ialign_ray.config.contexts import NO_CONTEXT
from ialign_ray.evaluation.metrics.classification import with_batch
from ialign_ray.evaluation.metrics.retrieval import ranks, surface_ranks
from ialign_ray.evaluation.suites.load import TURNS, text_column
from ialign_ray.inference.calibration import CONTENT_FREE, label_values
from ialign_ray.tasks.templating import fill

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer
    from ialign_ray.inference.embedding import Layer


@dataclass(frozen=True)
class Unit(ABC):
    """One suite under one prompt."""

    suite: str
    """Name of the suite."""
    prompt: str
    """Name of the prompt; "default" if the suite has only one."""
    rows: pd.DataFrame
    """One row per example and language: the columns that `predict` reads, and `length`, which is cheap and about
    proportional to the row's cost. A row's content determines its predictions: anything else that they depend on must
    be a field of the unit."""

    version: ClassVar[int] = 1
    """Version; raise it when the same settings and rows give different predictions."""
    context = NO_CONTEXT
    """Context of its prompts (`evaluate.contexts`)."""

    @property
    def key(self) -> list[Any]:
        """Everything besides model and rows that predictions depend on: kind, version and every field of the kind
        (JSON), without the context's name, as its blocks are in the rows."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rows", "context")}
        return [type(self).__name__, self.version, settings]

    @abstractmethod
    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Predictions of some of the `rows`, one per row in their order; none depends on the other rows of the
        batch."""

    def finish(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """The suite's frame (see `suite_kinds`) from the predictions of all `rows` in order."""
        return predictions


@dataclass(frozen=True)
class LabelUnit(Unit):
    """Zero-shot classification by the likelihood of label words."""

    text: str
    """The prompt with a slot for each text of a row."""
    slots: tuple[str, ...]
    """Their names."""
    words: tuple[str, ...]
    """The word for each label, in order."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, label, chars, prompt, and per label sum, mean and calibrated (lists)."""
        scores = scorer.labels(self.prompts(rows), self.words)
        free = scorer.content_free([self._asked([text] * len(self.slots)) for text in CONTENT_FREE], self.words)
        frame = rows[["suite", "language", "id", "label", "chars"]].assign(prompt=self.prompt)
        for name in ("sum", "mean", "calibrated"):
            frame[name] = list(label_values(scores, name, free))
        return frame

    def finish(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Add the scorer `batch`."""
        return with_batch(predictions)

    def prompts(self, rows: pd.DataFrame) -> list[str]:
        """The prompt of each row."""
        texts = [rows[text_column(slot)] for slot in self.slots]
        return [self._asked(row) for row in zip(*texts, strict=True)]

    def _asked(self, texts: Sequence[str]) -> str:
        return fill(self.text, dict(zip(self.slots, texts, strict=True)))[0]


@dataclass(frozen=True)
class LikelihoodUnit(Unit):
    """Nats of a target given its prompt or the turns before it, or of the target alone if the rows have no prompt."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows' columns without prompt and target, nats, tokens and bytes; no token of a conversation that the chat
        template refuses."""
        targets = list(rows["target"])
        frame = rows.drop(columns=["prompt", "target", TURNS, "length"], errors="ignore")
        if "prompt" in rows.columns:
            turns = rows.get(TURNS, pd.Series("", rows.index))
            asked = [json.loads(before) if before else text for before, text in zip(turns, rows["prompt"], strict=True)]
            taken = np.array([scorer.accepts(one) for one in asked], bool)
            nats, tokens = np.full(len(rows), np.nan), np.zeros(len(rows), np.int64)
            if taken.any():
                chosen = np.flatnonzero(taken)
                nats[taken], tokens[taken] = scorer.nats([asked[k] for k in chosen], [targets[k] for k in chosen])
        else:
            nats, tokens = scorer.free_nats(targets)
        frame["nats"], frame["tokens"] = nats, tokens
        frame["bytes"] = [len(target.encode()) for target in targets]
        return frame

    def finish(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """The predictions without conversations that were refused."""
        return predictions[predictions["tokens"] > 0].reset_index(drop=True)


@dataclass(frozen=True)
class TranslationUnit(Unit):
    """Nats of a reference given the right and a mismatched source, and the model's translation."""

    max_new_tokens: int | None
    """The longest translation that is generated; None disables generation."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, prompt, nats, tokens, mismatched_nats, bytes; with text see `suite_kinds`."""
        targets = list(rows["target"])
        frame = rows[["suite", "language", "id"]].assign(prompt=self.prompt)
        frame["nats"], frame["tokens"] = scorer.nats(list(rows["prompt"]), targets)
        frame["mismatched_nats"], _ = scorer.nats(list(rows["mismatched"]), targets)
        frame["bytes"] = [len(target.encode()) for target in targets]
        if self.max_new_tokens is None:
            return frame
        # the model has learned one form, and a reference in another form would count as its error
        normal = scorer.encoder.texts.normal
        frame["source"], frame["reference"] = rows["source"].map(normal), [normal(text) for text in targets]
        return frame.assign(**generated_answers(scorer, rows["prompt"], self.max_new_tokens))


@dataclass(frozen=True)
class GenerationUnit(Unit):
    """Answers that the model generates, to be compared with references."""

    max_new_tokens: int
    """The longest answer that is generated."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, prompt, and the texts of answers; see `suite_kinds`."""
        normal = scorer.encoder.texts.normal
        frame = rows[["suite", "language", "id"]].assign(prompt=self.prompt)
        frame["source"], frame["prompt_text"] = rows["source"].map(normal), rows["prompt"].map(normal)
        frame["references"] = [[normal(text) for text in given] for given in rows["references"]]
        return frame.assign(**generated_answers(scorer, rows["prompt"], self.max_new_tokens))


def generated_answers(scorer: Scorer, prompts: pd.Series, max_new_tokens: int) -> dict[str, list[Any]]:
    """Columns hypothesis, new_tokens and cut of the greedy answers to prompts."""
    found = scorer.generate(list(prompts), max_new_tokens)
    return {
        "hypothesis": [scorer.encoder.texts.normal(answer.text.strip()) for answer in found],
        "new_tokens": [answer.tokens for answer in found],
        "cut": [not answer.ended for answer in found],
    }


@dataclass(frozen=True)
class RetrievalUnit(Unit):
    """Vectors of sentences, among which the translation of each is searched."""

    layer: Layer
    """Layer whose hidden states are averaged."""
    pairs: tuple[tuple[str, str], ...]
    """Directions: language of the sentence, language of the candidates."""
    centre: bool
    """True if each language's mean is subtracted first."""

    @property
    def key(self) -> list[Any]:
        """Settings that the vectors depend on, without those of their comparison."""
        return [type(self).__name__, self.version, self.layer]

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, text and vector (list)."""
        return rows.drop(columns="length").assign(vector=list(scorer.vectors(list(rows["text"]), self.layer)))

    def finish(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language (the direction), id, rank, surface_rank and candidates."""
        by_language = {code: part.set_index("id") for code, part in predictions.groupby("language")}
        return pd.concat([self._looked_up(by_language, *pair) for pair in self.pairs], ignore_index=True)

    def _looked_up(self, by_language: Mapping[Any, pd.DataFrame], first: str, second: str) -> pd.DataFrame:
        queries, candidates = by_language[first], by_language[second]
        ids = [i for i in queries.index if i in candidates.index]
        # the same ids in the same order on both sides, so that row i's translation is candidate i
        queries, candidates = queries.loc[ids], candidates.loc[ids]
        vectors = [np.stack(side["vector"].to_list()).astype(np.float64) for side in (queries, candidates)]
        if self.centre:
            vectors = [side - side.mean(axis=0) for side in vectors]
        found = {
            "rank": ranks(*vectors),
            "surface_rank": surface_ranks(list(queries["text"]), list(candidates["text"])),
        }
        about = {"suite": self.suite, "language": f"{first}-{second}", "id": ids}
        return pd.DataFrame(about | found | {"candidates": len(ids)})
