"""Units of translation suites with translation pairs before the request (few-shot translation)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from ialign_ray.config import Experiment, PromptConfig, TranslationSuite
from ialign_ray.config.contexts import ContextConfig, ContextPairs
from ialign_ray.corpus.identity import text_key
from ialign_ray.errors import DataError
from ialign_ray.evaluation.scoring.context_blocks import BLOCKS, Pairs
from ialign_ray.evaluation.scoring.prompted_suites import TranslationUnit
from ialign_ray.evaluation.suites.load import translation_rows
from ialign_ray.incontext.pool import Pool, Search
from ialign_ray.incontext.prompts import SEPARATOR, Context, ContextBlock, fitting
from ialign_ray.incontext.retrievers import Query
from ialign_ray.languages import display_name
from ialign_ray.tasks.templating import fill

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer


@dataclass(frozen=True)
class ShownTranslationUnit(TranslationUnit):
    """Translation after pairs of the same direction; the mismatched source has the same pairs before it."""

    context: str = field()  # without a default, which it would take from the base class
    """Name of the context."""
    max_tokens: int | None
    """Most tokens of a prompt; None for the model's window."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns as of `TranslationUnit`, and of each row: pairs in its prompt (`blocks`), those that the window had
        no room for (`dropped`), and those refused as the question itself (`refused`)."""
        asked: dict[str, list[Any]] = {"prompt": [], "mismatched": [], "blocks": [], "dropped": []}
        for stored, prompt, other, target in zip(
            rows[BLOCKS], rows["prompt"], rows["mismatched"], rows["target"], strict=True
        ):
            answer = max(scorer.target_tokens(target), self.max_new_tokens or 0)
            room = min(scorer.window(answer), self.max_tokens or 1 << 30)
            longer = max((prompt, other), key=scorer.prompt_tokens)  # both must have the same pairs
            context = Context(before=[ContextBlock.line(text) for text in json.loads(stored)])
            context, out = fitting(context, partial(_tokens, scorer, longer), room)
            for name, value in (
                ("prompt", _before(context, prompt)), ("mismatched", _before(context, other)),
                ("blocks", context.size), ("dropped", out),
            ):  # fmt: skip
                asked[name].append(value)
        frame = super().predict(scorer, rows.assign(prompt=asked["prompt"], mismatched=asked["mismatched"]))
        return frame.assign(blocks=asked["blocks"], dropped=asked["dropped"], refused=rows["refused"])


def _tokens(scorer: Scorer, prompt: str, context: Context) -> int:
    return scorer.prompt_tokens(_before(context, prompt))


def _before(context: Context, prompt: str) -> str:
    return SEPARATOR.join([*(block.texts["line"] for block in context.before), prompt])


def translation_context_units(
    experiment: Experiment, suite: TranslationSuite, context: ContextConfig, pairs: Pairs
) -> Iterator[ShownTranslationUnit]:
    """Units of a translation suite under a context with pairs, each pair in the suite's own wording, the nearest last.

    Pairs of a test row's texts are never in the pool. Raises DataError if the corpora have no pair of any direction, or
    fewer than k.
    """
    config = context.pairs
    if config is None:
        return
    found: pd.DataFrame | None = None  # of all prompts
    for prompt in suite.asked:
        rows = translation_rows(suite, experiment, prompt)
        found = _found(rows, suite, context, config, pairs) if found is None else found
        names = experiment.languages.names
        shown = []
        for direction, own in zip(rows["language"], found["pairs"], strict=True):
            codes = dict(zip(("source_language", "target_language"), direction.split("-"), strict=True))
            called = {slot: display_name(code, prompt.language, names) for slot, code in codes.items()}
            shown.append(json.dumps([_shown(prompt, pair, called) for pair in own], ensure_ascii=False))
        length = rows["prompt"].str.len() + rows["target"].str.len() + [len(text) for text in shown]
        whole = rows.assign(length=length, refused=found["refused"], **{BLOCKS: shown})
        longest = suite.max_new_tokens if suite.generate else None
        yield ShownTranslationUnit(suite.name, prompt.name, whole, longest, context.name, context.max_tokens)


def _shown(prompt: PromptConfig, pair: Sequence[str], called: dict[str, str]) -> str:
    source, target = pair
    return f"{fill(prompt.text, {'source': source}, called)[0]}\n{target}"


def _found(
    rows: pd.DataFrame, suite: TranslationSuite, context: ContextConfig, config: ContextPairs, pairs: Pairs
) -> pd.DataFrame:
    """Columns pairs (of source and target, the nearest last) and refused of each row."""
    where = f"evaluate.contexts.{context.name}.pairs"
    asked = {text_key(text) for side in ("source", "target") for text in rows[side]}
    parts, known = [], False
    for direction, part in rows.groupby("language", sort=False):
        source, target = str(direction).split("-")
        pool = _pool(pairs, source, target)
        fresh = [text_key(a) not in asked and text_key(b) not in asked for a, b in zip(pool["source"], pool["target"])]
        pool = pool[fresh]
        if pool.empty:
            parts.append(pd.DataFrame({"pairs": [[]] * len(part), "refused": 0}, index=part.index))
            continue
        known = True
        texts = Pool(pool["id"].astype(str).tolist(), [source] * len(pool), pool["source"].tolist(), (), False)
        search = Search.of(texts, config.retriever, config.k, where, context.seed)
        translations = pool["target"].tolist()
        asking = zip(part["id"].astype(str), part["source"], strict=True)
        results = [search.find(Query(row, text, source)) for row, text in asking]
        near = [[(texts.texts[k], translations[k]) for k in reversed(result.places)] for result in results]
        parts.append(pd.DataFrame({"pairs": near, "refused": [r.refused for r in results]}, index=part.index))
    if not known:
        raise DataError(
            f"{where}: `corpora` have no pair of a direction of {suite.name!r} apart from its test rows; add a corpus"
        )
    return pd.concat(parts).loc[rows.index]


def _pool(pairs: Pairs, source: str, target: str) -> pd.DataFrame:
    found = pairs(source, target)
    if found.empty:  # the corpora may be trained in the other direction only
        found = pairs(target, source).rename(columns={"source": "target", "target": "source"})
    return found.drop_duplicates("source")
