"""Rows of multiple-choice suites: the texts of each row, its own options and the position of the right one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from ialign_ray.config import ChoiceSuite
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError
from ialign_ray.evaluation.suites.faults import CORRECT, row_name, untranslated
from ialign_ray.evaluation.suites.load import (
    CLUSTER,
    FOLDS,
    language_rows,
    limited,
    of_split,
    suite_frame,
    text_column,
)

_OPTIONS: Final = "_options"
"""Column with the options of a row, while the rows of a language are made."""
_LETTERED: Final = re.compile(r"\s*\(?(\w)[.):]\s*(.*)", re.DOTALL)


def option_column(place: int) -> str:
    """Name of the column with a row's option number `place`, from 0."""
    return text_column(f"option {place + 1}")


def choice_rows(suite: ChoiceSuite, base: str) -> pd.DataFrame:
    """Test rows, one for each row and language of the file.

    Columns: suite, language, id, label (position of the right option), options (their number), chars (of all texts and
    options), fold (int), length (characters of the longest row with the same first text: rows of one passage stay
    together when they are sorted by it), a column for each text (`text` or `text:SLOT`), and for each option.

    Raises DataError for a missing column, no test row, fewer than two options, options of different number in two rows,
    an empty or repeated option, an empty text, and an answer that is not an option or has two meanings.
    """
    frame, lists = _frame(suite, base)
    found = {}
    for code in suite.spoken:
        options = suite.options_of(code)
        named = lists[options] if isinstance(options, str) else _of_columns(frame, options)
        known = frame.assign(**{_OPTIONS: named})
        apart = isinstance(suite.choices, dict)
        filled = known[_OPTIONS].map(lambda listed: any(option.strip() for option in listed)) if apart else None
        known = known[~untranslated(suite, known, code, filled)]
        extra = [_OPTIONS, *_extra(suite)]
        found[code] = language_rows(suite.model_copy(update={"languages": [code]}), known, extra)[code]
    counts = {len(options) for rows in found.values() for options in rows[_OPTIONS]}
    for code, rows in found.items():
        _check_options(suite, code, rows, counts)
    labels = _labels(suite, found)
    chosen = {code: limited(suite, rows.assign(label=labels[code])) for code, rows in found.items()}
    return pd.concat([_scored(suite, code, rows) for code, rows in chosen.items()], ignore_index=True)


def _extra(suite: ChoiceSuite) -> list[str]:
    return list(dict.fromkeys(c for c in (suite.answer, suite.split_column, suite.together) if c))


def _frame(suite: ChoiceSuite, base: str) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """Test rows of the file; and for each column that holds all options of a row, its lists by the frame's index."""
    named = [suite.options_of(code) for code in suite.spoken]
    single = list(dict.fromkeys(one for one in named if isinstance(one, str)))
    each = [column for one in named if not isinstance(one, str) for column in one]
    frame = suite_frame(suite, base, [*_extra(suite), *each])
    lists = {}
    for column in single:
        # read again, as a list that is read as text could not be divided into options
        values = read_table(suite, base, [column], structured=True)[column].to_pylist()
        lists[column] = pd.Series([_listed(suite, v, column, k) for k, v in enumerate(values)], frame.index, object)
    frame = of_split(suite, frame, suite.test)
    if frame.empty:
        raise DataError(f"suite {suite.name!r} has no row with {suite.split_column} = {suite.test!r}")
    return frame, {column: found.loc[frame.index] for column, found in lists.items()}


def _listed(suite: ChoiceSuite, value: Any, column: str, row: int) -> list[str]:
    """Options of a list, of JSON text of a list, or of text with a lettered line for each."""
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except ValueError:
            lines = [_LETTERED.fullmatch(line) for line in value.strip().splitlines() if line.strip()]
            letters = [line[1].upper() for line in lines if line]
            if not lines or letters != [letter.upper() for letter in suite.letters[: len(lines)]]:
                parsed = None
            else:
                parsed = [line[2] for line in lines if line]
    else:
        parsed = value
    if value is None:
        return []
    if not isinstance(parsed, list):
        raise DataError(
            f"suite {suite.name!r}, row {row + 1}: column {column!r} holds {str(value)[:60]!r}, not a list of options; "
            "give a list, JSON text of one, a line `A. option` for each, or name a column for each option in `choices`"
        )
    return [_text(item) for item in parsed]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    # a column of whole numbers with a gap is read as floats
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _of_columns(frame: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Options of one column each; the last ones of a row may be missing (null)."""
    made = []
    for values in frame[list(columns)].itertuples(index=False, name=None):
        present = [k for k, value in enumerate(values) if not pd.isna(value)]
        made.append([_text(value) for value in values[: present[-1] + 1 if present else 0]])
    return pd.Series(made, frame.index, object)


def _check_options(suite: ChoiceSuite, code: str, rows: pd.DataFrame, counts: set[int]) -> None:
    usual = max(counts)
    for place, options in enumerate(rows[_OPTIONS]):
        said = [option.strip() for option in options]
        wrong = None
        if len(said) < 2:
            wrong = f"there {'is 1 option' if said else 'are 0 options'}, and a choice needs two; {CORRECT}"
        elif "" in said:
            wrong = f"option {_letter(suite, said.index(''))} is empty; {CORRECT}"
        elif twice := [option for option in said if said.count(option) > 1]:
            wrong = f"option {twice[0][:60]!r} is listed twice, and no model can choose between the two; {CORRECT}"
        elif len(said) != usual:
            wrong = (
                f"there are {len(said)} options, and other rows have {usual}; make a suite for each number of options, "
                "with `where`"
            )
        elif usual > len(suite.letters) and "letter" in suite.forms:
            wrong = f"there are {usual} options, and {len(suite.letters)} `letters`; name more"
        elif suite.permutations > usual:
            wrong = f"there are {usual} options, so permutations can be at most {usual}, not {suite.permutations}"
        if wrong:
            raise DataError(f"{row_name(suite, code, rows.iloc[place])}: {wrong}")


def _letter(suite: ChoiceSuite, place: int) -> str:
    return suite.letters[place] if place < len(suite.letters) else str(place + 1)


class _Answer(NamedTuple):
    """An answer as it is written, and where."""

    code: str
    place: int
    text: str
    options: list[str]


def _labels(suite: ChoiceSuite, found: dict[str, pd.DataFrame]) -> dict[str, list[int]]:
    """Positions of the right options of each language's rows, by the one meaning of `answer` that fits all rows."""
    answers = [
        _Answer(code, place, _text(answer).strip(), [option.strip() for option in options])
        for code, rows in found.items()
        for place, (answer, options) in enumerate(zip(rows[suite.answer], rows[_OPTIONS], strict=True))
    ]
    for one in answers:
        if not one.text:
            where = row_name(suite, one.code, found[one.code].iloc[one.place])
            raise DataError(f"{where}: column {suite.answer!r} is empty; {CORRECT}")
    read = {meaning: [_position(suite, meaning, one) for one in answers] for meaning in _meanings(suite)}
    fitting = {meaning: places for meaning, places in read.items() if None not in places}
    if not fitting:
        meaning = min(read, key=lambda m: read[m].count(None))  # the one that fits most rows
        one = answers[read[meaning].index(None)]
        where = row_name(suite, one.code, found[one.code].iloc[one.place])
        cure = "correct it, or set answer_is and answer_base"
        due = _due(suite, meaning, len(one.options))
        raise DataError(f"{where}: column {suite.answer!r} holds {one.text[:60]!r}, {due}; {cure}")
    (first, places), *others = fitting.items()
    for meaning, other in others:
        if other != places:
            both = f"{_MEANINGS[first]} and {_MEANINGS[meaning]}"
            numbers = all(m.isdecimal() for m in fitting)
            cure = "answer_base: 0 or 1" if numbers else "answer_is (number, letter or text), or answer_base"
            raise DataError(f"suite {suite.name!r}: column {suite.answer!r} may be {both} in every row; set {cure}")
    left = iter(places)
    return {code: [int(next(left) or 0) for _ in range(len(rows))] for code, rows in found.items()}


_MEANINGS: Final = {
    "0": "numbers from 0",
    "1": "numbers from 1",
    "letter": "letters",
    "text": "the texts of options",
}


def _meanings(suite: ChoiceSuite) -> list[str]:
    numbers = [str(base) for base in (0, 1) if suite.answer_base in (None, base)]
    by_kind = {"number": numbers, "letter": ["letter"], "text": ["text"]}
    if suite.answer_is is None and suite.answer_base is not None:
        return numbers
    return [m for kind, found in by_kind.items() if suite.answer_is in (None, kind) for m in found]


def _position(suite: ChoiceSuite, meaning: str, one: _Answer) -> int | None:
    if meaning == "text":
        return one.options.index(one.text) if one.text in one.options else None
    if meaning == "letter":
        letters = [letter.casefold() for letter in suite.letters[: len(one.options)]]
        said = one.text.rstrip(".)").casefold()
        return letters.index(said) if said in letters else None
    place = int(one.text) - int(meaning) if one.text.isdecimal() else -1
    return place if 0 <= place < len(one.options) else None


def _due(suite: ChoiceSuite, meaning: str, count: int) -> str:
    if meaning == "letter":
        return f"not one of the letters {', '.join(suite.letters[:count])}"
    return "not one of its options" if meaning == "text" else f"outside of {meaning} to {count - 1 + int(meaning)}"


def _scored(suite: ChoiceSuite, code: str, rows: pd.DataFrame) -> pd.DataFrame:
    made = pd.DataFrame({"suite": suite.name, "language": code, "id": rows["id"], "label": rows["label"]})
    made["options"] = rows[_OPTIONS].map(len)
    made["chars"] = sum(rows[slot].str.len() for slot in suite.slots)
    made["chars"] += rows[_OPTIONS].map(lambda options: sum(map(len, options)))
    # questions of one passage would otherwise be learned from each other
    shared = rows[suite.slots[0]] if len(suite.slots) > 1 else rows["id"]
    together = rows[suite.together].astype(str) if suite.together else shared
    made["fold"] = together.map(lambda value: int(share_of(value, seed=5) * FOLDS)).astype("Int64")
    made["length"] = made["chars"].groupby(shared).transform("max")
    if CLUSTER in rows.columns:
        made[CLUSTER] = rows[CLUSTER]
    made = made.assign(**{text_column(slot): rows[slot] for slot in suite.slots})
    options = {option_column(k): [given[k] for given in rows[_OPTIONS]] for k in range(int(made["options"].iloc[0]))}
    return made.assign(**options)
