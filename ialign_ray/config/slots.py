"""Slots of prompts and templates: `{name}`, which a text replaces.

Anything else in braces that begins like a name is an unknown slot (`{0}`, `{text.x}`, `{text!r}`), to be refused by
callers that know the valid slots; other braces, such as those of JSON, are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

BRACES: Final = re.compile(r"\{([^{}]*)\}")
_LIKE_A_NAME: Final = re.compile(r"\w+(\s*[.!:\[].*)?", re.DOTALL)
MOST_SLOTS: Final = 64
"""Most slots of one text: a prompt of a few kilobytes could name its slot thousands of times."""


def find_slots(text: str) -> Iterator[re.Match[str]]:
    """Yield a match for each slot, known or not; group 1 is its name."""
    return (found for found in BRACES.finditer(text) if _LIKE_A_NAME.fullmatch(found[1].strip()))


def slots_of(text: str) -> list[str]:
    """Return the names of all slots in order, known or not. Raises ValueError for more than `MOST_SLOTS`."""
    found = [slot[1] for slot in find_slots(text)]
    if len(found) > MOST_SLOTS:
        raise ValueError(f"there are {len(found)} slots, and a text may have {MOST_SLOTS}; use fewer")
    return found


def filled_length(text: str, texts: Mapping[str, str]) -> int:
    """Return the number of characters of a text with its slots filled, without filling them."""
    gained = (len(texts.get(slot[1], slot[0])) - len(slot[0]) for slot in find_slots(text))
    return len(text) + sum(gained)
