"""Tokens of the training texts: tokens per word, lengths, and effects of truncation.

Everything is measured on seeded samples of the training split, since tokenising is the slow part: at most 2,000 texts
a language, and some pairs of each direction rendered with every task of the mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ialign_ray.config import CorpusConfig, Experiment
from ialign_ray.config.tasks import resolve_mix
from ialign_ray.corpus.assemble import TRAIN
from ialign_ray.corpus.build import Built
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.corpus.pairs import PAIR_SCHEMA, ways
from ialign_ray.inspection.rows import Lowest, batches, parts
from ialign_ray.inspection.tokenizer_fit import SAMPLE, Fitness, fitness, warnings
from ialign_ray.tasks.negatives import Pair
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.render import Example
from ialign_ray.tasks.templating import experiment_templates, language_names
from ialign_ray.tokens.encode import Encoder

RENDERED, FEWEST, TOGETHER = 100, 10, 5_000
"""Pairs rendered per direction and task, at most and at least; and approximate number of prompts in total."""


@dataclass(frozen=True)
class Rendered:
    """Prompts of one task for one direction."""

    task: str
    source: str
    target: str
    prompt_tokens: tuple[int, ...]
    """Tokens of each prompt before anything is shortened, ascending."""
    shortened: int
    """Prompts whose source text would be shortened to fit `train.max_prompt_tokens`."""
    dropped: int
    """Examples that would be dropped: the target is too long, or the prompt cannot be shortened enough."""
    example: Example
    """The first of them."""

    @property
    def n(self) -> int:
        """Prompts rendered."""
        return len(self.prompt_tokens)

    def percentile(self, percent: int) -> int:
        """Prompt length in tokens that this percentage does not exceed (nearest rank)."""
        return self.prompt_tokens[max(1, -(-percent * self.n // 100)) - 1]


@dataclass(frozen=True)
class Tokens:
    """Tokens of a corpus by one tokenizer."""

    tokenizer: str
    """The model's name or folder."""
    max_prompt: int
    max_target: int
    """`train.max_target_tokens`; one of them is the end-of-sequence token."""
    fitness: dict[str, Fitness]
    """Fitness per language with text."""
    warnings: list[str]
    rendered: list[Rendered]
    missing: list[str] = field(default_factory=list)
    """Languages without any training text."""

    def too_long(self, code: str) -> float:
        """Share of a language's texts that are too long for a target; their pairs are not trained on."""
        return self.fitness[code].over(self.max_target - 1)


@dataclass
class Samples:
    """Seeded samples of the training texts of all corpora."""

    texts: dict[str, Lowest] = field(default_factory=dict)
    """Language -> rows of one column, `text`."""
    pairs: dict[tuple[str, str], Lowest] = field(default_factory=dict)
    """Pivot and other language -> rows `id`, `pivot`, `other`."""

    @classmethod
    def draw(cls, built: Built, corpora: Sequence[CorpusConfig], seed: int = 0) -> Samples:
        """Read the training split of every corpus once."""
        found, random = cls(), np.random.default_rng(seed)
        for corpus in corpora:
            scope = Scope(corpus.languages, corpus.pivots)
            for table in batches(parts(built, corpus.name, [TRAIN])):
                found.add(table, scope, random)
        return found

    def add(self, table: pa.Table, scope: Scope, random: np.random.Generator) -> None:
        """Consider a table's rows, each with a random key."""
        keys = random.random(table.num_rows)
        for code in scope.languages:
            lowest = self.texts.setdefault(code, Lowest(SAMPLE))
            lowest.offer(_where(table[code].is_valid(), keys), table.select([code]).rename_columns(["text"]))
        for pivot, other in scope.pairs():
            both = pc.and_(table[pivot].is_valid(), table[other].is_valid())
            rows = table.select(["id", pivot, other]).rename_columns(["id", "pivot", "other"])
            self.pairs.setdefault((pivot, other), Lowest(RENDERED)).offer(_where(both, keys), rows)


def tokens(experiment: Experiment, built: Built, encoder: Encoder, seed: int = 0) -> Tokens:
    """Measure the experiment's tokenizer and limits on samples of its training texts."""
    samples = Samples.draw(built, experiment.corpora, seed)
    texts = {code: [row["text"] for row in lowest.rows()] for code, lowest in samples.texts.items() if len(lowest)}
    measured = fitness(encoder.tokenizer, texts)
    languages = dict.fromkeys(code for c in experiment.corpora for code in c.languages)
    return Tokens(
        experiment.model.id,
        encoder.max_prompt,
        encoder.max_target,
        measured,
        warnings(measured, experiment.languages.l1),
        rendered(experiment, encoder, _directed(samples, experiment.tasks.directions)),
        [code for code in languages if code not in texts],
    )


def rendered(experiment: Experiment, encoder: Encoder, pairs: Sequence[Pair]) -> list[Rendered]:
    """Render the pairs with every task of the mix and see what fits."""
    plan = plan_of(experiment, pairs)
    directions: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        directions.setdefault((pair.source_language, pair.target_language), []).append(pair)
    cases = list(product(plan.mix, directions.values()))
    share = max(FEWEST, TOGETHER // max(1, len(cases)))
    return [_rendered(plan, encoder, task, some[:share]) for task, some in cases]


def plan_of(experiment: Experiment, pairs: Sequence[Pair]) -> Plan:
    """The experiment's tasks over these pairs alone, without replay; negatives are drawn from them too."""
    templates = experiment_templates(experiment)
    table = pa.Table.from_pylist([vars(pair) for pair in pairs], schema=PAIR_SCHEMA)
    return Plan(
        seed=experiment.train.seed,
        ratio=0.0,
        mix=resolve_mix(experiment.tasks.mix),
        templates=templates,
        names=language_names(experiment, templates),
        old=frozenset(experiment.languages.l1),
        pairs=table,
        replay=pa.table({}),
    )


def _rendered(plan: Plan, encoder: Encoder, task: str, pairs: Sequence[Pair]) -> Rendered:
    examples = [plan.align(pair, 0, task).example for pair in pairs]
    encoder = encoder.within(pairs[0].source_language, pairs[0].target_language)
    lengths = [len(encoder.prompt(e.prompt)) for e in examples]
    lost = [encoder.encode(e.prompt, e.target, e.spans) is None for e in examples]
    cut = sum(n > encoder.max_prompt and not gone for n, gone in zip(lengths, lost))
    first = pairs[0]
    return Rendered(
        task, first.source_language, first.target_language, tuple(sorted(lengths)), cut, sum(lost), examples[0]
    )


def _directed(samples: Samples, directions: str) -> list[Pair]:
    return [
        pair
        for (pivot, other), lowest in samples.pairs.items()
        for row in lowest.rows()
        for pair in pairs_of(row["id"], {pivot: row["pivot"], other: row["other"]}, [(pivot, other)], directions)
    ]


def pairs_of(row_id: str, texts: dict[str, Any], pairs: Sequence[tuple[str, str]], directions: str) -> list[Pair]:
    """Directed pairs of one row, as training makes them."""
    return [
        Pair(f"{row_id}:{source}-{target}", source, target, texts[source], texts[target])
        for pivot, other in pairs
        for source, target in ways(pivot, other, directions)
        if texts[source] is not None and texts[target] is not None
    ]


def _where(chosen: pa.ChunkedArray, keys: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    return np.where(np.asarray(chosen), keys, np.nan)
