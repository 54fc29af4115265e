"""Metrics of generated answers against one or several references: chrF++, ROUGE-L, exact match and faults of answers.

Each is resampled over sentences. Copying the input is the baseline: a summary that repeats its text scores high.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

import numpy as np
import pandas as pd
import regex
from sacrebleu.metrics.chrf import CHRF

from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import Floats
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.evaluation.metrics.translation import corpus_draws, elsewhere, identifiable

_SPACELESS: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_UNIT: Final = regex.compile(rf"(?=[{_SPACELESS}])\X|(?:(?![{_SPACELESS}])[\p{{L}}\p{{M}}\p{{N}}])+")
_EDGES: Final = regex.compile(r"^[\p{P}\p{S}\p{Z}\p{C}]+|[\p{P}\p{S}\p{Z}\p{C}]+$")


def answer_draws(cell: Cell) -> dict[str, Floats]:
    """Metrics of one language of a generation suite, as draw vectors (draws,).

    The rows have the texts `source` (of the row, without the prompt's wording), `prompt_text` and `hypothesis`, the
    list `references`, and `cut`: True if the answer was ended by its length. Texts are compared in NFC.

    - chrf (chrF++, best reference of each row, 0 to 100), rouge_l (mean of the best F over a row's references);
      `*_copy` of the source as answer, `chrf_over_copy` the difference
    - exact_match: share of answers that equal a reference by `plain`
    - copied: share of answers that equal the source or the whole prompt by `plain`
    - valid: share of answers that are not empty, not cut and not copied
    - empty, cut, off_target, off_target_reference: as for translations

    Raises `DataError` for a missing answer.
    """
    language = str(cell.rows["language"].iloc[0])
    missing = [i for i, text in enumerate(cell.rows["hypothesis"]) if not isinstance(text, str)]
    if missing:
        raise DataError(f"{cell.where}: row {missing[0]} has no answer; evaluate the run again")
    sources, prompts, answers = (
        [unicodedata.normalize("NFC", text) for text in cell.rows[name]]
        for name in ("source", "prompt_text", "hypothesis")
    )
    references = [[unicodedata.normalize("NFC", text) for text in given] for given in cell.rows["references"]]
    streams = [list(stream) for stream in zip_longest(*references)]
    scorer = CHRF(word_order=2)
    empty, cut = np.array([not a.strip() for a in answers]), cell.rows["cut"].to_numpy(bool)
    copied = np.array(
        [bool(plain(a)) and plain(a) in (plain(s), plain(p)) for a, s, p in zip(answers, sources, prompts)]
    )
    drawn: dict[str, Floats] = {
        "chrf": corpus_draws(scorer, cell.weights, cell.unit, answers, streams),
        "chrf_copy": corpus_draws(scorer, cell.weights, cell.unit, sources, streams),
        "rouge_l": cell.mean([best_rouge_l(*row) for row in zip(answers, references)]),
        "rouge_l_copy": cell.mean([best_rouge_l(*row) for row in zip(sources, references)]),
        "exact_match": cell.mean([plain(a) in map(plain, given) for a, given in zip(answers, references)]),
        "copied": cell.mean(copied),
        "empty": cell.mean(empty),
        "cut": cell.mean(cut),
        "valid": cell.mean(~(empty | cut | copied)),
    }
    drawn["chrf_over_copy"] = drawn["chrf"] - drawn["chrf_copy"]
    first = [given[0] for given in references]
    if identifiable(language, first):
        drawn["off_target"] = cell.mean(elsewhere(answers, language))
        drawn["off_target_reference"] = cell.mean(elsewhere(first, language))
    return drawn


def described(frame: pd.DataFrame) -> list[str]:
    """Signature of chrF++ of a suite's predictions, the definition of ROUGE-L, and notes on what was not measured."""
    scorer, lists = CHRF(word_order=2), list(frame["references"])
    scorer.corpus_score(["a"], [["a"]] * max(map(len, lists)))  # the number of references is part of a signature
    said = [
        f"chrF++ {scorer.get_signature()}.",
        "ROUGE-L: F of the longest common subsequence of words, or of grapheme clusters in scripts without spaces.",
    ]
    for code, rows in frame.groupby("language", sort=True):
        if not identifiable(str(code), list(dict.fromkeys(given[0] for given in rows["references"]))):
            said.append(f"Off-target rate in {code}: not identifiable, as lid.176 recognises too few references.")
    return said


def plain(text: str) -> str:
    """Text in NFC and without case, outer punctuation, symbols and spaces; inner spaces are one space each."""
    whole = unicodedata.normalize("NFC", text).casefold()
    return " ".join(_EDGES.sub("", whole).split()) or " ".join(whole.split())


def units(text: str) -> list[str]:
    """Words of a text in lower case; in scripts without spaces (Thai, Burmese, Khmer, Han), grapheme clusters."""
    found: list[str] = _UNIT.findall(unicodedata.normalize("NFC", text).casefold())
    return found


def best_rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L of an answer and the reference that it is nearest to, 0 to 1."""
    return max(rouge_l(answer, reference) for reference in references)


def rouge_l(answer: str, reference: str) -> float:
    """F of precision and recall of the longest common subsequence of units (Lin 2004, aclanthology.org/W04-1013).

    `rouge_score` drops every letter that is not ASCII, so it cannot be used. Two texts without units score 0.
    """
    one, two = units(answer), units(reference)
    common = _longest_common(one, two)
    return 2 * common / (len(one) + len(two)) if common else 0.0


def _longest_common(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence, with the bits of one number (Hyyrö 2004): 100 times as fast."""
    places: dict[str, int] = {}
    for k, unit in enumerate(one):
        places[unit] = places.get(unit, 0) | 1 << k
    every = (1 << len(one)) - 1
    row = every
    for unit in two:
        found = row & places.get(unit, 0)
        row = ((row + found) | (row - found)) & every
    return len(one) - row.bit_count()
