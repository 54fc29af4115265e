"""Evaluation suites as rows to score, one a sentence and language or direction."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ialign_ray.config import (
    ClassificationSuite,
    Experiment,
    InstructionSuite,
    PerplexitySuite,
    PromptConfig,
    RetrievalSuite,
    TranslationSuite,
)
from ialign_ray.config.suites import SLOT, TEXT
from ialign_ray.corpus.identity import share_of
from ialign_ray.errors import DataError
from ialign_ray.evaluation.reading import aligned, language_rows, limited, suite_frame
from ialign_ray.languages import display_name
from ialign_ray.tasks.replay import instructions

FOLDS = 5
"""Parts of a suite without training rows; the baselines of each learn from the others."""


@dataclass(frozen=True)
class Classification:
    """Rows of a classification suite."""

    train: pd.DataFrame
    """What baselines are fitted on: suite, language, label, chars, fold, and a column for each text, `text` or
    `text:SLOT`. Where the suite has no training rows these are its test rows, and `fold` (int, else missing) tells
    which of them may be learned from."""
    test: pd.DataFrame
    """The same columns and id."""
    labels: list[str]
    """In order; `label` columns hold positions in it."""


def text_column(slot: str) -> str:
    """Name of a slot's column in the rows of a classification suite."""
    return TEXT if slot == TEXT else f"{TEXT}:{slot}"


def classification_rows(suite: ClassificationSuite, base: str) -> Classification:
    """Training and test rows, one a sentence and language.

    Raises DataError for a missing column, an unknown label, one that occurs in no row, or no test row.
    """
    labels = list(suite.labels)
    extra = list(dict.fromkeys(c for c in (suite.label, suite.split_column, suite.together) if c))
    frame = suite_frame(suite, base, extra)
    _check_labels(suite, frame[suite.label], labels)
    found = language_rows(suite, frame, extra)
    test = {code: _of_split(suite, rows, suite.test) for code, rows in found.items()}
    train = test if suite.crossed else {code: _of_split(suite, rows, suite.train) for code, rows in found.items()}
    for name, parts, value in (("train", train, suite.train), ("test", test, suite.test)):
        if all(rows.empty for rows in parts.values()):
            raise DataError(f"suite {suite.name!r} has no row with {suite.split_column} = {value!r} ({name})")
    if silent := [code for code, rows in test.items() if rows.empty]:
        raise DataError(
            f"suite {suite.name!r}: {silent[0]} has no row with {suite.split_column} = {suite.test!r}; "
            "remove the language or fill it"
        )
    chosen = {code: limited(suite, rows) for code, rows in test.items()}
    return Classification(_scored(suite, train, labels), _scored(suite, chosen, labels), labels)


def _check_labels(suite: ClassificationSuite, column: pd.Series, labels: list[str]) -> None:
    present = set(column.dropna().astype(str))
    if unknown := present - set(labels):
        raise DataError(
            f"suite {suite.name!r}: column {suite.label!r} holds {sorted(unknown)[0]!r}, which "
            f"evaluate.suites.{suite.name}.labels lacks; add it there"
        )
    if column.isna().any():
        raise DataError(f"suite {suite.name!r}: column {suite.label!r} is empty in a row; fill it or filter by `where`")
    if absent := set(labels) - present:
        raise DataError(f"suite {suite.name!r}: label {sorted(absent)[0]!r} occurs in no row; remove it from labels")


def _of_split(suite: ClassificationSuite, rows: pd.DataFrame, value: object) -> pd.DataFrame:
    return rows if suite.split_column is None else rows[rows[suite.split_column] == value]


def _scored(suite: ClassificationSuite, parts: dict[str, pd.DataFrame], labels: list[str]) -> pd.DataFrame:
    number = {label: k for k, label in enumerate(labels)}
    frames = []
    for code, rows in parts.items():
        made = pd.DataFrame({"suite": suite.name, "language": code, "id": rows["id"]})
        made["label"] = rows[suite.label].astype(str).map(number)
        made["chars"] = sum(rows[slot].str.len() for slot in suite.slots)
        made["fold"] = _folds(suite, rows)
        frames.append(made.assign(**{text_column(slot): rows[slot] for slot in suite.slots}))
    return pd.concat(frames, ignore_index=True)


def _folds(suite: ClassificationSuite, rows: pd.DataFrame) -> pd.Series:
    if not suite.crossed:
        return pd.Series(pd.NA, rows.index, "Int64")
    kept = rows[suite.together].astype(str) if suite.together else rows["id"]
    return kept.map(lambda value: int(share_of(value, seed=5) * FOLDS)).astype("Int64")


def translation_rows(suite: TranslationSuite, experiment: Experiment, prompt: PromptConfig) -> pd.DataFrame:
    """One row a direction and sentence: prompt, mismatched prompt (the next sentence's source), source and target."""
    found = language_rows(suite, suite_frame(suite, experiment.storage.data), repeated=True)
    made = []
    for source, target in suite.pairs:
        pairs = limited(suite, aligned(suite, found, source, target))
        names = {f"{side}_language": _called(code, prompt, experiment) for side, code in zip(_SIDES, (source, target))}
        asked = [fill(prompt.text, names | {"source": text}) for text in pairs["first"]]
        made.append(
            pd.DataFrame(
                {
                    "suite": suite.name,
                    "language": f"{source}-{target}",
                    "id": pairs["id"],
                    "prompt": asked,
                    "mismatched": [*asked[1:], asked[0]],
                    "source": pairs["first"],
                    "target": pairs["second"],
                }
            )
        )
    return pd.concat(made, ignore_index=True)


_SIDES = ("source", "target")


def _called(code: str, prompt: PromptConfig, experiment: Experiment) -> str:
    return display_name(code, prompt.language, experiment.languages.names)


def perplexity_rows(suite: PerplexitySuite, base: str) -> pd.DataFrame:
    """One row a language and sentence: its text as target."""
    return _texts(suite, base).rename(columns={"text": "target"})


def retrieval_rows(suite: RetrievalSuite, base: str) -> pd.DataFrame:
    """One row a language and sentence whose vector is needed: its text.

    Raises `DataError` where two languages of a direction share fewer than two sentences.
    """
    rows = _texts(suite, base)
    ids = {str(code): set(part["id"]) for code, part in rows.groupby("language")}
    for first, second in suite.pairs:
        if (n := len(ids[first] & ids[second])) < 2:
            raise DataError(
                f"suite {suite.name!r}: {first} and {second} share {n} sentences by id; retrieval needs two, the same "
                "id in both (of a long file, name `long.join`)"
            )
    return rows[rows["language"].isin({code for pair in suite.pairs for code in pair})].reset_index(drop=True)


def _texts(suite: PerplexitySuite | RetrievalSuite, base: str) -> pd.DataFrame:
    found = language_rows(suite, suite_frame(suite, base))
    frames = [
        limited(suite, rows)[["id", "text"]].assign(suite=suite.name, language=code) for code, rows in found.items()
    ]
    return pd.concat(frames, ignore_index=True)[["suite", "language", "id", "text"]]


def instruction_rows(suite: InstructionSuite, base: str) -> pd.DataFrame:
    """One row an instruction: prompt and target."""
    rows = [
        {
            "suite": suite.name,
            "language": suite.name,
            "id": row_id,
            "source": source,
            "prompt": inputs,
            "target": targets,
        }
        for row_id, source, inputs, targets in instructions(suite, base)
        if inputs.strip() and targets.strip()
    ]
    if not rows:
        raise DataError(f"suite {suite.name!r} ({suite.origin}) holds no instruction with inputs and targets")
    return pd.DataFrame(rows)


def fill(template: str, slots: dict[str, str]) -> str:
    """Fill slots in one pass, so that a text that contains a slot's name stays as it is."""
    return SLOT.sub(lambda m: slots.get(m[1], m[0]), template)
