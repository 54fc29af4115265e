"""Names of the columns of tables in text files and spreadsheets, from the row that holds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ialign_ray.errors import DataError


def numbered(width: int) -> list[str]:
    """Names of the columns of a file without a header row."""
    return [str(k) for k in range(1, width + 1)]


def unique(path: str, names: Sequence[str]) -> list[str]:
    """The names, with the column's number for an empty one. Raises DataError if two are equal."""
    filled = [name or str(k) for k, name in enumerate(names, start=1)]
    if twice := [n for k, n in enumerate(filled) if n in filled[:k]]:
        raise DataError(f"{path} has two columns {twice[0]!r}; rename one")
    return filled


def check_names(
    path: str,
    wanted: Sequence[str],
    names: Sequence[str],
    header: int | str,
    below: Iterable[tuple[int, Sequence[str]]],
) -> None:
    """Raise DataError if a wanted column is missing; name the right `header` if a row of `below` has all of them."""
    missing = [column for column in wanted if column not in names]
    if not missing:
        return
    if header == "none":
        raise DataError(f"{path} has no column {missing[0]!r}; without a header row it has {', '.join(names)}")
    if line := next((n for n, cells in below if set(wanted) <= set(cells)), None):
        raise DataError(
            f"{path} has no column {missing[0]!r} in line {header}, but in line {line}; set `header: {line}`"
        )
    cure = "; if no line names the columns, set `header: none` and call them 1, 2, ..." * (set(wanted) == set(missing))
    raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(names)}{cure}")
