"""Units of classification suites with a context: exemplars, pairs and words in front of each question."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment, PromptConfig, TranslationSuite
from ialign_ray.config.contexts import ContextConfig
from ialign_ray.evaluation.scoring.context_blocks import (
    BLOCKS,
    NEAREST,
    VOTES,
    BlockBuilder,
    CorpusPairs,
    Pairs,
    RowsOf,
    loaded_context,
)
from ialign_ray.evaluation.scoring.context_translation import translation_context_units
from ialign_ray.evaluation.scoring.prompted_suites import LabelUnit, Unit
from ialign_ray.evaluation.suites.load import ClassificationRows, classification_rows, text_column
from ialign_ray.incontext.prompts import Context, Form, Prompt, fitting, render
from ialign_ray.inference.calibration import CONTENT_FREE, prior

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer


@dataclass(frozen=True)
class ContextUnit(LabelUnit):
    """Classification by the likelihood of label words after a context."""

    context: str = field()  # without a default, which it would take from the base class
    """Name of the context."""
    form: Form
    """Layout of exemplars."""
    max_tokens: int | None
    """Most tokens of a prompt; None for the model's window."""

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns as of `LabelUnit`, and of each row: exemplars and pairs in its prompt (`blocks`), those that the
        window had no room for (`dropped`), those refused as the question itself, the votes and the nearest label.

        The prior of `calibrated` is under the same context, in the same pass.
        """
        texts = zip(*(rows[text_column(slot)] for slot in self.slots), strict=True)
        room = min(scorer.room(self.words), self.max_tokens or 1 << 30)
        prompts: list[Prompt] = []
        sizes, dropped = [], []
        for stored, row in zip(rows[BLOCKS], texts, strict=True):
            asked = dict(zip(self.slots, row, strict=True))
            context, out = fitting(loaded_context(stored), partial(self._tokens, scorer, asked), room)
            sizes.append(context.size)
            dropped.append(out)
            free = (dict.fromkeys(self.slots, text) for text in CONTENT_FREE)
            prompts += [render(context, one, self.text, self.form) for one in (asked, *free)]
        found = scorer.labels(prompts, self.words)
        scores, lengths = (side.reshape(len(rows), -1, len(self.words)) for side in (found.log_prob, found.tokens))
        frame = rows[["suite", "language", "id", "label", "chars", "refused", VOTES, NEAREST]].assign(
            prompt=self.prompt
        )
        frame["sum"], frame["mean"] = list(scores[:, 0]), list(scores[:, 0] / lengths[:, 0])
        priors = np.stack([prior(each) for each in scores[:, 1:]])
        frame["calibrated"] = list(scores[:, 0] - priors)
        frame["blocks"], frame["dropped"] = sizes, dropped
        return frame

    def _tokens(self, scorer: Scorer, asked: Mapping[str, str], context: Context) -> int:
        return scorer.prompt_tokens(render(context, asked, self.text, self.form))


@dataclass(frozen=True)
class SearchedUnit(ContextUnit):
    """The same with exemplars or pairs that are found by the evaluated model's own hidden states."""

    sources: str
    """Hash of everything that the search depends on besides question and model."""
    search: BlockSearch
    """Finds the blocks of rows while the model is open."""

    @property
    def key(self) -> list[Any]:
        """Everything that predictions depend on, the sources of the search by their hash."""
        kind, version, settings = super().key
        return [kind, version, {name: value for name, value in settings.items() if name != "search"}]

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns as of `ContextUnit`."""
        return super().predict(scorer, rows.join(self.search(scorer, rows)))


@dataclass
class BlockSearch:
    """Blocks of a suite's questions under one prompt, found by the model that is open."""

    builder: BlockBuilder
    prompt: PromptConfig
    shown: Sequence[str]
    """Label words of exemplars."""
    _opened: tuple[Scorer, BlockBuilder] | None = None

    def __call__(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns as of `BlockBuilder.blocks`."""
        if self._opened is None or self._opened[0] is not scorer:
            self._opened = (scorer, self.builder.opened(scorer))
        return self._opened[1].blocks(rows, self.prompt, self.shown)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}  # a replica opens its own model


def contexted_units(experiment: Experiment, names: Collection[str]) -> list[Unit]:
    """Units of the classification suites under each named context, contexts in the order of the experiment.

    Raises DataError for a pool without rows or a label, ConfigError for a suite without training rows.
    """
    chosen = [c for context in experiment.evaluate.contexts for c in context.variants if c.name in names]
    pairs = CorpusPairs(experiment)
    known: dict[str, ClassificationRows] = {}  # read once for all contexts

    def rows_of(suite: ClassificationSuite) -> ClassificationRows:
        if suite.name not in known:
            known[suite.name] = classification_rows(suite, experiment.storage.data)
        return known[suite.name]

    return [unit for context in chosen for unit in context_units(experiment, context, pairs, rows_of)]


def context_units(experiment: Experiment, context: ContextConfig, pairs: Pairs, rows_of: RowsOf) -> Iterator[Unit]:
    """Units of every classification suite under a context, and of translation suites if it has pairs.

    Raises DataError for a pool without rows or a label.
    """
    for suite in experiment.evaluate.suites:
        if isinstance(suite, TranslationSuite):
            yield from translation_context_units(experiment, suite, context, pairs)
        if not isinstance(suite, ClassificationSuite):
            continue
        rows = rows_of(suite)
        test = rows.test.drop(columns="fold").assign(length=rows.test["chars"])
        builder = BlockBuilder.of(experiment, suite, context, pairs, rows_of)
        for prompt in suite.asked:
            answers, shown = builder.words(prompt, "answers"), builder.words(prompt, "exemplars")
            form = context.exemplars.form if context.exemplars else "lines"
            asked = (prompt.text, suite.slots, answers, context.name, form, context.max_tokens)
            if context.searched_by_model:
                search = BlockSearch(builder, prompt, shown)
                yield SearchedUnit(suite.name, prompt.name, test, *asked, builder.sources(), search)
            else:
                with_blocks = test.join(builder.blocks(test, prompt, shown))
                yield ContextUnit(suite.name, prompt.name, with_blocks, *asked)
