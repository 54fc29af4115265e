"""`languages`: the old, new and unseen languages, and names for those that CLDR does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ialign_ray.config.base import Section

Value = TypeVar("Value")


def _canonical(code: str) -> str:
    from ialign_ray.errors import ConfigError
    from ialign_ray.languages import canonical  # CLDR's tables take 40 ms that `import ialign_ray` can save

    try:
        return canonical(code)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"an unquoted no, yes, on or off is {value} to YAML; quote it, as in 'no' for Norwegian")
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a language code; write one such as ind or jav")
    return value


def _one_key_each(value: Any) -> Any:
    """Refuse two keys for the same language, of which pydantic would silently keep the last."""
    seen: dict[str, str] = {}
    for key in value if isinstance(value, Mapping) else ():
        if not isinstance(key, str):
            continue  # the validator of the key reports what is wrong
        code = _canonical(key)
        if code in seen:
            raise ValueError(f"{seen[code]!r} and {key!r} are the same language ({code}); keep one")
        seen[code] = key
    return value


def _each_once(codes: list[str]) -> list[str]:
    if twice := [c for c in codes if codes.count(c) > 1]:
        raise ValueError(f"language {twice[0]!r} is listed twice; remove one")
    return codes


LanguageCode = Annotated[str, BeforeValidator(_text), AfterValidator(_canonical)]
"""Any of `id`, `ind`, `id-ID`, `ind_Latn`; stored as ISO 639-3, with `_Script` only if it is not the usual one."""

LanguageList = Annotated[list[LanguageCode], AfterValidator(_each_once)]
"""Languages, each once."""

ByLanguage = Annotated[dict[LanguageCode, Value], BeforeValidator(_one_key_each)]
"""Mapping by language; two keys for the same language are refused."""


class LanguagesConfig(Section):
    """Groups of the InstructAlign paper (arXiv 2305.13627) and names that no library has."""

    l1: LanguageList = Field(default_factory=lambda: ["eng"])
    """Languages that the base model knows, as ISO 639, BCP-47 or FLORES codes; scores on them measure forgetting."""
    l2: LanguageList = Field(default_factory=list)
    """New languages that the corpora hold parallel text for."""
    l3: LanguageList = Field(default_factory=list)
    """Related languages that get no parallel text; scores on them measure transfer."""
    names: ByLanguage[ByLanguage[str]] = Field(default_factory=dict)
    """Names for codes that CLDR does not know, per prompt language: `{qci: {eng: Cipher, ind: Sandi}}`."""

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        seen: dict[str, str] = {}
        for group in ("l1", "l2", "l3"):
            for code in getattr(self, group):
                if code in seen:
                    raise ValueError(f"{code!r} is in both {seen[code]} and {group}; keep it in one group")
                seen[code] = group
        return self

    def groups(self) -> dict[str, str]:
        """Language code -> "L1", "L2" or "L3"."""
        return {c: g.upper() for g in ("l1", "l2", "l3") for c in getattr(self, g)}
