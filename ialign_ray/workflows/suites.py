"""List of the bundled suites, their tables from the hub, and suites as task files of lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from rich.console import Console

from ialign_ray.config import Experiment
from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.corpus.formats.columnar import saved
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.scoring.harness_export import export_tasks
from ialign_ray.storage import write_bytes
from ialign_ray.terminal import BlockTable, say

_SHOWN = 6
"""Most languages that are named; of more, their number is."""


def bundled_table() -> BlockTable:
    """Table of the bundled suites: kind, languages, rows of each, licence, and whether the texts are native or
    translated."""
    header = ("suite", "kind", "languages", "rows of each", "licence", "texts", "data, under storage.data")
    return BlockTable(header, [_row(suite) for suite in expand_suites(bundled_names())])


def export_suites(experiment: Experiment, folder: Path, suites: Sequence[str], console: Console) -> None:
    """Write task files of the experiment's suites, and print how the harness runs them. Raises IalignError."""
    groups, notes = export_tasks(experiment, folder, suites)
    for note in notes:
        say(console, note)
    if groups:
        say(console, f"Tasks: {folder}", f"Next:  lm-eval run --include_path {folder} --tasks {','.join(groups)}")


def _row(suite: dict[str, Any]) -> tuple[str, ...]:
    codes = list(dict.fromkeys([*suite.get("columns", {}), *_configurations(suite)]))
    languages = ", ".join(codes) if len(codes) <= _SHOWN else str(len(codes))
    about = suite["about"]
    rows = about.get("rows", "?")
    return suite["name"], suite["kind"], languages, rows, about["licence"], about["texts"], suite["path"]


def fetch_suites(names: Sequence[str], folder: Path, languages: Sequence[str], console: Console) -> None:
    """Write the tables of bundled suites under `folder`, a future `storage.data`, from their hub data sets.

    Of a data set with a configuration for each language, only those of `languages` are read (all if empty). A table
    that exists is left as it is. Raises ConfigError for an unknown suite or language, DataError for a data set that
    cannot be loaded.
    """
    for suite in expand_suites(list(names)):
        target = folder / suite["path"]
        if target.exists():
            say(console, f"{suite['name']}: {target} exists; delete it to fetch it again")
            continue
        tables = list(_tables(suite, languages, console))
        table = pa.concat_tables(tables, promote_options="permissive")
        made = pa.BufferOutputStream()
        csv.write_csv(table, made) if target.suffix == ".csv" else pq.write_table(table, made)
        write_bytes(target, made.getvalue().to_pybytes())
        say(console, f"{suite['name']}: {len(table):,} rows in {target} ({suite['about']['licence']})")


def _tables(suite: dict[str, Any], languages: Sequence[str], console: Console) -> Iterator[pa.Table]:
    hub, splits = suite["about"].get("hub"), suite["about"].get("splits", ["test"])
    if hub is None:
        raise ConfigError(f"suite {suite['name']!r} names no hub data set; see the comment at the top of its file")
    configured, known = hub.count("/") > 1, _configurations(suite)
    if missing := [code for code in languages if code not in known and not configured]:
        raise ConfigError(f"suite {suite['name']!r} has no language {missing[0]!r}; it has {', '.join(known)}")
    chosen = [None] if configured else [known[code] for code in languages or known]
    for number, configuration in enumerate(chosen, 1):
        if configuration:
            say(console, f"{suite['name']}: {configuration} ({number} of {len(chosen)})")
        for split in splits:
            rows = saved(f"hub:{hub}" if configuration is None else f"hub:{hub}/{configuration}", split)
            table = rows.with_format("arrow")[:]
            found: dict[str, list[Any]] = {"split": [split] * len(table), "row": list(range(len(table)))}
            if configuration is not None:
                found[suite["long"]["language"]] = [configuration] * len(table)
            for name, values in found.items():
                if name not in table.column_names:
                    table = table.append_column(name, pa.array(values))
            yield table


def _configurations(suite: dict[str, Any]) -> dict[str, str]:
    """Language -> value in the suite's column of languages."""
    return dict((suite.get("long") or {}).get("values", {}))
