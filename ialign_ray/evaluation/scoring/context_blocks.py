"""Blocks before the questions of a suite under a context: exemplars, pairs, words and label lines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from ialign_ray.config import ClassificationSuite, Experiment, PromptConfig
from ialign_ray.config.contexts import ANY, OWN, ContextConfig, ContextPairs, ExemplarConfig
from ialign_ray.corpus.assemble import TRAIN
from ialign_ray.corpus.identity import share_of
from ialign_ray.corpus.pairs import PAIR_SCHEMA, directed_pairs, load_parallel
from ialign_ray.corpus.readers import read_table
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.suites.load import ClassificationRows, text_column
from ialign_ray.incontext.encoders import SAMPLES, VectorSpace
from ialign_ray.incontext.pool import AUTO_K, Pool, Search
from ialign_ray.incontext.prompts import Context, ContextBlock, label_line, pair_line, word_lines
from ialign_ray.incontext.retrievers import Query, terms, words_of
from ialign_ray.languages import display_name
from ialign_ray.storage import json_hash
from ialign_ray.streaming.curate import curate

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer

BLOCKS: Final = "context"
"""Column of the rows with the blocks before the question, as JSON."""
VOTES, NEAREST = "votes", "nearest_label"
"""Columns with the number of exemplars of each label (list), and the label of the nearest one; missing without
exemplars."""
Pairs = Callable[[str, str], pd.DataFrame]
"""Function of two languages that returns the translation pairs of the corpora between them: id, source, target."""
RowsOf = Callable[[ClassificationSuite], ClassificationRows]
"""Function that reads the rows of a suite."""


_NO_PAIRS: Final = pd.DataFrame(columns=["id", "source", "target"])


@dataclass
class CorpusPairs:
    """Pairs of the experiment's corpora, read when they are first asked for."""

    experiment: Experiment
    split: str = TRAIN
    """Split of the corpora."""
    _parts: dict[Any, pd.DataFrame] | None = None

    def __call__(self, language: str, pivot: str) -> pd.DataFrame:
        """Pairs of a language with the pivot: id, source, target; empty if there is no such pair."""
        if self._parts is None:
            built, _ = curate(self.experiment, None)
            if self.split == TRAIN:
                table = load_parallel(self.experiment, built).pairs
            else:
                counts, ways = built.counts["corpora"], self.experiment.tasks.directions
                corpora = [
                    c for c in self.experiment.corpora if counts[c.name]["splits"].get(self.split, {}).get("rows")
                ]
                tables = [directed_pairs(built, c, ways, self.split) for c in corpora]
                table = pa.concat_tables([PAIR_SCHEMA.empty_table(), *tables])
            rows = table.to_pandas().rename(columns={"row_id": "id"})
            parts = rows.groupby(["source_language", "target_language"])
            self._parts = {codes: part.drop_duplicates("source") for codes, part in parts}
        return self._parts.get((language, pivot), _NO_PAIRS)


@dataclass
class BlockBuilder:
    """Blocks of one suite's questions under a context; what all prompts share is searched once."""

    experiment: Experiment
    suite: ClassificationSuite
    context: ContextConfig
    pairs: Pairs
    rows_of: RowsOf
    space: VectorSpace = field(default_factory=VectorSpace)
    """Open model and sample texts, for retrievers by vectors."""
    _searches: dict[tuple[str, str], Any] = field(default_factory=dict)
    _found: pd.DataFrame | None = None

    @classmethod
    def of(
        cls, experiment: Experiment, suite: ClassificationSuite, context: ContextConfig, pairs: Pairs, rows_of: RowsOf
    ) -> BlockBuilder:
        """A builder that estimates the mean vector of a language from the suite's questions if a pool has no text in
        it."""
        samples = {}
        if any(":" in name for name in context.retrievers):
            slots = [text_column(slot) for slot in suite.slots]
            for code, rows in rows_of(suite).test.sort_values("id").groupby("language"):
                samples[str(code)] = ["\n".join(row) for row in rows[slots].head(SAMPLES).itertuples(index=False)]
        return cls(experiment, suite, context, pairs, rows_of, VectorSpace(samples=samples))

    def opened(self, scorer: Scorer) -> BlockBuilder:
        """The builder that searches by the hidden states of an open model."""
        return replace(self, space=replace(self.space, model=scorer.embedder), _searches={}, _found=None)

    def sources(self) -> str:
        """Hash of everything that blocks depend on besides the question and the model."""
        context = self.context
        parts: list[Any] = [context.model_dump(mode="json", exclude={"name"}), self.space.samples]
        if context.exemplars:
            where = f"evaluate.contexts.{context.name}.exemplars"
            parts.append(row_keys(self.rows_of(self._pool_suite(context.exemplars, where)).train))
        if context.pairs or (context.exemplars and context.exemplars.through):
            chosen = [side.language for side in (context.exemplars, context.pairs) if side and side.language]
            pivots = [*self.experiment.languages.l1, *chosen]
            parts.append([row_keys(self.pairs(code, pivot)) for code in self.suite.spoken for pivot in pivots])
        if context.dictionary:
            parts.append([list(self._dictionary(code)[0].values()) for code in self.suite.spoken])
        return json_hash(parts)

    @property
    def labels(self) -> list[str]:
        """Labels in order."""
        return list(self.suite.labels)

    def words(self, prompt: PromptConfig, side: str) -> tuple[str, ...]:
        """Label words of the answers or the exemplars. Raises ConfigError for a label without one in their language."""
        chosen = getattr(self.context.labels, side) if self.context.labels else None
        code = chosen or prompt.language
        for label, words in self.suite.labels.items():
            if code not in words:
                raise ConfigError(
                    f"evaluate.contexts.{self.context.name}.labels.{side} is {code!r}, in which label {label!r} of "
                    f"evaluate.suites.{self.suite.name} has no word; add it there"
                )
        return tuple(self.suite.labels[label][code] for label in self.labels)

    def blocks(self, test: pd.DataFrame, prompt: PromptConfig, shown: Sequence[str]) -> pd.DataFrame:
        """Columns `context`, `refused`, `votes` and `nearest_label` of each test row."""
        head = self._head(prompt)
        if self._found is None or self.space.model:  # an open model gets the rows shard by shard
            self._found = pd.DataFrame([self._search(row) for row in test.to_dict("records")], index=test.index)
        found = self._found
        names = self.experiment.languages.names
        texts = []
        for row in found.to_dict("records"):
            exemplars = [[texts, shown[label]] for texts, label in row["exemplars"]]
            lines = [
                pair_line(source, target, *(display_name(c, prompt.language, names) for c in codes)).texts["line"]
                for source, target, codes in row["pairs"]
            ]
            place = self.context.pairs.place if self.context.pairs else "before"
            words = [word_lines(row["words"]).texts["line"]] if row["words"] else []
            texts.append({"head": [*head, *words], place: lines, "exemplars": exemplars})
        made = found[["refused", VOTES, NEAREST]].copy()
        made[BLOCKS] = [json.dumps(one, ensure_ascii=False) for one in texts]
        return made

    def _head(self, prompt: PromptConfig) -> list[str]:
        labels = self.context.labels
        if labels is None or not labels.line:
            return []
        codes = (labels.exemplars or prompt.language, labels.answers or prompt.language)
        names = [display_name(code, prompt.language, self.experiment.languages.names) for code in codes]
        sides = (self.words(prompt, "exemplars"), self.words(prompt, "answers"))
        return [label_line(*sides, *names).texts["line"]]

    def _search(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        text = "\n".join(row[text_column(slot)] for slot in self.suite.slots)
        question, language = Query(row["id"], text, row["language"]), row["language"]
        made: dict[str, Any] = {"exemplars": [], "pairs": [], "words": [], "refused": 0, VOTES: None, NEAREST: None}
        if self.context.exemplars:
            made |= self._exemplars(self.context.exemplars, question, language)
        if self.context.pairs:
            made["pairs"] = self._pairs(self.context.pairs, question, language)
        if self.context.dictionary:
            made["words"] = self._words(question, language)
        return made

    def _exemplars(self, config: ExemplarConfig, question: Query, language: str) -> dict[str, Any]:
        search, texts = self._cached("exemplars", language, lambda: self._exemplar_search(config, language))
        asked = question
        if config.through:
            assert isinstance(config.language, str)  # checked by the config
            near = ContextPairs(retriever=config.retriever, language=config.language, k=1)
            for _, target, _ in self._pairs(near, question, language):
                asked = Query(question.row, target, config.language)
        found = search.find(asked)
        places = list(reversed(found.places))  # the nearest last
        labels = [search.pool.labels[place] for place in places]
        return {
            "exemplars": [(texts[place], label) for place, label in zip(places, labels, strict=True)],
            "refused": found.refused,
            VOTES: np.bincount(labels, minlength=len(self.labels)).tolist(),
            NEAREST: labels[-1],
        }

    def _exemplar_search(self, config: ExemplarConfig, language: str) -> tuple[Search, list[dict[str, str]]]:
        where = f"evaluate.contexts.{self.context.name}.exemplars"
        suite = self._pool_suite(config, where)
        rows = self.rows_of(suite).train
        if config.language != ANY:
            wanted = language if config.language == OWN else config.language
            if wanted not in set(rows["language"]):
                known = ", ".join(sorted(set(rows["language"])))
                raise DataError(f"{where}: suite {suite.name!r} has no training row in {wanted}; it has {known}")
            rows = rows[rows["language"] == wanted]
        if absent := [label for k, label in enumerate(self.labels) if k not in set(rows["label"])]:
            raise DataError(f"{where}: no exemplar has the label {absent[0]!r}; name another `suite` or language")
        slots = [text_column(slot) for slot in suite.slots]
        texts = ["\n".join(row) for row in rows[slots].itertuples(index=False)]
        labels = rows["label"].astype(int).tolist()
        if config.labels == "permuted":
            order = sorted(range(len(labels)), key=lambda k: share_of(f"{self.context.seed}:{k}", seed=13))
            labels = [labels[k] for k in order]
        same_file = suite.path == self.suite.path and suite.id == self.suite.id
        pool = Pool(rows["id"].tolist(), rows["language"].tolist(), texts, labels, same_file)
        k = min(AUTO_K, len(texts)) if config.k == "auto" else config.k[0]
        search = Search.of(
            pool, config.retriever, k, where, self.context.seed, self.space, balanced=config.balanced,
            diversity=config.diversity,
        )  # fmt: skip
        shown = [dict(zip(suite.slots, row)) for row in rows[slots].itertuples(index=False)]
        return search, shown

    def _pool_suite(self, config: ExemplarConfig, where: str) -> ClassificationSuite:
        suite = self.suite if config.suite is None else self._other_suite(config.suite, where)
        if suite.crossed:
            raise ConfigError(
                f"{where}: suite {suite.name!r} has no training rows, and test rows are never exemplars; name another "
                "`suite` with the same labels"
            )
        return suite

    def _other_suite(self, name: str, where: str) -> ClassificationSuite:
        suite = next(s for s in self.experiment.evaluate.suites if s.name == name)
        if not isinstance(suite, ClassificationSuite) or list(suite.labels) != self.labels:
            raise ConfigError(
                f"{where}.suite is {name!r}, whose labels are not those of {self.suite.name!r}; name a classification "
                f"suite with the labels {', '.join(self.labels)} in this order"
            )
        if suite.slots != self.suite.slots:
            raise ConfigError(f"{where}.suite is {name!r}, whose texts are {suite.slots}, not {self.suite.slots}")
        return suite

    def _pairs(self, config: ContextPairs, question: Query, language: str) -> list[tuple[str, str, list[str]]]:
        """Pairs of a question, the nearest last; a language without any is asked alone."""
        old = [config.language] if config.language else self.experiment.languages.l1
        pivot = next((code for code in old if self._paired_with(code)), old[0])
        key = config.model_dump_json()
        made = self._cached(key, language, lambda: self._pair_search(config, language, pivot))
        if made is None:
            return []
        search, targets = made
        places = reversed(search.find(question).places)
        return [(search.pool.texts[place], targets[place], [language, pivot]) for place in places]

    def _paired_with(self, pivot: str) -> bool:
        return any(not self.pairs(code, pivot).empty for code in self.suite.spoken)

    def _pair_search(self, config: ContextPairs, language: str, pivot: str) -> tuple[Search, list[str]] | None:
        where = f"evaluate.contexts.{self.context.name}.pairs"
        found = self.pairs(language, pivot)
        if found.empty:
            if not self._paired_with(pivot):
                raise DataError(
                    f"{where}: `corpora` have no pair of {pivot} and a language of {self.suite.name!r}; set another "
                    "`language`"
                )
            return None
        pool = Pool(found["id"].tolist(), [language] * len(found), found["source"].tolist(), (), False)
        search = Search.of(pool, config.retriever, config.k, where, self.context.seed, self.space)
        return search, found["target"].tolist()

    def _words(self, question: Query, language: str) -> list[tuple[str, str]]:
        entries, counts = self._cached("words", language, lambda: self._dictionary(language))
        config = self.context.dictionary
        assert config is not None
        own = list(dict.fromkeys(word for word in words_of(question.text) if word in entries))
        # the rarest words of the dictionary first: with the fewest translations
        own.sort(key=lambda word: (counts[word], entries[word][0]))
        return [entries[word] for word in own[: config.entries]]

    def _dictionary(self, language: str) -> tuple[dict[str, tuple[str, str]], Counter[str]]:
        config = self.context.dictionary
        assert config is not None
        columns = [config.word, config.translation, config.language]
        table = read_table(config, self.experiment.storage.data, columns).to_pandas()
        rows = table[table[config.language] == language]
        words = terms(rows[config.word].tolist())
        entries: dict[str, tuple[str, str]] = {}
        counts: Counter[str] = Counter()
        for word, written, meaning in zip(words, rows[config.word], rows[config.translation], strict=True):
            if len(word) == 1:
                counts[word[0]] += 1
                entries.setdefault(word[0], (written, meaning))
        return entries, counts

    def _cached(self, what: str, language: str, make: Callable[[], Any]) -> Any:
        if (what, language) not in self._searches:
            self._searches[what, language] = make()
        return self._searches[what, language]


def loaded_context(stored: str) -> Context:
    """Read the column `BLOCKS` of a row."""
    given = json.loads(stored)
    lines = {name: [ContextBlock.line(text) for text in given.get(name, [])] for name in ("head", "before", "after")}
    exemplars = [ContextBlock(texts, answer) for texts, answer in given["exemplars"]]
    return Context(lines["head"], lines["before"], exemplars, lines["after"])
