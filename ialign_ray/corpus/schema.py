"""Schema of parallel rows, which every reader returns and every step takes.

A table has `id` (string), `file` (int32, number of the source's file), `line` (int64, the record's first line, or its
row number in a format without lines; both from 1), and one string column per language, null if a row lacks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

META = [("id", pa.string()), ("file", pa.int32()), ("line", pa.int64())]


def schema(languages: Sequence[str]) -> pa.Schema:
    """Schema of a table with these languages."""
    return pa.schema([*META, *((code, pa.string()) for code in languages)])


def languages(table: pa.Table) -> list[str]:
    """Language codes of a table, in its order."""
    known = {name for name, _ in META}
    return [name for name in table.column_names if name not in known]
