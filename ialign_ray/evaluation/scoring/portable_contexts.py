"""A context of an experiment with everything that it needs elsewhere: its pools, as suites search them."""

from __future__ import annotations

import pandas as pd

from ialign_ray.config import ClassificationSuite, Experiment
from ialign_ray.config.contexts import ContextConfig
from ialign_ray.corpus.pairs import load_parallel
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.suites.load import classification_rows, text_column
from ialign_ray.incontext.stored import ContextExemplar, ContextPair, ExemplarPool, StoredContext
from ialign_ray.streaming.curate import curate


def context_named(experiment: Experiment, name: str) -> ContextConfig:
    """The context of a name that can be kept. Raises ConfigError, naming the others, if there is no such context."""
    known = {variant.name: variant for context in experiment.evaluate.contexts for variant in context.variants}
    if name not in known:
        have = ", ".join(known) or "none"
        raise ConfigError(
            f"evaluate.contexts has no {name!r} (it has: {have}); name one, or pass the experiment that has it"
        )
    context, where = known[name], f"evaluate.contexts.{name}"
    if context.dictionary:
        raise ConfigError(f"{where} has a dictionary, which is not kept with a model; remove it and evaluate again")
    if context.exemplars and context.exemplars.labels == "permuted":
        raise ConfigError(f"{where} is a control with permuted labels; name a context with true ones")
    return context


def portable_context(experiment: Experiment, name: str, tokenizer: str | None = None) -> StoredContext:
    """Collect the pools of a context; `tokenizer` is the hash of the tokenizer that it was judged with.

    Raises ConfigError if there is no such context or it cannot be kept.
    """
    context = context_named(experiment, name)
    pools = {
        suite.name: _pool(experiment, context, suite)
        for suite in experiment.evaluate.suites
        if isinstance(suite, ClassificationSuite)
    }
    pairs: list[ContextPair] = []
    if context.pairs or (context.exemplars and context.exemplars.through):
        built, _ = curate(experiment, None)
        table = load_parallel(experiment, built).pairs.to_pandas()
        pairs = [
            ContextPair(str(r["row_id"]), r["source"], r["target"], r["source_language"], r["target_language"])
            for r in table.to_dict("records")
        ]
    if context.pairs:
        pivot = context.pairs.language or _pivot(experiment, pairs)
        chosen = context.pairs.model_copy(update={"language": pivot})
        context = context.model_copy(update={"pairs": chosen})
    return StoredContext(context, pools, pairs, tokenizer)


def _pivot(experiment: Experiment, pairs: list[ContextPair]) -> str:
    """The first old language that has pairs with a language of a suite, as in suites."""
    spoken = {code for s in experiment.evaluate.suites if isinstance(s, ClassificationSuite) for code in s.spoken}
    found = {pair.target_language for pair in pairs if pair.source_language in spoken}
    old = experiment.languages.l1
    return next((code for code in old if code in found), old[0])


def _pool(experiment: Experiment, context: ContextConfig, suite: ClassificationSuite) -> ExemplarPool:
    words = {label: dict(words) for label, words in suite.labels.items()}
    if context.exemplars is None:
        return ExemplarPool(suite.slots, words, ())
    own = suite
    if context.exemplars.suite is not None:
        found = next(s for s in experiment.evaluate.suites if s.name == context.exemplars.suite)
        assert isinstance(found, ClassificationSuite)  # checked when it was evaluated
        own = found
    rows: pd.DataFrame = classification_rows(own, experiment.storage.data).train
    labels = list(suite.labels)
    exemplars = [
        ContextExemplar(
            str(row["id"]), row["language"], {slot: row[text_column(slot)] for slot in own.slots}, labels[row["label"]]
        )
        for row in rows.to_dict("records")
    ]
    return ExemplarPool(suite.slots, words, exemplars)
