"""Language codes and names, from CLDR and the IANA registry through langcodes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import langcodes
from langcodes.data_dicts import LIKELY_SUBTAGS, MACROLANGUAGES

from ialign_ray.errors import ConfigError

_DISTINCT = {"tl": "tgl", "tgl": "tgl", "prs": "prs", "swc": "swc", "cnr": "cnr", "sh": "hbs", "hbs": "hbs"}
"""Codes of FLORES-200 or ISO 639-3 that CLDR would merge into fil, fas, swa and srp."""
_NAMES = {
    "tgl": {"eng": "Tagalog", "ind": "Tagalog"},
    "prs": {"eng": "Dari", "ind": "Dari"},
    "swc": {"eng": "Congo Swahili", "ind": "Swahili Kongo"},
    "cnr": {"eng": "Montenegrin", "ind": "Montenegro"},
    "hbs": {"eng": "Serbo-Croatian", "ind": "Serbo-Kroasia"},
    "zsm": {"ind": "Melayu Baku"},
    "zlm": {"eng": "Malay", "ind": "Melayu"},
    "pmy": {"ind": "Melayu Papua"},
    "abs": {"ind": "Melayu Ambon"},
    "arb": {"ind": "Arab Baku"},
    "cmn": {"ind": "Mandarin"},
    "nan": {"ind": "Min Nan"},
    "hak": {"ind": "Hakka"},
    "gan": {"ind": "Gan"},
    "hsn": {"ind": "Xiang"},
    "swh": {"eng": "Swahili", "ind": "Swahili"},
    "npi": {"eng": "Nepali", "ind": "Nepali"},
    "ory": {"eng": "Odia", "ind": "Odia"},
    "ekk": {"eng": "Estonian", "ind": "Estonia"},
    "lvs": {"eng": "Latvian", "ind": "Latvia"},
    "pes": {"eng": "Persian", "ind": "Persia"},
    "plt": {"eng": "Malagasy", "ind": "Malagasi"},
    "khk": {"ind": "Mongolia Halh"},
    "azj": {"ind": "Azerbaijan Utara"},
    "azb": {"ind": "Azerbaijan Selatan"},
    "uzn": {"ind": "Uzbek Utara"},
    "kmr": {"ind": "Kurdi Utara"},
    "als": {"ind": "Albania Tosk"},
    "ydd": {"ind": "Yiddish Timur"},
    "pbt": {"ind": "Pashto Selatan"},
    "pbu": {"ind": "Pashto Utara"},
    "dan": {"ind": "Denmark"},
    "pol": {"ind": "Polandia"},
    "yap": {"ind": "Yap"},
    "cym": {"ind": "Wales"},
}
"""Names that CLDR lacks, or that do not read well in a sentence."""
_MEMBERS = {"nob": "nor", "fil": "tgl"}
"""Usual members of a macro-language, or names of one language, that CLDR does not merge."""
_SCRIPTS = {"azb": "Arab"}
"""Usual scripts that the registry lacks and the macro-language does not give."""
_WIDER = {"Hang": "Kore", "Hira": "Jpan", "Kana": "Jpan"}
"""ISO 15924: scripts that are part of a language's usual mixture (FLORES writes `kor_Hang`)."""


@lru_cache(maxsize=4096)
def canonical(code: str) -> str:
    """Normalise a language code: ISO 639-3, with `_Script` if the script is not the usual one.

    `id`, `ind_Latn`, `id-ID` -> `ind`; `zh-Hans` -> `zho`; `zh-TW` -> `zho_Hant`; `ace_Arab` stays. A
    macro-language stays one (`zho`, `msa`). Raises ConfigError if it does not name a language, or names an unknown
    script.
    """
    iso = normalise(code)
    script, usual = _script(code), usual_script(iso)
    return iso if script is None or usual in (script, _WIDER.get(script)) else f"{iso}_{script}"


@lru_cache(maxsize=4096)
def normalise(code: str) -> str:
    """ISO 639-3 code of an ISO 639-1/-2/-3, BCP-47 or FLORES code, without script: `id`, `ind_Latn` -> `ind`.

    A macro-language stays one (`zho`). Raises ConfigError when no part of it is a language.
    """
    try:
        plain = str(langcodes.Language.get(code, normalize=False).language).lower()
        iso = _DISTINCT.get(plain) or str(langcodes.Language.get(plain).to_alpha3())
    except (langcodes.LanguageTagError, LookupError, ValueError, AttributeError) as error:
        raise ConfigError(f"language code {code!r} is not known; use ISO 639-3, such as ind or jav") from error
    if iso == "und":
        raise ConfigError(f"language code {code!r} does not name a language; use ISO 639-3, such as ind or jav")
    return iso


def usual_script(code: str) -> str:
    """ISO 15924 code of the script that a language is mostly written in: `jav` -> `Latn`, `ajp` -> `Arab`.

    The macro-language's script if CLDR does not know the language; Latin if it knows neither.
    """
    iso = normalise(code)
    if iso in _SCRIPTS:
        return _SCRIPTS[iso]
    language, above = langcodes.Language.get(iso), macrolanguage(iso)
    if above and str(language.language) not in LIKELY_SUBTAGS:
        return usual_script(above)
    return str(language.maximize().script)


def script_of(code: str) -> str:
    """ISO 15924 code of the script that text under a code is in: `ace_Arab` -> `Arab`, `ace` -> `Latn`."""
    return canonical(code).partition("_")[2] or usual_script(code)


def macrolanguage(code: str) -> str | None:
    """The macro-language that a language belongs to (IANA registry), or None: `ind` -> `msa`, `cmn` -> `zho`."""
    iso = normalise(code)
    above = MACROLANGUAGES.get(iso) or MACROLANGUAGES.get(str(langcodes.Language.get(iso).language))
    return normalise(above) if above and normalise(above) != iso else None


EQUAL = 1
"""Largest distance of two spellings of one tag."""
LAST_RESORT = 4
"""Distance of two tags of which one names a macro-language, the other its usual member."""


@lru_cache(maxsize=1 << 16)
def tag_distance(wanted: str, found: str) -> int | None:
    """Distance of a language tag in a file from the one asked for; None if its text is in another language or script.

    0 the same tag, 1 up to case, 2 the same language (`en` and `en-US`), 3 another region's (`pt-BR` for `pt-PT`), 4
    the macro-language of its usual member (`sw` for `swh`, `zh` for `cmn`).
    """
    if wanted == found:
        return 0
    if wanted.lower().replace("_", "-") == found.lower().replace("_", "-"):
        return 1
    try:
        if _family(wanted) != _family(found) or script_of(wanted) != script_of(found):
            return None
        if normalise(wanted) != normalise(found):
            return LAST_RESORT
        one, two = (langcodes.Language.get(code, normalize=False).territory for code in (wanted, found))
        return 3 if one and two and one != two else 2
    except (ConfigError, ValueError):  # a code that no registry knows, or no tag
        return None


def _family(code: str) -> str:
    """A macro-language and its usual member as one: CLDR names that member alone (`cmn` of `zho`, not `yue`)."""
    iso = normalise(code)
    if iso in _MEMBERS or iso in _DISTINCT.values():
        return _MEMBERS.get(iso, iso)
    return normalise(str(langcodes.Language.get(iso).prefer_macrolanguage().language))


def display_name(code: str, spoken: str = "eng", names: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A language's name in another language: ("jav", "ind") -> "Jawa"; English where CLDR lacks it.

    The Indonesian name omits "bahasa", which the surrounding sentence supplies. A script is named if it
    is not the usual one of the language: ("ace_Arab", "eng") -> "Acehnese (Arabic)".
    `names` (`languages.names` of the experiment) takes precedence. Raises ConfigError for an unknown code.
    """
    own = (names or {}).get(code) or (names or {}).get(canonical(code)) or {}
    if own:
        return own.get(spoken) or own.get(canonical(spoken)) or own.get("eng") or next(iter(own.values()))
    name = _cldr(canonical(code), normalise(spoken))
    if name is None:
        raise ConfigError(f"language {code!r} has no known name; add it as languages.names.{code}: {{eng: ...}}")
    return name


@lru_cache(maxsize=4096)
def _cldr(code: str, spoken: str) -> str | None:
    iso, _, script = code.partition("_")
    language = langcodes.Language.get(iso)
    name = _NAMES.get(iso, {}).get(spoken) or _known(language, spoken)
    name = name or _NAMES.get(iso, {}).get("eng") or _known(language, "eng")
    if name and script:
        name = f"{name} ({langcodes.Language.make(script=script).script_name(spoken)})"
    return name


def _known(language: langcodes.Language, spoken: str) -> str | None:
    name = str(language.language_name(spoken))
    # langcodes answers an unknown code with the code itself or "Unknown language [xxx]", in any language
    if name == language.language or f"[{language.language}]" in name:
        return None
    return name.removeprefix("bahasa ").removesuffix(" (individual language)").removesuffix(" (macrolanguage)")


def _script(code: str) -> str | None:
    """The script that a code names, or that its region implies (`zh-TW`); None if it implies no script."""
    written = langcodes.Language.get(code, normalize=False)
    if written.script:
        if not langcodes.tag_is_valid(f"und-{written.script}"):
            raise ConfigError(f"language code {code!r} has no known script; use ISO 15924, such as jav_Latn")
        return str(written.script)
    if not written.territory:
        return None
    language = langcodes.Language.get(normalise(code)).language
    return str(langcodes.Language.make(language=language, territory=written.territory).maximize().script)
