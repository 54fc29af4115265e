"""The card of retrievers: how well each finds translations and texts of the same label in the user's own data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment
from ialign_ray.corpus.assemble import HELD_OUT
from ialign_ray.corpus.identity import share_of
from ialign_ray.errors import DataError
from ialign_ray.evaluation.scoring.context_blocks import CorpusPairs
from ialign_ray.evaluation.suites.load import classification_rows, text_column
from ialign_ray.incontext.encoders import MODEL, SAMPLES, Embed, VectorSpace
from ialign_ray.incontext.pool import Pool, Search
from ialign_ray.incontext.retrievers import Query, nearest_first
from ialign_ray.terminal import BlockTable

CARD: Final = "retrievers.csv"
"""File of the card in a report's folder."""
COLUMNS: Final = (
    "retriever", "measure", "of", "language", "k", "value", "chance", "p50_ms", "p99_ms", "queries", "pool",
)  # fmt: skip
"""Columns: `measure` is `recall` (share of sentences whose translation into `of` is among the k nearest of the pool) or
`purity` (share of the k nearest that have the question's label in suite `of`), `chance` that of a random choice."""
_QUERIES, _POOL, _FEWEST = 200, 2000, 50


def retriever_card(experiment: Experiment, model: Callable[[str], Embed] | None = None) -> pd.DataFrame:
    """Measure every retriever of `evaluate.contexts`; `COLUMNS`, sorted by measure, language and value.

    Recall is over held-out pairs of the corpora, or training pairs where fewer than 50 are held out, drawn by their
    ids. No retriever is fitted on either (`model:` is measured with the base). Purity is over the training rows of each
    classification suite, each searched among the others. `model` embeds by a layer of the base; without it, `model:` is
    left out.
    """
    contexts = experiment.evaluate.contexts
    sides = [side for context in contexts for side in (context.exemplars, context.pairs) if side]
    rows = []
    for names in dict.fromkeys(tuple(side.retriever) for side in sides):
        if model is None and any(name.startswith(MODEL) for name in names):
            continue
        k = max((_most(side.k) for side in sides if tuple(side.retriever) == names), default=1)
        rows += [*_recall(experiment, names, k, model), *_purity(experiment, names, k, model)]
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    order = ["measure", "of", "language", "value"]
    return found.sort_values(order, ascending=[True, True, True, False], kind="stable").reset_index(drop=True)


def printed_card(card: pd.DataFrame) -> BlockTable:
    """The card for a terminal."""
    header = ("retriever", "measure", "language", "value", "chance", "p50 / p99 ms", "queries")
    rows = [
        (row["retriever"], f"{row['measure']}@{row['k']} of {row['of']}", row["language"], f"{row['value']:.2f}",
         f"{row['chance']:.2f}", f"{row['p50_ms']:.1f} / {row['p99_ms']:.1f}", str(row["queries"]))
        for row in card.to_dict("records")
    ]  # fmt: skip
    return BlockTable(header, rows)


def _most(k: Any) -> int:
    return max(k) if isinstance(k, list) else k if isinstance(k, int) else 8


def _recall(
    experiment: Experiment, names: Sequence[str], k: int, model: Callable[[str], Embed] | None
) -> Iterator[dict[str, Any]]:
    if not experiment.corpora:
        return
    held_out, trained, old = CorpusPairs(experiment, HELD_OUT), CorpusPairs(experiment), experiment.languages.l1
    for code in experiment.languages.groups():
        frames = ((pivot, trained(code, pivot)) for pivot in old if pivot != code)
        pivot, found = next(((pivot, frame) for pivot, frame in frames if not frame.empty), ("", None))
        if found is None:
            continue
        unseen = held_out(code, pivot)
        found = (unseen if len(unseen) >= _FEWEST else found).drop_duplicates("target")
        drawn = found.assign(order=[share_of(str(row), seed=17) for row in found["id"]])
        chosen = drawn.sort_values("order", kind="stable").head(_POOL)
        samples = {code: chosen["source"].head(SAMPLES).tolist()}
        pool = Pool(chosen["id"].astype(str).tolist(), [pivot] * len(chosen), chosen["target"].tolist(), (), False)
        most = min(k, len(chosen))
        search = Search.of(pool, names, most, "evaluate.contexts", space=VectorSpace(samples=samples, model=model))
        hits, spent = [], []
        for place, (row, text) in enumerate(zip(chosen["id"].head(_QUERIES), chosen["source"], strict=False)):
            began = time.perf_counter()
            order = nearest_first(search.ranker(Query(str(row), text, code)), pool.ranks)
            nearest = list(islice(order, most))
            spent.append(time.perf_counter() - began)
            hits.append(place in nearest)
        yield _row(names, "recall", pivot, code, most, float(np.mean(hits)), most / len(chosen), spent, len(chosen))


def _purity(
    experiment: Experiment, names: Sequence[str], k: int, model: Callable[[str], Embed] | None
) -> Iterator[dict[str, Any]]:
    for suite in experiment.evaluate.suites:
        if not isinstance(suite, ClassificationSuite) or suite.crossed:
            continue
        rows = classification_rows(suite, experiment.storage.data).train
        slots = [text_column(slot) for slot in suite.slots]
        for code, part in rows.groupby("language"):
            chosen = part.head(_POOL)
            texts = ["\n".join(row) for row in chosen[slots].itertuples(index=False)]
            labels = chosen["label"].astype(int).tolist()
            ids = chosen["id"].astype(str).tolist()
            pool = Pool(ids, [str(code)] * len(texts), texts, labels)
            most = min(k, len(texts) - 1)
            if most < 1:
                continue
            search = Search.of(pool, names, most, "evaluate.contexts", space=VectorSpace(model=model))
            shares, spent = [], []
            for row, text, label in list(zip(ids, texts, labels, strict=True))[:_QUERIES]:
                began = time.perf_counter()
                try:
                    found = search.find(Query(row, text, str(code)))
                except DataError:  # too many near duplicates of this text
                    continue
                spent.append(time.perf_counter() - began)
                shares.append(np.mean([labels[place] == label for place in found.places]))
            if not shares:
                continue
            chance = float((np.bincount(labels) / len(labels)) @ (np.bincount(labels) / len(labels)))
            yield _row(
                names, "purity", suite.name, str(code), most, float(np.mean(shares)), chance, spent, len(texts)
            )  # fmt: skip


def _row(
    names: Sequence[str], measure: str, of: str, language: str, k: int, value: float, chance: float,
    seconds: Sequence[float], pool: int,
) -> dict[str, Any]:  # fmt: skip
    p50, p99 = (float(np.percentile(seconds, share)) * 1e3 for share in (50, 99))
    cells = (" + ".join(names), measure, of, language, k, value, chance, p50, p99, len(seconds), pool)
    return dict(zip(COLUMNS, cells, strict=True))
