"""Step `script`: drop texts in a script other than their language's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ialign_ray.config.cleaning import ScriptStep
from ialign_ray.corpus.cleaning.codepoints import decode, look_up, matching, per_block, row_sums
from ialign_ray.corpus.cleaning.step import Mask, Outcome, Scope
from ialign_ray.corpus.cleaning.writing import expand, scripts_of, unicode_name
from ialign_ray.errors import ConfigError

# letters that several scripts share (`ʻ`, `ー`) count neither for nor against a script
_LETTERS = r"\p{L}"
_SHARED = r"[\p{Common}\p{Inherited}]"
_OUTSIDE = 1 << 31


class Script:
    """Drops texts with less than the share `minimum` of their letters in a script of their language.

    Texts without letters pass, and so do languages of unknown script (`unchecked`).
    """

    version = 2

    def __init__(self, settings: ScriptStep) -> None:
        self.minimum = settings.minimum
        self.scripts = {code: [s for name in names for s in expand(name)] for code, names in settings.scripts.items()}
        for code, names in self.scripts.items():
            if unknown := [name for name in names if unicode_name(name) is None]:
                raise ConfigError(
                    f"cleaning.steps: script {unknown[0]!r} of {code} is not known; use ISO 15924, such as Latn or Arab"
                )

    def __call__(self, table: pa.Table, scope: Scope) -> Outcome:
        """Judge every language."""
        outcome = Outcome(table)
        for code in scope.languages:
            weights = self._weights(code)
            if weights is not None:
                outcome.dropped[code] = per_block(table[code], partial(self._judge, weights))
        return outcome

    def unchecked(self, languages: Sequence[str]) -> list[str]:
        """Languages of unknown script, whose texts are not judged."""
        return [code for code in languages if self._weights(code) is None]

    def _weights(self, code: str) -> npt.NDArray[np.int64] | None:
        names = [unicode_name(script) for script in self.scripts.get(code) or scripts_of(code)]
        known = [name for name in names if name]
        return _weights(tuple(known)) if names and len(known) == len(names) else None

    def _judge(self, weights: npt.NDArray[np.int64], array: pa.Array) -> Mask:
        texts = decode(array)
        outside, inside = np.divmod(row_sums(look_up(weights, texts.points), texts.offsets), _OUTSIDE)
        return np.asarray(inside < self.minimum * (inside + outside))


@lru_cache(maxsize=16)
def _weights(scripts: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """1 for the letters of the scripts, 2^31 for other letters, 0 for the rest: one lookup and one sum count both."""
    letters = matching(_LETTERS) & ~matching(_SHARED)
    own = matching("[" + "".join(rf"\p{{{name}}}" for name in scripts) + "]")
    return np.where(letters, np.where(own, 1, _OUTSIDE), 0).astype(np.int64)
