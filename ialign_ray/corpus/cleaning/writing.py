"""Scripts that a language is written in, and their properties."""

from __future__ import annotations

from functools import lru_cache

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS

_NAMES = """
Adlm=Adlam Ahom=Ahom Arab=Arabic Armn=Armenian Bali=Balinese Bamu=Bamum Batk=Batak Beng=Bengali Bopo=Bopomofo
Brai=Braille Bugi=Buginese Buhd=Buhid Cakm=Chakma Cans=Canadian_Aboriginal Cham=Cham Cher=Cherokee Copt=Coptic
Cyrl=Cyrillic Deva=Devanagari Ethi=Ethiopic Geor=Georgian Goth=Gothic Grek=Greek Gujr=Gujarati Guru=Gurmukhi
Hang=Hangul Hani=Han Hano=Hanunoo Hebr=Hebrew Hira=Hiragana Java=Javanese Kali=Kayah_Li Kana=Katakana Khmr=Khmer
Knda=Kannada Lana=Tai_Tham Laoo=Lao Latn=Latin Lepc=Lepcha Limb=Limbu Lisu=Lisu Mlym=Malayalam Mong=Mongolian
Mtei=Meetei_Mayek Mymr=Myanmar Newa=Newa Nkoo=Nko Olck=Ol_Chiki Orya=Oriya Osge=Osage Plrd=Miao Rjng=Rejang
Rohg=Hanifi_Rohingya Runr=Runic Samr=Samaritan Saur=Saurashtra Sinh=Sinhala Sund=Sundanese Sylo=Syloti_Nagri
Syrc=Syriac Tagb=Tagbanwa Tale=Tai_Le Talu=New_Tai_Lue Taml=Tamil Tavt=Tai_Viet Telu=Telugu Tfng=Tifinagh
Tglg=Tagalog Thaa=Thaana Thai=Thai Tibt=Tibetan Vaii=Vai Yiii=Yi
"""
_UNICODE = dict(item.split("=") for item in _NAMES.split())
"""ISO 15924 code -> name that regular expressions know."""

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
_JOINING = """
Arab Deva Beng Guru Gujr Orya Taml Telu Knda Mlym Sinh Khmr Mymr Mong Syrc Java Bali Sund Cham Batk Rohg Adlm Nkoo Mtei
Newa Cakm Lepc Limb Saur Sylo Lana Tibt
"""
JOINING = frozenset(_JOINING.split())
"""Scripts in which U+200C and U+200D change what is read."""

BREAKING = frozenset(["Khmr", "Thai", "Laoo", "Mymr", "Tibt", "Java", "Bali", "Lana", "Talu"])
"""Scripts in which U+200B marks the ends of words."""


def unicode_name(script: str) -> str | None:
    """Name of a script in regular expressions: `Latn` -> `Latin`; None if it is unknown there."""
    return _UNICODE.get(script)


def expand(script: str) -> list[str]:
    """A script code as codes of single scripts: `Jpan` -> Han, Hiragana and Katakana."""
    return _TOGETHER.get(script, [script])


@lru_cache(maxsize=4096)
def scripts_of(code: str) -> tuple[str, ...]:
    """ISO 15924 codes of the scripts that a language is written in; empty if unknown (`und`, private codes).

    A script in the code (`ace_Arab`) takes precedence over CLDR's likely script.
    """
    try:
        language = langcodes.Language.get(code)
    except ValueError:  # a code that the user defined in languages.names
        return ()
    if language.script:
        return tuple(expand(str(language.script)))
    if code.lower() in _TWO_ALPHABETS or language.language in _TWO_ALPHABETS:
        return ("Latn", "Cyrl")
    likely = language.maximize()
    # langcodes treats what CLDR does not list as American English
    known = language.language in LIKELY_SUBTAGS or (likely.territory, likely.script) != ("US", "Latn")
    return tuple(expand(str(likely.script))) if known and likely.script else ()


def has_spaces(code: str) -> bool:
    """Return True if the language puts spaces between words. Korean does, despite its Chinese characters."""
    scripts = scripts_of(code)
    return "Hang" in scripts or not _SPACELESS.intersection(scripts)
