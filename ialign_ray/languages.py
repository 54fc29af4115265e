"""Language codes and names, from CLDR through langcodes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import langcodes

from ialign_ray.errors import ConfigError


@lru_cache(maxsize=4096)
def normalise(code: str) -> str:
    """ISO 639-3 code of an ISO 639-1/-2/-3, BCP-47 or FLORES code: `id`, `ind`, `ind_Latn` -> `ind`.

    Raises ConfigError when no part of it is a language.
    """
    try:
        language = langcodes.Language.get(code.replace("_", "-")).language
        return langcodes.Language.get(str(language)).to_alpha3()
    except (langcodes.LanguageTagError, LookupError, ValueError) as error:
        raise ConfigError(f"language code {code!r} is not known; use ISO 639-3, such as ind or jav") from error


def display_name(code: str, spoken: str, names: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A language's name in another language: ("jav", "ind") -> "Jawa"; English where CLDR has none.

    `names` (`languages.names` of the experiment) comes first. Raises ConfigError for an unknown code.
    """
    own = (names or {}).get(code, {})
    if own:
        return own.get(spoken) or own.get("eng") or next(iter(own.values()))
    name = _cldr(normalise(code), normalise(spoken))
    if name is None:
        raise ConfigError(f"language {code!r} has no known name; add it as languages.names.{code}: {{eng: ...}}")
    return name


@lru_cache(maxsize=4096)
def _cldr(code: str, spoken: str) -> str | None:
    language = langcodes.Language.get(code)
    for within in (spoken, "eng"):
        name = language.display_name(within)
        # langcodes answers an unknown code with the code itself or "Unknown language [xxx]"
        if (
            name
            and name.lower() != code
            and not name.startswith(("Unknown", "Bahasa Tidak"))
            and f"[{code}]" not in name
        ):
            return str(name)
    return None
