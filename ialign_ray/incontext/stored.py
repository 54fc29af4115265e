"""A context with its pools, which is kept in a folder next to a model, and the examples that it gives one question.

context.json        settings, label words, and a hash of the tokenizer that it was judged with
exemplars.parquet   suite, id, language, texts by slot, label
pairs.parquet       id, source, target and their languages
manifest.json       SHA-256 of every file
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.config.contexts import ANY, OWN, ContextConfig, ContextPairs
from ialign_ray.corpus.identity import text_key
from ialign_ray.errors import DataError, first_line
from ialign_ray.incontext.pool import AUTO_K, Neighbours, Pool, Search
from ialign_ray.incontext.retrievers import Query
from ialign_ray.storage import MANIFEST, json_hash, read_json, spoiled_file, whole_folder, write_json

FORMAT: Final = 1
"""Version of the folder; raise it when its files change."""
_SETTINGS, _EXEMPLARS, _PAIRS = "context.json", "exemplars.parquet", "pairs.parquet"
_TEXT = pa.string()
_EXEMPLAR_SCHEMA = pa.schema(
    {"suite": _TEXT, "id": _TEXT, "language": _TEXT, "label": _TEXT, "texts": pa.map_(_TEXT, _TEXT)}
)
_PAIR_SCHEMA = pa.schema(dict.fromkeys(("id", "source", "target", "source_language", "target_language"), _TEXT))
Example = TypeVar("Example")


@dataclass(frozen=True)
class ContextExemplar:
    """A labelled text of a pool."""

    id: str
    """Id of its sentence, equal for a sentence and its translations."""
    language: str | None
    texts: Mapping[str, str]
    """Slot -> text."""
    label: str

    @property
    def text(self) -> str:
        """Text by which it is found."""
        return "\n".join(self.texts.values())


@dataclass(frozen=True)
class ContextPair:
    """A translation pair of a pool."""

    id: str
    source: str
    target: str
    source_language: str | None = None
    target_language: str | None = None

    def turned(self) -> ContextPair:
        """The pair in the other direction."""
        return ContextPair(self.id, self.target, self.source, self.target_language, self.source_language)


@dataclass(frozen=True, eq=False)
class ExemplarPool:
    """Exemplars of one suite, or of one request."""

    slots: Sequence[str]
    """Slots of the texts, in order."""
    words: Mapping[str, Mapping[str, str]]
    """Label -> language -> word, in the order of the labels."""
    exemplars: Sequence[ContextExemplar]

    @cached_property
    def languages(self) -> list[str]:
        """Languages of the exemplars."""
        return sorted({e.language for e in self.exemplars if e.language is not None})

    @cached_property
    def ids(self) -> dict[bytes, str]:
        """Key of each text -> id of its sentence: a question that is a text of the pool must not find a translation."""
        return {text_key(exemplar.text): exemplar.id for exemplar in self.exemplars}


@dataclass(frozen=True)
class ContextExamples(Generic[Example]):
    """Examples for one question, the nearest last."""

    items: Sequence[Example]
    refused: int = 0
    """Nearer ones that are the question, its translation, or nearly its text."""


@dataclass(frozen=True, eq=False)
class StoredContext:
    """A context with its pools; equal questions get equal examples on every machine."""

    settings: ContextConfig
    pools: Mapping[str, ExemplarPool]
    """Suite -> its exemplars; a request's own have one pool, under an empty name."""
    pairs: Sequence[ContextPair] = ()
    tokenizer: str | None = None
    """`tokenizer_hash` of the model that it was judged with; None if it was judged with no model."""
    _searches: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Its name in the experiment."""
        return self.settings.name

    def exemplars(self, suite: str, texts: Mapping[str, str], language: str | None) -> ContextExamples[ContextExemplar]:
        """Exemplars for a question of a suite, given by slot, in a language; None searches those of all languages.

        Raises DataError if the pool has no other text in that language.
        """
        config, pool = self.settings.exemplars, self.pools[suite]
        if config is None:
            return ContextExamples(())
        wanted = language if config.language == OWN else config.language
        key = None if wanted in (None, ANY) else wanted
        search, rows = self._once(("exemplars", suite, key), lambda: self._exemplar_search(pool, key))
        text = "\n".join(texts[slot] for slot in pool.slots)
        asked = Query(_row(text, pool.ids), text)
        if config.through and language not in (None, key):
            near = ContextPairs(retriever=config.retriever, language=key, k=1)
            for pair in self._similar(near, text, language, key).items:
                asked = Query(asked.row, pair.target)
        found = _nearest(search, asked)
        return ContextExamples([rows[place] for place in reversed(found.places)], found.refused)

    def similar_pairs(
        self, text: str, source: str | None = None, target: str | None = None
    ) -> ContextExamples[ContextPair]:
        """Pairs whose source is similar to a text; None is any language. Raises DataError if none is in the languages.

        A context without settings of pairs gives none.
        """
        config = self.settings.pairs
        return ContextExamples(()) if config is None else self._similar(config, text, source, target)

    def check_tokenizer(self, tokenizer: Any, model: str) -> None:
        """Raise DataError if a model's tokenizer is not the one that the context was judged with."""
        if self.tokenizer is not None and self.tokenizer != tokenizer_hash(tokenizer):
            raise DataError(
                f"context {self.name!r} was judged with another tokenizer than that of {model}; evaluate it with this "
                "model (`ialign icl`) and register it again"
            )

    def _exemplar_search(self, pool: ExemplarPool, language: str | None) -> tuple[Search, list[ContextExemplar]]:
        config, where = self.settings.exemplars, f"context {self.name!r}: exemplars"
        assert config is not None
        rows = [e for e in pool.exemplars if language in (None, e.language)]
        if not rows:
            raise DataError(f"{where}: no text is in {language}; the pool has {', '.join(pool.languages) or 'no text'}")
        number = {label: k for k, label in enumerate(pool.words)}
        labels = [number[e.label] for e in rows]
        texts, codes = ["\n".join(e.texts[slot] for slot in pool.slots) for e in rows], [e.language or "" for e in rows]
        k = min(AUTO_K, len(rows)) if config.k == "auto" else config.k[0]
        found = Pool([e.id for e in rows], codes, texts, labels)
        search = Search.of(
            found, config.retriever, k, where, self.settings.seed, balanced=config.balanced, diversity=config.diversity
        )
        return search, rows

    def _similar(
        self, config: ContextPairs, text: str, source: str | None, target: str | None
    ) -> ContextExamples[ContextPair]:
        key = ("pairs", config.model_dump_json(), source, target)
        search, rows = self._once(key, lambda: self._pair_search(config, source, target))
        found = _nearest(search, Query(_row(text, {}), text))
        return ContextExamples([rows[place] for place in reversed(found.places)], found.refused)

    def _pair_search(
        self, config: ContextPairs, source: str | None, target: str | None
    ) -> tuple[Search, list[ContextPair]]:
        where = f"context {self.name!r}: pairs"
        rows = [pair for pair in self.pairs if _leads(pair, source, target)]
        if not rows:
            rows = [turn for turn in map(ContextPair.turned, self.pairs) if _leads(turn, source, target)]
        rows = list({pair.source: pair for pair in reversed(rows)}.values())  # of equal sources the first
        if not rows:
            known_languages = sorted({f"{p.source_language}-{p.target_language}" for p in self.pairs})
            raise DataError(
                f"{where}: none is from {source or 'any language'} to {target or 'any language'}; it has "
                f"{', '.join(known_languages) or 'no pair'}"
            )
        pool = Pool([p.id for p in rows], [p.source_language or "" for p in rows], [p.source for p in rows], (), False)
        k = min(config.k, len(rows))  # a direction may have fewer
        return Search.of(pool, config.retriever, k, where, self.settings.seed), rows

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._searches:  # two threads may both make it, with equal results
            self._searches[key] = make()
        return self._searches[key]


def tokenizer_hash(tokenizer: Any) -> str:
    """Hash of a tokenizer's vocabulary."""
    return json_hash(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))


def write_context(context: StoredContext, folder: Path) -> str:
    """Write a context's folder, whole or not at all, and return the hash of its content."""
    with whole_folder(folder) as scratch:
        pools = {
            name: {"slots": list(pool.slots), "words": {label: dict(words) for label, words in pool.words.items()}}
            for name, pool in context.pools.items()
        }
        settings = context.settings.model_dump(mode="json")
        write_json(
            scratch / _SETTINGS,
            {"format": FORMAT, "settings": settings, "pools": pools, "tokenizer": context.tokenizer},
        )
        exemplars = [
            {"suite": name, "id": e.id, "language": e.language, "label": e.label, "texts": list(e.texts.items())}
            for name, pool in context.pools.items()
            for e in pool.exemplars
        ]
        pq.write_table(pa.Table.from_pylist(exemplars, _EXEMPLAR_SCHEMA), scratch / _EXEMPLARS, compression="zstd")
        pairs = [{name: getattr(pair, name) for name in _PAIR_SCHEMA.names} for pair in context.pairs]
        pq.write_table(pa.Table.from_pylist(pairs, _PAIR_SCHEMA), scratch / _PAIRS, compression="zstd")
    return context_hash(folder)


def context_hash(folder: Path) -> str:
    """Hash of a context's files, from its manifest."""
    return json_hash(read_json(folder / MANIFEST)["files"])


def read_context(folder: Path) -> StoredContext:
    """Read a context's folder. Raises DataError, naming the file, if one is damaged or of another version."""
    if (spoiled := spoiled_file(folder)) is not None:
        raise DataError(
            f"context folder {folder.name}: {spoiled} is missing or does not match its hash; register its run again"
        )
    where = f"context folder {folder.name}: {_SETTINGS}"
    try:
        found = read_json(folder / _SETTINGS)
        if found["format"] != FORMAT:
            raise DataError(
                f"{where} has format {found['format']}, and this version of ialign_ray reads {FORMAT}; register its "
                "run again"
            )
        settings = ContextConfig.model_validate(found["settings"])
        rows = pq.read_table(folder / _EXEMPLARS, schema=_EXEMPLAR_SCHEMA).to_pylist()
        pairs = [ContextPair(**row) for row in pq.read_table(folder / _PAIRS, schema=_PAIR_SCHEMA).to_pylist()]
        pools = {}
        for name, pool in found["pools"].items():
            own = [
                ContextExemplar(r["id"], r["language"], dict(r["texts"]), r["label"])
                for r in rows
                if r["suite"] == name
            ]
            pools[name] = ExemplarPool(tuple(pool["slots"]), pool["words"], own)
        return StoredContext(settings, pools, pairs, found["tokenizer"])
    except (AttributeError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        fault = first_line(error)
        raise DataError(f"{where} is not a context of this version ({fault}); register its run again") from error


def _leads(pair: ContextPair, source: str | None, target: str | None) -> bool:
    return source in (None, pair.source_language) and target in (None, pair.target_language)


def _row(text: str, ids: Mapping[bytes, str]) -> str:
    """Id of a question: that of its sentence in the pool, or one that depends on its text alone."""
    key = text_key(text)
    return ids.get(key) or f"\x00{key.hex()}"


def _nearest(search: Search, question: Query) -> Neighbours:
    """Find as many texts as the pool has without the question. Raises DataError if no other is left."""
    try:
        return search.find(question)
    except DataError:
        left = sum(not search.pool.is_question(place, question) for place in range(len(search.pool.texts)))
        if not left:
            raise DataError(
                "every text of the context's pool is the question or nearly its text; add others to the pool"
            ) from None
        return replace(search, k=min(left, search.k)).find(question)
