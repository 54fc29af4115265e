"""Rows of generation suites: the texts of each row and its references."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ialign_ray.config import Experiment, GenerationSuite, PromptConfig
from ialign_ray.config.generation import NAMED
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError
from ialign_ray.evaluation.suites.faults import CORRECT, row_name, untranslated
from ialign_ray.evaluation.suites.load import CLUSTER, language_rows, limited, of_split, suite_frame, text_column
from ialign_ray.languages import display_name
from ialign_ray.tasks.templating import fill

_REFERENCES = "_references"
"""Column with the references of a row, while the rows of a language are made."""


def generation_rows(suite: GenerationSuite, experiment: Experiment, prompt: PromptConfig) -> pd.DataFrame:
    """Test rows under one prompt, one for each row and language of the file.

    Columns: suite, language, id, prompt (with its slots filled), source (the texts, one per line), references (list of
    texts), reference (the references, one per line), length, and a column for each text (`text` or `text:SLOT`).

    Raises DataError for a missing column, no test row, an empty text, and a row without a reference or with an empty
    one.
    """
    extra = [suite.split_column] if suite.split_column else []
    base = experiment.storage.data
    frame = suite_frame(suite, base, list(dict.fromkeys([*extra, *_reference_columns(suite)])))
    lists = {}
    for column in _reference_columns(suite):
        # read again, as a list that is read as text could not be divided into references
        values = read_table(suite, base, [column], structured=True)[column].to_pylist()
        lists[column] = pd.Series(values, frame.index, object)
    frame = of_split(suite, frame, suite.test)
    if frame.empty:
        raise DataError(f"suite {suite.name!r} has no row with {suite.split_column} = {suite.test!r}")
    return pd.concat([_rows(suite, frame, lists, code, prompt, experiment) for code in suite.spoken], ignore_index=True)


def _reference_columns(suite: GenerationSuite) -> list[str]:
    return list(dict.fromkeys(column for code in suite.spoken for column in suite.references_of(code)))


def _rows(
    suite: GenerationSuite,
    frame: pd.DataFrame,
    lists: dict[str, pd.Series],
    code: str,
    prompt: PromptConfig,
    experiment: Experiment,
) -> pd.DataFrame:
    columns = suite.references_of(code)
    given = [_listed(values) for values in zip(*(lists[c].loc[frame.index] for c in columns), strict=True)]
    known = frame.assign(**{_REFERENCES: pd.Series(given, frame.index, object)})
    filled = known[_REFERENCES].map(bool) if isinstance(suite.reference, dict) else None
    known = known[~untranslated(suite, known, code, filled)]
    only = suite.model_copy(update={"languages": [code]})
    rows = language_rows(only, known, [_REFERENCES])[code]
    for place, references in enumerate(rows[_REFERENCES]):
        named = ", ".join(map(repr, columns))
        wrong = f"has no reference in column {named}" if not references else "has an empty reference"
        if not references or not all(text.strip() for text in references):
            raise DataError(f"{row_name(suite, code, rows.iloc[place])} {wrong}; {CORRECT}")
    rows = limited(suite, rows)
    names = {} if NAMED in suite.slots else {NAMED: display_name(code, prompt.language, experiment.languages.names)}
    texts = [dict(zip(suite.slots, row)) for row in zip(*(rows[slot] for slot in suite.slots), strict=True)]
    made = pd.DataFrame({"suite": suite.name, "language": code, "id": rows["id"]})
    made["prompt"] = [fill(prompt.text, of_row, names)[0] for of_row in texts]
    made["source"] = ["\n".join(of_row.values()) for of_row in texts]
    made["references"] = rows[_REFERENCES]
    made["reference"] = rows[_REFERENCES].map("\n".join)
    made["length"] = made["prompt"].str.len()
    if CLUSTER in rows.columns:
        made[CLUSTER] = rows[CLUSTER]
    return made.assign(**{text_column(slot): rows[slot] for slot in suite.slots})


def _listed(values: tuple[Any, ...]) -> list[str]:
    """References of a row, without missing ones (null); of several columns, those that are filled."""
    each = [item for value in values for item in (value if isinstance(value, list) else [value])]
    return [str(item) for item in each if item is not None and (len(values) == 1 or str(item).strip())]
