"""Write the pocket experiment's corpora: parallel text, sentiment sets and old instructions, with no overlap."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.errors import DataError
from ialign_ray.pocket import instructions
from ialign_ray.pocket.grammar import POLARITIES, Sentence, draw_shape, fill, phrases
from ialign_ray.pocket.instructions import LABELS, SENTIMENT_PROMPTS
from ialign_ray.pocket.lexicon import LANGUAGES, REAL

__all__ = ["FILES", "LABELS", "LANGUAGES", "SENTIMENT_PROMPTS", "write_pocket"]

FILES = ("parallel.parquet", "sentiment.parquet", "instructions.jsonl")
"""Names of the files that `write_pocket` writes."""

RAW = "raw"
"""Split of the instructions' file with text that the base model reads and no run replays."""

_PARALLEL = {"train": 1200, "test": 300}
_SENTIMENT = {"train": 400, "test": 300}
# How many rows of each family the base is tuned on, and how many are held out.
_TRAINED = {
    "sentiment": 3500,
    "translation": 8000,
    "same-meaning": 200,
    "write": 100,
    "word": 2500,
    "word-sentiment": 1500,
}
_READ = 700
"""Sentences of raw text in each language that the base model reads."""
_HELDOUT = {
    "sentiment": 120,
    "translation": 100,
    "same-meaning": 60,
    "write": 60,
    "word-count": 60,
}


def write_pocket(folder: Path, seed: int = 0) -> None:
    """Write FILES into a folder that appears whole or not at all; the same seed gives the same bytes.

    Every sentence is in one set only, in whatever language. Raises DataError when the folder exists
    and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} exists and is not empty; name a new folder for the pocket corpora")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        sentences = Sentences(seed)
        _write_sentiment(scratch / FILES[1], sentences)
        _write_parallel(scratch / FILES[0], sentences)
        _write_instructions(scratch / FILES[2], sentences, seed)
        scratch.chmod(0o755)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


class Sentences:
    """An endless stream of new sentences; the three labels take turns over the same shapes."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"sentences {seed}")
        self._seen: set[str] = set()

    def take(self, count: int) -> list[Sentence]:
        """The next `count` sentences, shuffled: no label is more than one ahead of another."""
        triples = self._triples()
        taken = [sentence for _ in range(-(-count // 3)) for sentence in next(triples)][:count]
        # else the three sentences of a shape would be neighbours in the files
        self._random.shuffle(taken)
        return taken

    def contrast(self, sentence: Sentence) -> Sentence:
        """A new sentence that differs in its predicates alone, or any new one if all of those are used."""
        for _ in range(20):
            other = fill(sentence.shape, self._random.choice(POLARITIES), self._random)
            if self._seen.isdisjoint(other.key):
                self._seen.update(other.key)
                return other
        return self.take(1)[0]

    def _triples(self) -> Iterator[list[Sentence]]:
        # The same shape three times: a subject, a link, a negation or a length cannot reveal the label.
        while True:
            shape = draw_shape(self._random)
            # of four tries the one whose lengths differ least: length alone then predicts a label with AUC below .56
            triples = [[fill(shape, label, self._random) for label in POLARITIES] for _ in range(4)]
            triple = min(triples, key=_spread)
            # a triple is taken whole or not at all, which keeps the labels in balance
            if all(self._seen.isdisjoint(s.key) for s in triple):
                self._seen.update(*(s.key for s in triple))
                yield triple


def _spread(triple: list[Sentence]) -> int:
    """Characters that a triple's longest sentences have more than its shortest, over the real languages."""
    lengths = [[len(s.texts[code]) for s in triple] for code in REAL]
    return sum(max(counts) - min(counts) for counts in lengths)


def _write_parallel(path: Path, sentences: Sentences) -> None:
    rows = [(split, s.texts) for split, count in _PARALLEL.items() for s in sentences.take(count)]
    rows += [("train", texts) for texts in phrases()]
    table = {
        "id": [f"p{i:05d}" for i in range(len(rows))],
        **{code: [texts[code] for _, texts in rows] for code in LANGUAGES},
        "split": [split for split, _ in rows],
    }
    pq.write_table(pa.table(table), path, compression="zstd")


def _write_sentiment(path: Path, sentences: Sentences) -> None:
    rows = [(split, s) for split, count in _SENTIMENT.items() for s in sentences.take(count)]
    table = {
        "id": [f"s{i:05d}" for i in range(len(rows))],
        "split": [split for split, _ in rows],
        "label": [s.label for _, s in rows],
        **{code: [s.texts[code] for _, s in rows] for code in LANGUAGES},
    }
    pq.write_table(pa.table(table), path, compression="zstd")


def _write_instructions(path: Path, sentences: Sentences, seed: int) -> None:
    random = Random(f"instructions {seed}")
    lines: list[dict[str, str]] = []
    parts = {"train": _TRAINED, "heldout": _HELDOUT, RAW: dict.fromkeys(instructions.READ, _READ)}
    for split, families in parts.items():
        rows = [
            (family, row) for family, count in families.items() for row in _family(family, count, sentences, random)
        ]
        random.shuffle(rows)
        for family, (inputs, targets, language) in rows:
            line = {"id": f"i{len(lines):05d}", "inputs": inputs, "targets": targets}
            lines.append({**line, "source": family, "language": language, "split": split})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def _family(family: str, count: int, sentences: Sentences, random: Random) -> Iterator[instructions.Row]:
    if family in instructions.ONE_WORD:
        for _ in range(count):
            yield instructions.ONE_WORD[family](random, random.choice(instructions.concepts()))
        return
    for sentence in sentences.take(count):
        if family in instructions.READ:
            yield instructions.raw_text(random, sentence, family)
        elif family == "same-meaning":
            yield instructions.same_meaning(random, sentence, sentences.contrast(sentence))
        else:
            yield instructions.ONE_SENTENCE[family](random, sentence)
