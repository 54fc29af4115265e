"""Rows and unit of suites of requests with checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from ialign_ray.config import FollowingSuite, PromptConfig
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.checks import fault_of
from ialign_ray.evaluation.scoring.prompted_suites import Unit, generated_answers
from ialign_ray.evaluation.suites.faults import row_name, untranslated
from ialign_ray.evaluation.suites.load import CLUSTER, language_rows, limited, suite_frame, text_column
from ialign_ray.tasks.templating import fill

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer

_CHECKS = "_checks"
"""Column with the checks of a row, while the rows of a language are made."""


@dataclass(frozen=True)
class FollowingUnit(Unit):
    """Answers that the model generates, to be checked."""

    max_new_tokens: int
    """The longest answer that is generated."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, prompt, prompt_text, checks, hypothesis, new_tokens and cut."""
        frame = rows[["suite", "language", "id", "checks"]].assign(prompt=self.prompt)
        frame["prompt_text"] = rows["prompt"].map(scorer.encoder.texts.normal)
        return frame.assign(**generated_answers(scorer, rows["prompt"], self.max_new_tokens))


def following_units(suite: FollowingSuite, base: str) -> Iterator[FollowingUnit]:
    """Units of a suite, one for each of its prompts."""
    for prompt in suite.asked:
        yield FollowingUnit(suite.name, prompt.name, following_rows(suite, base, prompt), suite.max_new_tokens)


def following_rows(suite: FollowingSuite, base: str, prompt: PromptConfig) -> pd.DataFrame:
    """Rows under one prompt, one for each row and language of the file.

    Columns: suite, language, id, prompt (with its slots filled), checks (JSON), length, and a column for each text.

    Raises DataError for a missing column, an empty text, a row without a check, or a check that cannot be used.
    """
    frame = suite_frame(suite, base)
    # read apart, as a list of objects is not text
    values = read_table(suite, base, [suite.checks], structured=True)[suite.checks].to_pylist()
    frame = frame.assign(**{_CHECKS: pd.Series([_listed(value) for value in values], frame.index, object)})
    return pd.concat([_rows(suite, frame, code, prompt) for code in suite.spoken], ignore_index=True)


def _rows(suite: FollowingSuite, frame: pd.DataFrame, code: str, prompt: PromptConfig) -> pd.DataFrame:
    only = suite.model_copy(update={"languages": [code]})
    rows = language_rows(only, frame[~untranslated(suite, frame, code)], [_CHECKS])[code]
    for place, checks in enumerate(rows[_CHECKS]):
        fault = "has no list of checks" if not checks else next(filter(None, map(fault_of, checks)), None)
        if fault:
            raise DataError(f"{row_name(suite, code, rows.iloc[place])}: column {suite.checks!r} {fault}")
    rows = limited(suite, rows)
    texts = [dict(zip(suite.slots, row)) for row in zip(*(rows[slot] for slot in suite.slots), strict=True)]
    made = pd.DataFrame({"suite": suite.name, "language": code, "id": rows["id"]})
    made["prompt"] = [fill(prompt.text, of_row)[0] for of_row in texts]
    made["checks"] = [json.dumps(checks, ensure_ascii=False, sort_keys=True) for checks in rows[_CHECKS]]
    made["length"] = made["prompt"].str.len()
    if CLUSTER in rows.columns:
        made[CLUSTER] = rows[CLUSTER]
    return made.assign(**{text_column(slot): rows[slot] for slot in suite.slots})


def _listed(value: Any) -> list[Any]:
    """Checks of a row, given as a list or as JSON text of one; empty if they are not a list."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    if not isinstance(value, list):
        return []
    # a table has a field for each argument of any check; those of others are missing
    return [{k: v for k, v in one.items() if v is not None} if isinstance(one, dict) else one for one in value]
