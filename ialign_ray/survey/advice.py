"""The strategy that is likely to pay for a language.

Li, Zhao and Scarton (2025, arXiv 2508.19089) compare in-context learning with parameter-efficient tuning over 20
languages: where language and script are barely represented, tuning is limited, and word or sentence pairs in the prompt
work best; where a language is better represented, few-shot examples and tuning do. They give no numeric limits. Those
below are ours, and docs/survey.md says what they were checked on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SOURCE: Final = "Li, Zhao and Scarton 2025, arXiv 2508.19089"
NEW_SCRIPT: Final = 0.5
"""Share of tokens that are parts of characters or unknown, from which a script counts as unknown to the tokenizer."""
UNKNOWN: Final = 0.4
"""Parity below which a language counts as unknown."""
KNOWN: Final = 0.75
"""Parity from which a language counts as well known."""


@dataclass(frozen=True)
class Advice:
    """A class of languages and what is likely to pay for it."""

    kind: str
    """Short name, for sorting and counting."""
    text: str
    """The strategies that are likely to pay."""


WELL_KNOWN = Advice("well known", "zero-shot or few-shot")
PARTLY_KNOWN = Advice("partly known", "tuning or few-shot")
LANGUAGE_UNKNOWN = Advice("language unknown", "dictionary or pairs in the prompt")
SCRIPT_UNKNOWN = Advice("script unknown", "dictionary or pairs in the prompt, not tuning")
NOT_ADVISED = Advice("too few units", "")
PIVOT = Advice("pivot", "")
KINDS = (WELL_KNOWN, PARTLY_KNOWN, LANGUAGE_UNKNOWN, SCRIPT_UNKNOWN, NOT_ADVISED)


def advise(parity: float, unreadable: float) -> Advice:
    """Advice by parity (see `table.survey_table`) and the share of broken or unknown tokens; NaN if not measured."""
    if unreadable >= NEW_SCRIPT:
        return SCRIPT_UNKNOWN
    if parity != parity:
        return NOT_ADVISED
    if parity < UNKNOWN:
        return LANGUAGE_UNKNOWN
    return PARTLY_KNOWN if parity < KNOWN else WELL_KNOWN
