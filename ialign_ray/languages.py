"""Language codes and names, from CLDR through langcodes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import langcodes

from ialign_ray.errors import ConfigError

_DISTINCT = {"tl": "tgl", "tgl": "tgl", "prs": "prs", "swc": "swc", "cnr": "cnr"}
"""Codes of FLORES-200 or ISO 639-3 that CLDR would merge into fil, fas, swa and srp."""
_NAMES = {
    "tgl": {"eng": "Tagalog", "ind": "Tagalog"},
    "prs": {"eng": "Dari", "ind": "Dari"},
    "swc": {"eng": "Congo Swahili", "ind": "Swahili Kongo"},
    "cnr": {"eng": "Montenegrin", "ind": "Montenegro"},
    "zsm": {"ind": "Melayu Baku"},
    "arb": {"ind": "Arab Baku"},
    "cmn": {"ind": "Mandarin"},
    "swh": {"eng": "Swahili", "ind": "Swahili"},
    "npi": {"eng": "Nepali", "ind": "Nepali"},
    "abs": {"ind": "Melayu Ambon"},
}
"""Names that CLDR lacks, or that do not read well in a sentence."""


@lru_cache(maxsize=4096)
def normalise(code: str) -> str:
    """ISO 639-3 code of an ISO 639-1/-2/-3, BCP-47 or FLORES code: `id`, `ind`, `ind_Latn` -> `ind`.

    A macro-language stays one (`zho`). Raises ConfigError when no part of it is a language.
    """
    try:
        plain = str(langcodes.Language.get(code, normalize=False).language).lower()
        iso = _DISTINCT.get(plain) or str(langcodes.Language.get(plain).to_alpha3())
    except (langcodes.LanguageTagError, LookupError, ValueError) as error:
        raise ConfigError(f"language code {code!r} is not known; use ISO 639-3, such as ind or jav") from error
    if iso == "und":
        raise ConfigError(f"language code {code!r} names no language; use ISO 639-3, such as ind or jav")
    return iso


def display_name(code: str, spoken: str = "eng", names: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A language's name in another language: ("jav", "ind") -> "Jawa"; English where CLDR has none.

    The Indonesian name comes without "bahasa", which the sentence around it says. A script is named if it
    is not the usual one of the language: ("ace_Arab", "eng") -> "Acehnese (Arabic)".
    `names` (`languages.names` of the experiment) comes first. Raises ConfigError for an unknown code.
    """
    own = (names or {}).get(code) or {}
    if own:
        return own.get(spoken) or own.get("eng") or next(iter(own.values()))
    name = _cldr(code, normalise(spoken))
    if name is None:
        raise ConfigError(f"language {code!r} has no known name; add it as languages.names.{code}: {{eng: ...}}")
    return name


@lru_cache(maxsize=4096)
def _cldr(code: str, spoken: str) -> str | None:
    iso = normalise(code)
    language = langcodes.Language.get(iso)
    name = _NAMES.get(iso, {}).get(spoken) or _known(language, spoken) or _known(language, "eng")
    written = langcodes.Language.get(code, normalize=False)
    if name and written.script and written.script != language.maximize().script:
        name = f"{name} ({written.script_name(spoken)})"
    return name


def _known(language: langcodes.Language, spoken: str) -> str | None:
    name = str(language.language_name(spoken))
    # langcodes answers an unknown code with the code itself or "Unknown language [xxx]", in any language
    if name == language.language or f"[{language.language}]" in name:
        return None
    return name.removeprefix("bahasa ")
