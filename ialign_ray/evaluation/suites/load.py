"""Evaluation suites as rows to score, one per sentence and language or direction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from ialign_ray.config import (
    ChoiceSuite,
    ClassificationSuite,
    Experiment,
    GenerationSuite,
    InstructionSuite,
    LmEvalSuite,
    PerplexitySuite,
    PromptConfig,
    RetrievalSuite,
    SuiteSource,
    TranslationSuite,
)
from ialign_ray.config.suite_source import TEXT, columns_of
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import DataError
from ialign_ray.evaluation.suites.wrong_source import wrong_sources
from ialign_ray.languages import display_name
from ialign_ray.tasks.instructions import instructions
from ialign_ray.tasks.templating import fill

FOLDS = 5
"""Number of folds of a suite without training rows; the baselines of each learn from the others."""


@dataclass(frozen=True)
class ClassificationRows:
    """Rows of a classification suite."""

    train: pd.DataFrame
    """Rows that baselines are fitted on: suite, language, label, chars, fold, and a column for each text, `text` or
    `text:SLOT`. If the suite has no training rows, these are its test rows, and `fold` (int, otherwise missing)
    determines which of them may be learned from."""
    test: pd.DataFrame
    """The same columns, and id."""
    labels: list[str]
    """Labels in order; `label` columns contain positions in it."""


TURNS = "turns"
"""Column of instructions with the turns before the target as JSON; empty for a single request."""
CLUSTER = "cluster"
"""Column of suites' rows with the cluster that is resampled together, if sentences are not independent."""


def clusters_named(suite: SuiteSource | InstructionSuite | LmEvalSuite) -> list[str]:
    """Columns named by `cluster` of a suite."""
    return [suite.cluster] if isinstance(suite.cluster, str) else list(suite.cluster or ())


def text_column(slot: str) -> str:
    """Name of a slot's column in the rows of a classification suite."""
    return TEXT if slot == TEXT else f"{TEXT}:{slot}"


def classification_rows(suite: ClassificationSuite, base: str) -> ClassificationRows:
    """Training and test rows, one per sentence and language.

    Raises DataError for a missing column, an unknown label, one that occurs in no row, or no test row.
    """
    labels = list(suite.labels)
    extra = list(dict.fromkeys(c for c in (suite.label, suite.split_column, suite.together) if c))
    frame = suite_frame(suite, base, extra)
    _check_labels(suite, frame[suite.label], labels)
    found = language_rows(suite, frame, extra)
    test = {code: of_split(suite, rows, suite.test) for code, rows in found.items()}
    train = test if suite.crossed else {code: of_split(suite, rows, suite.train) for code, rows in found.items()}
    for name, parts, value in (("train", train, suite.train), ("test", test, suite.test)):
        if all(rows.empty for rows in parts.values()):
            raise DataError(f"suite {suite.name!r} has no row with {suite.split_column} = {value!r} ({name})")
    if silent := [code for code, rows in test.items() if rows.empty]:
        raise DataError(
            f"suite {suite.name!r}: {silent[0]} has no row with {suite.split_column} = {suite.test!r}; "
            "remove the language or fill it"
        )
    chosen = {code: limited(suite, rows) for code, rows in test.items()}
    return ClassificationRows(_scored(suite, train, labels), _scored(suite, chosen, labels), labels)


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


def of_split(
    suite: ClassificationSuite | ChoiceSuite | GenerationSuite, rows: pd.DataFrame, value: object
) -> pd.DataFrame:
    """Return the rows with a value in the suite's `split_column`; all without such a column."""
    return rows if suite.split_column is None else rows[rows[suite.split_column] == value]


def _scored(suite: ClassificationSuite, parts: dict[str, pd.DataFrame], labels: list[str]) -> pd.DataFrame:
    number = {label: k for k, label in enumerate(labels)}
    frames = []
    for code, rows in parts.items():
        made = pd.DataFrame({"suite": suite.name, "language": code, "id": rows["id"]})
        made["label"] = rows[suite.label].astype(str).map(number)
        made["chars"] = sum(rows[slot].str.len() for slot in suite.slots)
        made["fold"] = _folds(suite, rows)
        made = made.assign(**rows[_clustered(rows)])
        frames.append(made.assign(**{text_column(slot): rows[slot] for slot in suite.slots}))
    return pd.concat(frames, ignore_index=True)


def _folds(suite: ClassificationSuite, rows: pd.DataFrame) -> pd.Series:
    if not suite.crossed:
        return pd.Series(pd.NA, rows.index, "Int64")
    kept = rows[suite.together].astype(str) if suite.together else rows["id"]
    return kept.map(lambda value: int(share_of(value, seed=5) * FOLDS)).astype("Int64")


def translation_rows(suite: TranslationSuite, experiment: Experiment, prompt: PromptConfig) -> pd.DataFrame:
    """One row per direction and sentence: prompt, mismatched prompt (of a wrong source), source and target."""
    found = language_rows(suite, suite_frame(suite, experiment.storage.data), repeated=True)
    made = []
    for source, target in suite.pairs:
        pairs = limited(suite, aligned(suite, found, source, target))
        names = {f"{side}_language": _called(code, prompt, experiment) for side, code in zip(_SIDES, (source, target))}
        asked = [fill(prompt.text, {"source": text}, names)[0] for text in pairs["first"]]
        named = pairs[CLUSTER] if CLUSTER in pairs.columns else pd.Series(None, pairs.index, object)
        wrong = wrong_sources(pairs["first"].tolist(), [None if pd.isna(name) else str(name) for name in named])
        rows = pd.DataFrame(
            {
                "suite": suite.name,
                "language": f"{source}-{target}",
                "id": pairs["id"],
                "prompt": asked,
                "mismatched": [asked[place] for place in wrong],
                "source": pairs["first"],
                "target": pairs["second"],
            }
        )
        made.append(rows.assign(**pairs[_clustered(pairs)]))
    return pd.concat(made, ignore_index=True)


_SIDES = ("source", "target")


def _called(code: str, prompt: PromptConfig, experiment: Experiment) -> str:
    return display_name(code, prompt.language, experiment.languages.names)


def perplexity_rows(suite: PerplexitySuite, base: str) -> pd.DataFrame:
    """One row per language and sentence: its text as target."""
    return _texts(suite, base).rename(columns={"text": "target"})


def retrieval_rows(suite: RetrievalSuite, base: str) -> pd.DataFrame:
    """One row per language and sentence whose vector is needed: its text.

    Raises `DataError` if two languages of a direction share fewer than two sentences.
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
    chosen = {code: limited(suite, rows) for code, rows in found.items()}
    frames = [
        rows[["id", "text", *_clustered(rows)]].assign(suite=suite.name, language=code) for code, rows in chosen.items()
    ]
    texts = pd.concat(frames, ignore_index=True)
    return texts[["suite", "language", "id", "text", *_clustered(texts)]]


def _clustered(rows: pd.DataFrame) -> list[str]:
    return [CLUSTER] if CLUSTER in rows.columns else []


def instruction_rows(suite: InstructionSuite, base: str) -> pd.DataFrame:
    """One row per instruction: prompt and target, and the `turns` before the target if there are conversations."""
    found = instructions(suite, base)
    rows = [
        {
            "suite": suite.name,
            "language": suite.name,
            "id": row.row_id,
            "source": row.source,
            "prompt": row.inputs,
            "target": row.targets,
        }
        for row in found
    ]
    made = pd.DataFrame(rows, columns=["suite", "language", "id", "source", "prompt", "target"])
    if any(row.turns for row in found):
        made[TURNS] = [json.dumps(row.turns[:-1], ensure_ascii=False) if row.turns else "" for row in found]
    if suite.cluster is not None and CLUSTER_OF in (read := _read(suite, base, ())).columns:
        if len(read) != len(made):
            raise DataError(
                f"suite {suite.name!r} ({suite.origin}) has a message per row, so that a conversation is of several "
                "rows; set cluster: null"
            )
        made[CLUSTER] = read[CLUSTER_OF].to_numpy(object)
    made = made[(made["prompt"].str.strip() != "") & (made["target"].str.strip() != "")].reset_index(drop=True)
    if made.empty:
        raise DataError(f"suite {suite.name!r} ({suite.origin}) contains no instruction with inputs and targets")
    _check_clusters(suite, made)
    return made


ROW = "_row"
"""Column with the row's number in the file."""
CLUSTER_OF = "_cluster"
"""Column with the cluster of a file's row."""


def suite_frame(suite: SuiteSource, base: str, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The suite's file, with the number of each row. Raises DataError for a missing column or file, or no row."""
    layout = [suite.id, *((suite.long.language, *suite.long.joins) if suite.long else ())]
    needed = dict.fromkeys([*_columns(suite), *(c for c in layout if c), *extra])
    frame = _read(suite, base, list(needed))
    frame[ROW] = range(len(frame))
    return frame


def _read(suite: SuiteSource | InstructionSuite, base: str, needed: Sequence[str]) -> pd.DataFrame:
    """The suite's file, with the cluster of each row if the suite names one."""
    clusters = clusters_named(suite)
    asked = [] if suite.cluster_optional else clusters
    frame: pd.DataFrame = read_table(suite, base, list(dict.fromkeys([*needed, *asked]))).to_pandas()
    if clusters and set(clusters) <= set(frame.columns):
        parts = frame[clusters].astype("string")
        # a row without one of its values is a separate unit
        frame[CLUSTER_OF] = parts[clusters[0]].str.cat(parts[clusters[1:]], sep=" | ")
    return frame


def language_rows(
    suite: SuiteSource, frame: pd.DataFrame, extra: Sequence[str] = (), *, repeated: bool = False
) -> dict[str, pd.DataFrame]:
    """Measured language -> its rows: id (str), a column for each slot (str), the `extra` columns and `ROW`.

    Rows without one of their texts are skipped. An id is the sentence's if it is the same in all languages; otherwise
    it begins with the language. A wide column of a long file is repeated in a row for each language: the first is kept,
    or all if `repeated`. Raises `DataError` for a language without a text, or a duplicate id.
    """
    found = {code: _rows(suite, frame, code, extra) for code in suite.spoken}
    for code in [c for c in found if suite.long and c in suite.columns and not repeated]:
        found[code] = found[code].drop_duplicates("id")
    for code, rows in found.items():
        twice = rows["id"][rows["id"].duplicated()]
        if not (twice.empty or (suite.long and code in suite.columns)):
            raise DataError(
                f"suite {suite.name!r}: duplicate id {twice.iloc[0]!r} in {code}; name another column as `id`, "
                "or leave it out"
            )
    return found


def limited(suite: SuiteSource, rows: pd.DataFrame) -> pd.DataFrame:
    """A seeded sample of `test_limit` sentences of the suite, in their order; the same for every run.

    Raises `DataError` if all of them are in one cluster.
    """
    if suite.test_limit is not None and rows["id"].nunique() > suite.test_limit:
        # by a hash of the id, so that all languages keep the same sentences
        chosen = sorted(set(rows["id"]), key=lambda i: (share_of(i, seed=2), i))[: suite.test_limit]
        rows = rows[rows["id"].isin(chosen)].reset_index(drop=True)
    _check_clusters(suite, rows)
    return rows


def _check_clusters(suite: SuiteSource | InstructionSuite, rows: pd.DataFrame) -> None:
    if len(rows) < 2 or CLUSTER not in rows.columns or rows[CLUSTER].isna().any() or rows[CLUSTER].nunique() > 1:
        return
    raise DataError(
        f"suite {suite.name!r}: its {len(rows)} sentences have one value of cluster "
        f"({', '.join(clusters_named(suite))}: {rows[CLUSTER].iloc[0]!r}), and one unit has no interval; add sentences "
        "of others, or set cluster: null"
    )


def aligned(suite: SuiteSource, found: dict[str, pd.DataFrame], first: str, second: str) -> pd.DataFrame:
    """Sentences of two languages: id, `first` and `second` (texts), in the order of the file.

    Texts of one row belong together; those of two rows of a long file by `long.join`. Raises `DataError` if nothing
    joins them, or fewer than two sentences are in both.
    """
    one, two = found[first], found[second]
    apart = first not in suite.columns and second not in suite.columns
    if apart and (suite.long is None or suite.long.join is None):
        raise DataError(f"suite {suite.name!r}: nothing joins the rows of {first} and {second}; name `long.join`")
    key = "id" if apart else ROW
    long = one if first not in suite.columns else two  # its ids are unique; the other's may repeat
    texts = (side.set_index(key)["text"] for side in (one, two))
    joined = pd.concat(texts, axis=1, keys=["first", "second"], join="inner")
    joined["id"] = joined.index if apart else long.set_index(key)["id"].reindex(joined.index)
    if CLUSTER in long.columns:
        joined[CLUSTER] = long.set_index(key)[CLUSTER].reindex(joined.index)
    if len(joined) < 2:
        raise DataError(f"suite {suite.name!r}: {first} and {second} share {len(joined)} sentences; it needs two")
    return joined.reset_index(drop=True)


def _columns(suite: SuiteSource) -> list[str]:
    """Columns of the texts of measured languages."""
    wide = [suite.columns[code] for code in suite.spoken if code in suite.columns]
    long = [suite.long.text] if suite.long and any(code in suite.long.values for code in suite.spoken) else []
    return [column for texts in [*wide, *long] for column in columns_of(texts).values()]


def _rows(suite: SuiteSource, frame: pd.DataFrame, code: str, extra: Sequence[str]) -> pd.DataFrame:
    long = suite.long
    if code in suite.columns:
        texts, rows = columns_of(suite.columns[code]), frame
        ids = _ids(suite, rows) if long is None or long.join is None else _joined(rows, long.joins)
    else:
        assert long is not None  # a measured language has a column in one of the two
        values = frame[long.language].astype(str)
        texts, rows = columns_of(long.text), frame[values == long.values[code]]
        if rows.empty:
            known = ", ".join(sorted(set(values))[:40])
            raise DataError(
                f"suite {suite.name!r}: no row is in {code}, for which `long.values` has {long.values[code]!r}; remove "
                f"the language, or use one of {known}"
            )
        ids = f"{code}:" + _ids(suite, rows) if long.join is None else _joined(rows, long.joins)
    made = pd.DataFrame({"id": ids, ROW: rows[ROW]})
    if CLUSTER_OF in rows.columns:
        made[CLUSTER] = rows[CLUSTER_OF]
    for slot, column in texts.items():
        made[slot] = rows[column].fillna("").astype(str)
    made = made.assign(**{column: rows[column] for column in extra})
    filled = (made[list(texts)].apply(lambda c: c.str.strip()) != "").all(axis=1)
    if not filled.any():
        where = ", ".join(repr(c) for c in texts.values())
        raise DataError(f"suite {suite.name!r}: column {where} ({code}) is empty; remove the language or fill it")
    kept: pd.DataFrame = made[filled]
    return kept


def _joined(rows: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    parts = rows[list(columns)].astype(str)
    return parts[columns[0]].str.cat(parts[columns[1:]], sep=" | ")


def _ids(suite: SuiteSource, rows: pd.DataFrame) -> pd.Series:
    return rows[suite.id or ROW].astype(str)
