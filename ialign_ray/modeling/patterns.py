"""Regular expressions in `adapter_config.json`, tested in a killable process before PEFT matches them in this one.

Python's `re` backtracks, and blocks the interpreter while it does: `(a+)+b` against a name of forty letters takes
hours, during which a server answers no request. A linear engine (RE2) would refuse what adapters use, such as a
look-ahead.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ialign_ray.errors import ModelError

SECONDS: Final = 5.0
"""Longest time in seconds for all matches; PEFT then repeats them."""
_PLAIN: Final = re.compile(r"[\w.-]*")
# each pattern against each name, uncompiled as PEFT does it: its cache is too small for thousands of patterns
_TRY: Final = """
import json, re, sys
patterns, names = json.load(sys.stdin)
for name in names:
    for pattern, how in patterns:
        try:
            getattr(re, how)(pattern, name)
        except (re.error, RecursionError, OverflowError) as error:
            print(json.dumps([pattern, str(error)]))
            sys.exit()
"""


def check_patterns(config: Mapping[str, Any], names: Sequence[str], folder: Path) -> None:
    """Raise ModelError if a pattern of an adapter's config cannot be matched against a model's layers in time."""
    patterns = [(pattern, how) for given, pattern, how in _patterns(config) if not _PLAIN.fullmatch(given)]
    if not patterns:
        return
    where = f"adapter_config.json of {folder}"
    asked = json.dumps([patterns, list(names)])
    try:
        # -I -S: only the interpreter, which then starts in 20 ms
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _TRY], input=asked, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{where} has patterns that are not matched in {SECONDS:g} s, the longest of them "
            f"{max((pattern for pattern, _ in patterns), key=len)[:80]!r}; list the layers by name"
        ) from error
    if done.stdout or done.returncode:
        pattern, problem = json.loads(done.stdout) if done.stdout else (patterns[0][0], "it needs too much memory")
        raise ModelError(f"{where} has the pattern {pattern[:80]!r}, which is not a regular expression: {problem}")


def _patterns(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (text of the config, the regular expression that PEFT makes of it, `match` or `fullmatch`)."""
    for field in ("target_modules", "exclude_modules"):
        if isinstance(given := config.get(field), str):
            yield given, given, "fullmatch"
    for field in ("rank_pattern", "alpha_pattern"):
        for given in _texts(config.get(field)):
            yield given, rf"(.*\.)?({given})$", "match"
    for given in _texts(config.get("modules_to_save")):
        yield given, rf"(^|.*\.){given}($|\..*)", "match"
    for given in _texts(config.get("layers_pattern")):
        yield given, rf"(?:^|.*?\.){given}\.(?P<idx>\d+)\.", "match"


def _texts(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else [each for each in given or () if isinstance(each, str)]
