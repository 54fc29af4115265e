"""Metrics of generated translations: chrF++ and BLEU by sacrebleu, copies, and output in another language.

A corpus score is not a mean of sentence scores, so a resample sums sacrebleu's own statistics of the sentences drawn
and gives them to sacrebleu: column 0 of the draws is `corpus_score` of the sample, and sacrebleu's bootstrap does the
same. Every score is reported alongside that of the *source* taken as translation: between related languages copying
scores high (FLORES devtest, Indonesian to Banjar: chrF++ 36.6, to Javanese 31.8, English to Javanese 17.8).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.utils import SACREBLEU_DIR

from ialign_ray.config.cleaning import LanguageStep
from ialign_ray.corpus.cleaning import identify
from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.bootstrap import Floats, Ints
from ialign_ray.evaluation.metrics.cell import Cell
from ialign_ray.languages import normalise

_SPM: Final = Path(SACREBLEU_DIR, "models", "flores200sacrebleuspm")  # where sacrebleu keeps what it downloads
_WITHOUT_SPACES: Final = frozenset({"jpn", "tha", "lao", "khm", "mya", "bod"})
_JUDGED: Final = LanguageStep()
_FEWEST: Final = 20


def tokenizer_of(language: str) -> str:
    """sacrebleu's tokenizer for BLEU of a target: `13a`, `zh` for Chinese, `char` if nothing separates words."""
    iso = normalise(language)
    if iso in ("zho", "cmn", "yue"):
        return "zh"
    return "char" if iso in _WITHOUT_SPACES else "13a"


def scorers(language: str) -> dict[str, Any]:
    """Metric name -> sacrebleu metric for a target language; `spbleu` only if its tokenizer is on this machine."""
    made: dict[str, Any] = {"chrf": CHRF(word_order=2), "bleu": BLEU(tokenize=tokenizer_of(language), force=True)}
    return made | ({"spbleu": BLEU(tokenize="flores200", force=True)} if _SPM.exists() else {})


def signatures(language: str) -> dict[str, str]:
    """sacrebleu's signature of each metric of a target language, to be printed with the scores."""
    found = {}
    for name, scorer in scorers(language).items():
        scorer.corpus_score(["a"], [["a"]])  # the number of references is part of a signature
        found[name] = str(scorer.get_signature())
    return found


def notes(language: str, references: Sequence[str]) -> list[str]:
    """Notes on what could not be measured for this target, one sentence each."""
    said = []
    if not _SPM.exists():
        said.append(f"spBLEU is left out: sacrebleu downloads its tokenizer, and it is not at {_SPM}.")
    if not identifiable(language, references):
        said.append(f"Off-target rate into {language}: not identifiable, as lid.176 recognises too few references.")
    return said


def described(frame: pd.DataFrame) -> list[str]:
    """Signatures of the scores of a suite's predictions and notes on what could not be measured, each once."""
    made: dict[str, list[str]] = {}
    missing: dict[str, None] = {}
    for target, rows in frame.groupby(frame["language"].str.rpartition("-")[2], sort=True):
        for name, signature in signatures(str(target)).items():
            made.setdefault(f"{name} {signature}", []).append(str(target))
        missing |= dict.fromkeys(notes(str(target), rows["reference"].drop_duplicates().tolist()))
    return [f"{signature} (into {', '.join(targets)})." for signature, targets in made.items()] + list(missing)


def generation_draws(cell: Cell) -> dict[str, Floats]:
    """Metrics of one direction of generated translations, as draw vectors (draws,).

    The rows have the texts `source`, `reference` and `hypothesis`, and `cut`: True if the output was ended by its
    length. Texts are compared in NFC: a reader cannot see how a letter is encoded, and sacrebleu can.

    - chrf (chrF++), bleu, spbleu: 0 to 100; `*_copy` of the source as hypothesis, `chrf_over_copy` their difference
    - copied, empty, cut: shares of outputs that equal the source (ignoring case and spacing), are empty, or are too
    long
    - off_target: share of outputs, of those with 20 characters or more, that lid.176 takes for another language
      (another member of its macro-language counts as the target: good Indonesian is taken for Malay);
      off_target_reference is the same share of the references, which is the error of the identifier. Both are absent if
      the target is not `identifiable`.

    Raises `DataError` for a missing hypothesis.
    """
    sources, references, hypotheses = (cell.rows[name].tolist() for name in ("source", "reference", "hypothesis"))
    language = str(cell.rows["language"].iloc[0]).rpartition("-")[2]
    missing = [i for i, h in enumerate(hypotheses) if not isinstance(h, str)]
    if missing:
        raise DataError(f"translations: row {missing[0]} has no hypothesis; generate it (nothing is an empty text)")
    sources, references, hypotheses = (
        [unicodedata.normalize("NFC", text) for text in texts] for texts in (sources, references, hypotheses)
    )
    drawn: dict[str, Floats] = {}
    for name, scorer in scorers(language).items():
        drawn[name] = corpus_draws(scorer, cell.weights, cell.unit, hypotheses, [references])
        drawn[f"{name}_copy"] = corpus_draws(scorer, cell.weights, cell.unit, sources, [references])
    drawn["chrf_over_copy"] = drawn["chrf"] - drawn["chrf_copy"]
    drawn["copied"] = cell.mean([_plain(h) == _plain(s) for h, s in zip(hypotheses, sources)])
    drawn["empty"] = cell.mean([not h.strip() for h in hypotheses])
    drawn["cut"] = cell.mean(cell.rows["cut"])
    if identifiable(language, references):
        drawn["off_target"] = cell.mean(elsewhere(hypotheses, language))
        drawn["off_target_reference"] = cell.mean(elsewhere(references, language))
    return drawn


def corpus_draws(
    scorer: Any, weights: Floats, unit: Ints, hypotheses: Sequence[str], references: Sequence[Sequence[str | None]]
) -> Floats:
    """A sacrebleu metric of every resample (draws,), from sums of its sentence statistics.

    `references` are as sacrebleu takes them: first references of all rows, second ones, None if a row has no further.
    """
    # sacrebleu has no public name for these two steps of `corpus_score`; a test compares the sum with `corpus_score`
    found = np.array(
        scorer._extract_corpus_statistics(list(hypotheses), [list(r) for r in references]), dtype=np.float64
    )
    by_unit = np.zeros((len(weights), found.shape[1]))
    np.add.at(by_unit, unit, found)
    # sacrebleu's statistics are whole numbers
    sums = np.rint(weights.T @ by_unit).astype(np.int64).tolist()
    return np.array([scorer._compute_score_from_stats(row).score for row in sums])


def identifiable(language: str, references: Sequence[str]) -> bool:
    """Return True if language identification knows the language: it has a label, and recognises its references.

    As in cleaning, 70 % of at least 20 texts (of 20 characters or more). Related languages do not count here:
    Minangkabau is taken for Malay, and output in Malay would pass for Minangkabau.
    """
    own = _labels(language, kin=False)
    if not any(own):  # most languages of Indonesia return here, before anything is identified
        return False
    right = [own[number] for number in _taken(references).values()]
    return len(right) >= _FEWEST and sum(right) >= _JUDGED.recognised * len(right)


def elsewhere(texts: Sequence[str], language: str) -> Floats:
    """1 if a text is taken for another language, 0 if for this one, NaN if it is too short to judge."""
    wrong = np.full(len(texts), np.nan)
    own = _labels(language, kin=True)
    for row, number in _taken(texts).items():
        wrong[row] = not own[number]
    return wrong


def _taken(texts: Sequence[str]) -> dict[int, int]:
    """Row -> number of the language that it is taken for, of the rows long enough to be judged."""
    long = [i for i, text in enumerate(texts) if len(text.strip()) >= _JUDGED.minimum_characters]
    taken, _ = identify.predict(pa.array([texts[i] for i in long], pa.string()))
    return dict(zip(long, taken.tolist()))


@lru_cache(maxsize=256)
def _labels(language: str, kin: bool) -> tuple[bool, ...]:
    """Mask of the labels (by number; 0 means unlabelled) of the language or of members of its macro-language."""
    return (
        False,
        *(identify.alike(language, x) or (kin and identify.related(language, x)) for x in identify.labels()),
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
