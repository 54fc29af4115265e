"""Scripts that a language is written in, and their properties."""

from __future__ import annotations

from functools import lru_cache

import langcodes
import pyarrow as pa
from babel.core import get_global
from fontTools.unicodedata import Scripts

from ialign_ray.corpus.cleaning.codepoints import matching
from ialign_ray.errors import ConfigError
from ialign_ray.languages import macrolanguage

_TOGETHER = {
    "Hans": ["Hani"],
    "Hant": ["Hani"],
    "Hanb": ["Hani", "Bopo"],
    "Jpan": ["Hani", "Hira", "Kana"],
    "Hrkt": ["Hira", "Kana"],
    "Kore": ["Hang", "Hani"],
    "Aran": ["Arab"],
    "Latf": ["Latn"],
    "Latg": ["Latn"],
    "Cyrs": ["Cyrl"],
    "Syre": ["Syrc"],
    "Syrj": ["Syrc"],
    "Syrn": ["Syrc"],
}
"""Codes that name a style, or several scripts together."""

_TWO_ALPHABETS = frozenset(["srp", "sr", "hbs", "sh", "bos", "bs", "cnr", "uzb", "uz", "uzn", "kaz", "kk", "tuk", "tk"])
"""Languages that are commonly written in Latin and in Cyrillic; a script in the code (`srp_Latn`) says which."""

_SPACELESS = frozenset(["Hani", "Hira", "Kana", "Bopo", "Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Lana", "Talu", "Tale"])


def unicode_name(script: str) -> str | None:
    """Name of a script in regular expressions: `Latn` -> `Latin`; None if it is unknown there."""
    name = str(Scripts.NAMES.get(script, ""))
    try:
        matching(rf"\p{{{name}}}")
    except pa.ArrowInvalid:  # younger than pyarrow's Unicode, or a style such as `Latf`
        return None
    return name


def expand(script: str) -> list[str]:
    """A script code as codes of single scripts: `Jpan` -> Han, Hiragana and Katakana."""
    return _TOGETHER.get(script, [script])


@lru_cache(maxsize=4096)
def scripts_of(code: str) -> tuple[str, ...]:
    """ISO 15924 codes of the scripts that a language is written in; empty if unknown (`und`, private codes).

    A script in the code (`ace_Arab`) takes precedence over CLDR's likely script. CLDR lists some 7,800 languages; a
    language that it does not list has its macro-language's script.
    """
    try:
        language = langcodes.Language.get(code)
    except ValueError:  # a code that the user defined in languages.names
        return ()
    if language.script:
        return tuple(expand(str(language.script)))
    if code.lower() in _TWO_ALPHABETS or language.language in _TWO_ALPHABETS:
        return ("Latn", "Cyrl")
    # Babel's CLDR: the one in langcodes lists 1,800 languages
    if likely := get_global("likely_subtags").get(str(language.language)):
        return tuple(expand(likely.split("_")[1]))
    try:
        above = macrolanguage(code)
    except ConfigError:
        return ()
    return scripts_of(above) if above else ()


def has_spaces(code: str) -> bool:
    """Return True if the language puts spaces between words. Korean does, despite its Chinese characters."""
    scripts = scripts_of(code)
    return "Hang" in scripts or not _SPACELESS.intersection(scripts)
