"""`languages`: which languages are old, new and unseen, and what the unknown ones are called."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from ialign_ray.config.section import Section


class LanguagesConfig(Section):
    """Groups of the InstructAlign paper (arXiv 2305.13627) and names that no library knows."""

    l1: list[str] = Field(default_factory=lambda: ["eng"])
    """Languages that the base model knows, as ISO 639-3 codes; scores on them measure forgetting."""
    l2: list[str] = Field(default_factory=list)
    """New languages that the corpora hold parallel text for."""
    l3: list[str] = Field(default_factory=list)
    """Related languages that get no parallel text; scores on them measure transfer."""
    names: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Names for codes that CLDR does not know, per prompt language: `{qci: {eng: Cipher, ind: Sandi}}`."""

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        seen: dict[str, str] = {}
        for group in ("l1", "l2", "l3"):
            for code in getattr(self, group):
                if code in seen:
                    raise ValueError(f"{code!r} stands in both {seen[code]} and {group}; keep it in one group")
                seen[code] = group
        return self

    def groups(self) -> dict[str, str]:
        """Language code -> "L1", "L2" or "L3"."""
        return {c: g.upper() for g in ("l1", "l2", "l3") for c in getattr(self, g)}
