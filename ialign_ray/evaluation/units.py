"""Units of evaluation: one suite under one prompt, as rows to predict and how to predict them.

Everything that runs an evaluation (in this process or on replicas), stores it and goes on after a kill
knows suites only through this interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment, InstructionSuite, Suite, TranslationSuite
from ialign_ray.evaluation.scorer import CONTENT_FREE, Scorer
from ialign_ray.evaluation.suites import classification_rows, fill, instruction_rows, translation_rows
from ialign_ray.inference.scorers import label_values


@dataclass(frozen=True)
class Unit(ABC):
    """One suite under one prompt."""

    suite: str
    """Name of the suite."""
    prompt: str
    """Name of the prompt; "default" where a suite has one only."""
    rows: pd.DataFrame
    """One row an example and language: whatever `predict` reads, and `length`, cheap and about proportional to the
    row's cost. A row's content decides its predictions: what else they depend on must be a field of the unit."""

    version: ClassVar[int] = 1
    """To be raised when the same settings and rows give other predictions."""

    @property
    def key(self) -> list[Any]:
        """All that decides predictions besides model and rows: kind, version and every field of the kind (JSON)."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "rows"}
        return [type(self).__name__, self.version, settings]

    @abstractmethod
    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Predictions of some of the `rows`, one a row in their order; none depends on which rows are beside it."""


@dataclass(frozen=True)
class LabelUnit(Unit):
    """Zero-shot classification by the likelihood of label words."""

    text: str
    """The prompt with its slot {text}."""
    words: tuple[str, ...]
    """The word for each label, in order."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, label, chars, prompt, and per label sum, mean and calibrated (lists)."""
        scores = scorer.labels([self._asked(text) for text in rows["text"]], self.words)
        free = scorer.content_free([self._asked(text) for text in CONTENT_FREE], self.words)
        frame = rows.drop(columns=["text", "length"]).assign(prompt=self.prompt)
        for name in ("sum", "mean", "calibrated"):
            frame[name] = list(label_values(scores, name, free))
        return frame

    def _asked(self, text: str) -> str:
        return fill(self.text, {"text": text})


@dataclass(frozen=True)
class LikelihoodUnit(Unit):
    """Nats of a target given its prompt and, where the rows have one, given a mismatched prompt."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows' columns without their texts, nats, tokens, [mismatched_nats,] and bytes."""
        targets = list(rows["target"])
        frame = rows.drop(columns=["prompt", "mismatched", "target", "length"], errors="ignore")
        frame["nats"], frame["tokens"] = scorer.nats(list(rows["prompt"]), targets)
        if "mismatched" in rows.columns:
            frame["mismatched_nats"], _ = scorer.nats(list(rows["mismatched"]), targets)
        frame["bytes"] = [len(target.encode()) for target in targets]
        return frame


def suite_units(experiment: Experiment) -> list[Unit]:
    """The units of all suites, suites in order. Raises DataError for a missing column, label or row."""
    return [unit for suite in experiment.evaluate.suites for unit in MAKERS[suite.kind](suite, experiment)]


def _classification(suite: ClassificationSuite, experiment: Experiment) -> Iterator[Unit]:
    rows = classification_rows(suite, experiment.storage.data)
    test = rows.test.assign(length=rows.test["chars"])
    for prompt in suite.prompts:
        words = tuple(suite.labels[label][prompt.language] for label in rows.labels)
        yield LabelUnit(suite.name, prompt.name, test, prompt.text, words)


def _translation(suite: TranslationSuite, experiment: Experiment) -> Iterator[Unit]:
    yield _likelihood(suite, translation_rows(suite, experiment))


def _instructions(suite: InstructionSuite, experiment: Experiment) -> Iterator[Unit]:
    yield _likelihood(suite, instruction_rows(suite, experiment.storage.data))


def _likelihood(suite: Suite, rows: pd.DataFrame) -> Unit:
    return LikelihoodUnit(
        suite.name, "default", rows.assign(length=rows["prompt"].str.len() + rows["target"].str.len())
    )


MAKERS: Final[Mapping[str, Callable[[Any, Experiment], Iterator[Unit]]]] = {
    "classification": _classification,
    "translation": _translation,
    "instructions": _instructions,
}
"""Kind of suite -> its units."""
