"""List of the bundled suites."""

from __future__ import annotations

from typing import Any

from ialign_ray.config.bundled import bundled_names, expand_suites
from ialign_ray.terminal import BlockTable

_SHOWN = 6
"""Most languages that are named; of more, their number is."""


def bundled_table() -> BlockTable:
    """Table of the bundled suites: kind, languages, licence, and whether the texts are native or translated."""
    header = ("suite", "kind", "languages", "licence", "texts", "data, under storage.data")
    return BlockTable(header, [_row(suite) for suite in expand_suites(bundled_names())])


def _row(suite: dict[str, Any]) -> tuple[str, ...]:
    long = suite.get("long") or {}
    codes = list(dict.fromkeys([*suite.get("columns", {}), *long.get("values", {})]))
    languages = ", ".join(codes) if len(codes) <= _SHOWN else str(len(codes))
    about = suite["about"]
    return suite["name"], suite["kind"], languages, about["licence"], about["texts"], suite["path"]
