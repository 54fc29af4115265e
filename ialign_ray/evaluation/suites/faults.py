"""Rows of suites that lack a text, and their names in messages."""

from __future__ import annotations

from typing import Final

import pandas as pd

from ialign_ray.config import SuiteSource
from ialign_ray.config.suite_source import columns_of
from ialign_ray.errors import DataError
from ialign_ray.evaluation.suites.load import ROW

CORRECT: Final = "correct the file, or leave the row out by `where`"


def untranslated(suite: SuiteSource, frame: pd.DataFrame, code: str, filled: pd.Series | None = None) -> pd.Series:
    """Mask of rows without text in a language that has separate columns, and, with `filled`, without anything else.

    Raises DataError for a text that is empty.
    """
    wide = code in suite.columns
    texts = columns_of(suite.columns[code] if wide or suite.long is None else suite.long.text)
    blank = pd.DataFrame({slot: frame[c].fillna("").astype(str).str.strip() == "" for slot, c in texts.items()})
    skipped = blank.all(axis=1) & (wide and len(suite.known) > 1)
    if filled is not None:
        skipped &= ~filled
    asked = pd.Series(True, frame.index)
    if not wide and suite.long is not None:
        asked = frame[suite.long.language].astype(str) == suite.long.values[code]
    wrong = blank[asked & ~skipped & blank.any(axis=1)]
    if len(wrong):
        slot = next(slot for slot in texts if wrong[slot].iloc[0])
        where = row_name(suite, code, frame.loc[wrong.index[0]])
        raise DataError(f"{where}: column {texts[slot]!r} is empty; fill it, or leave the row out by `where`")
    return skipped


def row_name(suite: SuiteSource, code: str, row: pd.Series) -> str:
    """Return suite, row of the file, id and language, for messages."""
    named = row["id"] if "id" in row else row[suite.id or ROW]
    called = f" (id {str(named)!r})" if suite.id else ""
    return f"suite {suite.name!r}, row {int(row[ROW]) + 1}{called}, {code}"
