"""Unit of multiple-choice suites: the options of each row, scored by their letters or by their texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ialign_ray.config import ChoiceSuite
from ialign_ray.config.suites import LISTED, ChoiceForm
from ialign_ray.corpus.identity import share_of
from ialign_ray.evaluation.metrics.classification import PER_LENGTH, SCORERS, predict, with_batch
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.evaluation.suites.choices import choice_rows, option_column
from ialign_ray.evaluation.suites.load import text_column
from ialign_ray.inference.calibration import CONTENT_FREE, label_values, prior
from ialign_ray.tasks.templating import fill

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer
    from ialign_ray.inference.scoring import LabelScores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ChoiceUnit(Unit):
    """Multiple choice by the likelihood of the letters of options, or of the options."""

    text: str
    """The prompt with a slot for each text of a row, and `{choices}` for its options."""
    slots: tuple[str, ...]
    """Names of the texts."""
    form: ChoiceForm
    """The continuation that is scored."""
    letters: tuple[str, ...]
    """A letter for each option."""
    permutations: int
    """Orders in which the options of a row are listed; the score is the mean over them."""
    prefix: str
    """Text before the names of scorers; empty for the suite's own form."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, label, chars, options, prompt, order_changed, and for each scorer a list with a
        score for each option."""
        options = self.options(rows)
        found = (
            self._by_letter(scorer, rows, options) if self.form == "letter" else self._by_text(scorer, rows, options)
        )
        frame = rows[["suite", "language", "id", "label", "chars", "options"]].assign(prompt=self.prompt)
        frame["order_changed"] = found.pop("order_changed", np.nan)
        return frame.assign(**{f"{self.prefix}{name}": list(scores) for name, scores in found.items()})

    def finish(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """Add the scorer `batch`, by position of the option."""
        return with_batch(predictions, self.prefix)

    def options(self, rows: pd.DataFrame) -> list[list[str]]:
        """The options of each row, in the order of the file."""
        return [list(o) for o in zip(*(rows[option_column(k)] for k in range(len(self.letters))), strict=True)]

    def _by_text(self, scorer: Scorer, rows: pd.DataFrame, options: list[list[str]]) -> dict[str, Floats]:
        scores = scorer.options(self.prompts(rows, options), options)
        found = {name: label_values(scores, name) for name in ("sum", "mean")}
        found["per_character"] = scores.log_prob / [[len(option) for option in of_row] for of_row in options]
        found["per_byte"] = scores.log_prob / [[len(option.encode()) for option in of_row] for of_row in options]
        # under each content-free prompt, every option of the rows once
        distinct = list(dict.fromkeys(option for of_row in options for option in of_row))
        free = scorer.options(self._content_free(), [distinct] * len(CONTENT_FREE))
        place = {option: k for k, option in enumerate(distinct)}
        own = [_columns(free, [place[option] for option in of_row]) for of_row in options]
        return found | {"calibrated": scores.log_prob - np.stack([prior(of_row.log_prob) for of_row in own])}

    def _by_letter(self, scorer: Scorer, rows: pd.DataFrame, options: list[list[str]]) -> dict[str, Floats]:
        free = scorer.content_free(self._content_free(), self.letters)
        orders = np.stack([_orders(str(i), len(self.letters), self.permutations) for i in rows["id"]])
        asked: list[str] = []
        for k in range(self.permutations):
            listed = [[of_row[place] for place in order] for of_row, order in zip(options, orders[:, k], strict=True)]
            asked += self.prompts(rows, listed)
        # in one call, so that the orders of a row share its passage
        scores = scorer.labels(asked, self.letters)
        back = np.argsort(orders, axis=2).swapaxes(0, 1)  # place in the list of each option of the file
        values = {
            name: np.take_along_axis(label_values(scores, name, free).reshape(back.shape), back, axis=2)
            for name in ("sum", "mean", "calibrated")
        }
        found: dict[str, Floats] = {name: value.mean(axis=0) for name, value in values.items()}
        if self.permutations > 1:
            answers = predict(values["sum"].reshape(-1, len(self.letters))).reshape(back.shape)
            found["order_changed"] = (answers != answers[0]).any(axis=(0, 2)).astype(np.float64)
        return found

    def prompts(self, rows: pd.DataFrame, options: list[list[str]]) -> list[str]:
        """The prompt of each row with its options in this order."""
        texts = zip(*(rows[text_column(slot)] for slot in self.slots), strict=True)
        return [self._filled(dict(zip(self.slots, row)), listed) for row, listed in zip(texts, options, strict=True)]

    def _content_free(self) -> list[str]:
        return [self._filled(dict.fromkeys(self.slots, text), [text] * len(self.letters)) for text in CONTENT_FREE]

    def _filled(self, texts: Mapping[str, str], options: list[str]) -> str:
        lines = (f"{letter}. {option}" for letter, option in zip(self.letters, options, strict=True))
        return fill(self.text, {**texts, LISTED: "\n".join(lines)})[0]


def choice_units(suite: ChoiceSuite, base: str) -> Iterator[ChoiceUnit]:
    """Units of a suite: each form of scoring under each of its prompts."""
    rows = choice_rows(suite, base).drop(columns="fold")
    letters = tuple(letter_names(suite, int(rows["options"].iloc[0])))
    for form in suite.forms:
        prefix = "" if form == suite.forms[0] else f"{form}:"
        for prompt in suite.asked_by(form):
            orders = suite.permutations if form == "letter" else 1
            name = f"{prefix}{prompt.name}"
            yield ChoiceUnit(suite.name, name, rows, prompt.text, suite.slots, form, letters, orders, prefix)


def letter_names(suite: ChoiceSuite, count: int) -> list[str]:
    """Return the letters of `count` options; numbers after the suite's letters, which only texts are scored with."""
    return [*suite.letters[:count], *(str(k + 1) for k in range(len(suite.letters), count))]


def choice_scorers(suite: ChoiceSuite) -> list[str]:
    """Return the scorers of a suite in results, its own form first."""
    names = {"letter": SCORERS, "text": (*SCORERS, *PER_LENGTH)}
    return [("" if form == suite.forms[0] else f"{form}:") + name for form in suite.forms for name in names[form]]


def _columns(scores: LabelScores, chosen: list[int]) -> LabelScores:
    return type(scores)(scores.log_prob[:, chosen], scores.tokens[:, chosen])


def _orders(row: str, options: int, count: int) -> NDArray[np.int64]:
    """Orders (count, options) of a row's options: that of the file, then rotations drawn by the row's id."""
    turns = sorted(range(1, options), key=lambda k: share_of(f"{row}:{k}", seed=7))[: count - 1]
    return np.stack([(np.arange(options) + turn) % options for turn in (0, *turns)])
