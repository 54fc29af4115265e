"""Checks of an answer that need no judge: length, format, words, and language.

They follow the idea of IFEval (Zhou et al. 2023, arXiv 2311.07911). An answer without a letter or digit meets none, so
that silence is not obedience.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import regex

from ialign_ray.corpus.cleaning import identify
from ialign_ray.evaluation.metrics.bootstrap import Floats
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.generation import units

Arguments = Mapping[str, Any]

_SENTENCE: Final = regex.compile(r"[.!?…。！？।॥။៕]+[\p{P}\s]*|\n+")
_BULLET: Final = regex.compile(r"^\s*[-*•–]\s+\S", regex.MULTILINE)
_PLACEHOLDER: Final = regex.compile(r"\[[^\[\]\n]+\]")
_TITLE: Final = regex.compile(r"<<[^<>\n]*\w[^<>\n]*>>")
_FENCE: Final = regex.compile(r"\A\s*```\w*\n(.*)\n```\s*\Z", regex.DOTALL)
_QUOTES: Final = (('"', '"'), ("“", "”"), ("«", "»"), ("„", "“"), ("„", "”"), ("「", "」"), ("'", "'"), ("‘", "’"))
_WORDED: Final = regex.compile(r"[\p{L}\p{N}]")


@dataclass(frozen=True)
class AnswerCheck:
    """One kind of check."""

    met: Callable[[str, Arguments], bool]
    """Function of an answer (NFC, without outer spaces) and the arguments."""
    takes: Mapping[str, type]
    """Argument -> its type; at least one is needed if there are any."""


def _counted(count: Callable[[str], int]) -> AnswerCheck:
    def met(answer: str, given: Arguments) -> bool:
        found = count(answer)
        exact = given.get("count", found)
        return bool(found == exact and given.get("at_least", found) <= found <= given.get("at_most", found))

    return AnswerCheck(met, {"at_least": int, "at_most": int, "count": int})


def _json(answer: str, given: Arguments) -> bool:
    fenced = _FENCE.match(answer)
    try:
        return isinstance(json.loads(fenced[1] if fenced else answer), dict | list)
    except (ValueError, RecursionError):
        return False


def _holds(answer: str, text: str) -> int:
    """Times that a text occurs in an answer as whole words, ignoring case."""
    wanted, found = units(text), units(answer)
    if not wanted:
        return answer.count(text)
    return sum(found[k : k + len(wanted)] == wanted for k in range(len(found) - len(wanted) + 1))


def _contains(answer: str, given: Arguments) -> bool:
    return bool(_holds(answer, given["text"]) >= given.get("at_least", 1))


def _in_language(answer: str, given: Arguments) -> bool:
    taken, _ = identify.predict(pa.array([answer], pa.string()))
    label = identify.labels()[int(taken[0]) - 1] if taken[0] else ""
    return bool(label) and (identify.alike(given["code"], label) or identify.related(given["code"], label))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().strip(' \t\r\n"“”«»„*')


_TEXT: Final = {"text": str}
CHECKS: Final[Mapping[str, AnswerCheck]] = {
    "words": _counted(lambda answer: len(units(answer))),
    "sentences": _counted(lambda answer: sum(bool(_WORDED.search(part)) for part in _SENTENCE.split(answer))),
    "lines": _counted(lambda answer: sum(bool(line.strip()) for line in answer.splitlines())),
    "paragraphs": _counted(lambda answer: sum(bool(part.strip()) for part in regex.split(r"\n\s*\n", answer))),
    "bullets": _counted(lambda answer: len(_BULLET.findall(answer))),
    "placeholders": _counted(lambda answer: len(_PLACEHOLDER.findall(answer))),
    "contains": AnswerCheck(_contains, {**_TEXT, "at_least": int}),
    "avoids": AnswerCheck(lambda answer, given: not _holds(answer, given["text"]), _TEXT),
    "begins_with": AnswerCheck(lambda answer, given: _folded(answer).startswith(_folded(given["text"])), _TEXT),
    "ends_with": AnswerCheck(lambda answer, given: _folded(answer).endswith(_folded(given["text"])), _TEXT),
    "lower": AnswerCheck(lambda answer, given: answer == answer.lower(), {}),
    "upper": AnswerCheck(lambda answer, given: answer.replace("ß", "ẞ") == answer.replace("ß", "ẞ").upper(), {}),
    "json": AnswerCheck(_json, {}),
    "quoted": AnswerCheck(lambda answer, given: len(answer) > 2 and (answer[0], answer[-1]) in _QUOTES, {}),
    "title": AnswerCheck(lambda answer, given: bool(_TITLE.search(answer)), {}),
    "language": AnswerCheck(_in_language, {"code": str}),
}
"""Every check by its name in a suite's file. `words` counts grapheme clusters in scripts without spaces."""


def fault_of(check: Any) -> str | None:
    """Return what is wrong with a check of a suite's file, as the end of a sentence; None if it can be used."""
    if not isinstance(check, Mapping) or not isinstance(check.get("name"), str):
        return f"has {check!r}, which has no `name`; use one of {', '.join(CHECKS)}"
    name, given = check["name"], {key: value for key, value in check.items() if key != "name"}
    if name not in CHECKS:
        return f"has the check {name!r}, which is not known; use one of {', '.join(CHECKS)}"
    takes = CHECKS[name].takes
    if unknown := [key for key in given if key not in takes]:
        allowed = f"use {', '.join(takes)}" if takes else "it takes no argument"
        return f"has the check {name!r} with the unknown argument {unknown[0]!r}; {allowed}"
    for key, value in given.items():
        number = takes[key] is int
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 0 if number else _is_text(value)
        if not right:
            expected = "a whole number from 0" if number else "a text that is not empty"
            return f"has the check {name!r} with {key}: {value!r}; give {expected}"
    needed = [key for key in takes if takes[key] is str] or list(takes)
    if takes and not any(key in given for key in needed):
        return f"has the check {name!r} without an argument; give {' or '.join(needed)}"
    if name == "language" and not any(identify.alike(given["code"], label) for label in identify.labels()):
        return f"has the check 'language' with code: {given['code']!r}, which lid.176 does not know; use another check"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def met_checks(answer: str, checks: Sequence[Arguments]) -> list[bool]:
    """Return True for each check that an answer meets."""
    text = unicodedata.normalize("NFC", answer).strip()
    if not _WORDED.search(text):
        return [False] * len(checks)
    return [CHECKS[str(check["name"])].met(text, check) for check in checks]


def counts_met(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return the number of checks that each answer meets, and the number of its checks, both (rows,)."""
    checks = [json.loads(text) for text in rows["checks"]]
    met = [sum(met_checks(*row)) for row in zip(rows["hypothesis"], checks)]
    return np.array(met, np.float64), np.array([len(of_row) for of_row in checks], np.float64)


def check_draws(cell: Cell) -> dict[str, Floats]:
    """Metrics of one language of a following suite, as draw vectors (draws,).

    - followed: share of answers that meet all of their checks (IFEval's strict accuracy by prompt)
    - checks_met: share of checks that are met (by instruction)
    - empty, cut: shares of answers that are empty, or were ended by their length
    """
    met, given = counts_met(cell.rows)
    return {
        "followed": cell.mean(met == given),
        "checks_met": cell.ratio(met, given),
        "empty": cell.mean([not answer.strip() for answer in cell.rows["hypothesis"]]),
        "cut": cell.mean(cell.rows["cut"]),
    }
