"""A suite's file as rows of each language: wide (a column a language) or long (a column that names the language)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ialign_ray.config import SuiteSource
from ialign_ray.config.suites import columns_of
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError

ROW = "_row"
"""Column with the row's number in the file."""


def suite_frame(suite: SuiteSource, base: str, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The suite's file, with the number of each row. Raises DataError for a missing column or file, or no row."""
    layout = [suite.id, *((suite.long.language, suite.long.join) if suite.long else ())]
    needed = dict.fromkeys([*_columns(suite), *(c for c in layout if c), *extra])
    frame: pd.DataFrame = read_table(suite, base, list(needed)).to_pandas()
    frame[ROW] = range(len(frame))
    return frame


def language_rows(
    suite: SuiteSource, frame: pd.DataFrame, extra: Sequence[str] = (), *, repeated: bool = False
) -> dict[str, pd.DataFrame]:
    """Measured language -> its rows: id (str), a column for each slot (str), the `extra` columns and `ROW`.

    Rows without one of their texts are left out. An id is the sentence's where it is the same in all languages, else
    it begins with the language. A wide column of a long file stands in a row for each language: the first is kept, or
    all if `repeated`. Raises `DataError` for a language without a text, or an id twice.
    """
    found = {code: _rows(suite, frame, code, extra) for code in suite.spoken}
    for code in [c for c in found if suite.long and c in suite.columns and not repeated]:
        found[code] = found[code].drop_duplicates("id")
    for code, rows in found.items():
        twice = rows["id"][rows["id"].duplicated()]
        if not (twice.empty or (suite.long and code in suite.columns)):
            raise DataError(
                f"suite {suite.name!r}: id {twice.iloc[0]!r} stands twice in {code}; name another column as `id`, "
                "or leave it out"
            )
    return found


def limited(suite: SuiteSource, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the suite's seeded sample of `test_limit` sentences, in their order; the same for every run."""
    if suite.test_limit is None or rows["id"].nunique() <= suite.test_limit:
        return rows
    chosen = sorted(set(rows["id"]), key=lambda i: (share_of(i, seed=2), i))[: suite.test_limit]
    return rows[rows["id"].isin(chosen)]


def aligned(suite: SuiteSource, found: dict[str, pd.DataFrame], first: str, second: str) -> pd.DataFrame:
    """Sentences of two languages: id, `first` and `second` (texts), in the order of the file.

    Texts of one row belong together; those of two rows of a long file by `long.join`. Raises `DataError` where nothing
    joins them, or fewer than two sentences are in both.
    """
    one, two = found[first], found[second]
    apart = first not in suite.columns and second not in suite.columns
    if apart and (suite.long is None or suite.long.join is None):
        raise DataError(f"suite {suite.name!r}: nothing joins the rows of {first} and {second}; name `long.join`")
    key = "id" if apart else ROW
    long = one if first not in suite.columns else two  # its ids are unique where the other's may repeat
    texts = (side.set_index(key)["text"] for side in (one, two))
    joined = pd.concat(texts, axis=1, keys=["first", "second"], join="inner")
    joined["id"] = joined.index if apart else long.set_index(key)["id"].reindex(joined.index)
    if len(joined) < 2:
        raise DataError(f"suite {suite.name!r}: {first} and {second} share {len(joined)} sentences; it needs two")
    return joined.reset_index(drop=True)


def _columns(suite: SuiteSource) -> list[str]:
    """Columns of the texts of measured languages."""
    wide = [suite.columns[code] for code in suite.spoken if code in suite.columns]
    long = [suite.long.text] if suite.long and any(code in suite.long.values for code in suite.spoken) else []
    return [column for texts in [*wide, *long] for column in columns_of(texts).values()]


def _rows(suite: SuiteSource, frame: pd.DataFrame, code: str, extra: Sequence[str]) -> pd.DataFrame:
    long = suite.long
    if code in suite.columns:
        texts, rows = columns_of(suite.columns[code]), frame
        ids = _ids(suite, rows) if long is None or long.join is None else rows[long.join].astype(str)
    else:
        assert long is not None  # a spoken language has a column in one of the two
        texts, rows = columns_of(long.text), frame[frame[long.language].astype(str) == long.values[code]]
        ids = f"{code}:" + _ids(suite, rows) if long.join is None else rows[long.join].astype(str)
    made = pd.DataFrame({"id": ids, ROW: rows[ROW]})
    for slot, column in texts.items():
        made[slot] = rows[column].fillna("").astype(str)
    made = made.assign(**{column: rows[column] for column in extra})
    filled = (made[list(texts)].apply(lambda c: c.str.strip()) != "").all(axis=1)
    if not filled.any():
        where = ", ".join(repr(c) for c in texts.values())
        raise DataError(f"suite {suite.name!r}: column {where} ({code}) is empty; remove the language or fill it")
    kept: pd.DataFrame = made[filled]
    return kept


def _ids(suite: SuiteSource, rows: pd.DataFrame) -> pd.Series:
    return rows[suite.id or ROW].astype(str)
