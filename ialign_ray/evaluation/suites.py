"""Evaluation suites as rows to score: classification, held-out translation, held-out instructions."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment, InstructionSuite, TranslationSuite
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError
from ialign_ray.languages import display_name
from ialign_ray.tasks.replay import instructions

_SLOT = re.compile(r"\{(text|source|source_language|target_language)\}")


@dataclass(frozen=True)
class Classification:
    """Rows of a classification suite."""

    train: pd.DataFrame
    """suite, language, label, chars: what baselines are fitted on."""
    test: pd.DataFrame
    """suite, language, id, label, chars, text."""
    labels: list[str]
    """In order; `label` columns hold positions in it."""


def classification_rows(suite: ClassificationSuite, base: str) -> Classification:
    """Training and test rows, one a sentence and language.

    Raises DataError for a missing column, an unknown label, or no test row.
    """
    extra = [c for c in (suite.id, suite.label, suite.split_column) if c]
    frame = read_table(suite, base, [*suite.columns.values(), *extra]).to_pandas()
    labels = list(suite.labels)
    if unknown := set(frame[suite.label].astype(str)) - set(labels):
        raise DataError(
            f"suite {suite.name!r}: column {suite.label!r} holds {sorted(unknown)[0]!r}, which "
            f"evaluate.suites.{suite.name}.labels lacks; add it there"
        )
    absent = set(labels) - set(frame[suite.label].astype(str))
    if absent:
        raise DataError(f"suite {suite.name!r}: label {sorted(absent)[0]!r} occurs in no row; remove it from labels")
    frame["_id"] = frame[suite.id].astype(str) if suite.id else frame.index.astype(str)
    parts = {}
    for part, value in (("train", suite.train), ("test", suite.test)):
        rows = frame[frame[suite.split_column] == value]
        if part == "test" and suite.test_limit and len(rows) > suite.test_limit:
            # the same sentences for every run and every language
            chosen = sorted(rows["_id"], key=lambda i: (share_of(i, seed=2), i))[: suite.test_limit]
            rows = rows[rows["_id"].isin(chosen)]
        if rows.empty:
            raise DataError(f"suite {suite.name!r} has no row with {suite.split_column} = {value!r} ({part})")
        parts[part] = pd.concat([_language_rows(suite, rows, c, k, labels) for c, k in suite.columns.items()])
    return Classification(parts["train"], parts["test"].reset_index(drop=True), labels)


def _language_rows(
    suite: ClassificationSuite, rows: pd.DataFrame, code: str, column: str, labels: list[str]
) -> pd.DataFrame:
    texts = rows[column].fillna("").astype(str)
    made = pd.DataFrame(
        {
            "suite": suite.name,
            "language": code,
            "id": rows["_id"],
            "label": [labels.index(str(v)) for v in rows[suite.label]],
            "chars": texts.str.len(),
            "text": texts,
        }
    )
    made = made[made["chars"] > 0]
    if made.empty:
        raise DataError(f"suite {suite.name!r}: column {column!r} ({code}) is empty; remove the language or fill it")
    return made


def translation_rows(suite: TranslationSuite, experiment: Experiment) -> pd.DataFrame:
    """One row a direction and sentence: prompt, mismatched prompt (the next sentence's source) and target."""
    needed = [*suite.columns.values(), *([suite.id] if suite.id else [])]
    frame = read_table(suite, experiment.storage.data, needed).to_pandas()
    frame["_id"] = frame[suite.id].astype(str) if suite.id else frame.index.astype(str)
    names = experiment.languages.names
    made = []
    for source, target in suite.directions:
        for code in (source, target):
            if code not in suite.columns:
                raise DataError(f"suite {suite.name!r}: direction {source}-{target} needs a column for {code!r}")
        rows = frame.dropna(subset=[suite.columns[source], suite.columns[target]])
        sources, targets = (rows[suite.columns[c]].astype(str).tolist() for c in (source, target))
        if len(rows) < 2:
            raise DataError(f"suite {suite.name!r}: direction {source}-{target} has {len(rows)} rows; it needs two")
        spoken = {
            "source_language": display_name(source, "eng", names),
            "target_language": display_name(target, "eng", names),
        }
        for k, identity in enumerate(rows["_id"]):
            made.append(
                {
                    "suite": suite.name,
                    "language": f"{source}-{target}",
                    "id": identity,
                    "prompt": fill(suite.prompt, spoken | {"source": sources[k]}),
                    "mismatched": fill(suite.prompt, spoken | {"source": sources[(k + 1) % len(sources)]}),
                    "target": targets[k],
                }
            )
    return pd.DataFrame(made)


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
    return _SLOT.sub(lambda m: slots.get(m[1], m[0]), template)
