"""Measures of one language, stored as soon as they are there: what a survey resumes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ialign_ray.corpus.cleaning.writing import has_spaces
from ialign_ray.evaluation.metrics.retrieval import surface_ranks
from ialign_ray.inference.embedding import Layer
from ialign_ray.storage import json_hash, write_bytes
from ialign_ray.survey.reading import read_units, start_token
from ialign_ray.survey.texts import SurveyTexts

VERSION: Final = 1
"""Raised when the same settings and texts give other numbers."""
BROKEN: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass
class SurveyWork:
    """A model, the texts, and the folder in which each language's measures are stored."""

    texts: SurveyTexts
    limit: int
    """Units that the model reads in each language."""
    model: Any
    """Identity of the model and its precision (JSON): different ones never share a stored file."""
    folder: Path
    """Folder of the stored files, one per language."""
    load: Callable[[], tuple[Any, Any]]
    """Opens (model, tokenizer); called once, and only if a language is missing."""
    layer: Layer = "middle"
    """Layer whose hidden states are averaged."""
    batch_tokens: int = 2048
    """Tokens of one forward pass, padding included; no number depends on it."""
    _opened: tuple[Any, Any] | None = field(default=None, repr=False)

    def path(self, code: str) -> Path:
        """File of a language's measures: named by everything that they depend on."""
        own, chosen = self.texts.units[code], self.texts.chosen(code, self.limit)
        key = json_hash([VERSION, self.model, self.layer, self._pivot_hash, own, chosen])
        return self.folder / f"{code}-{key[:16]}.parquet"

    @cached_property
    def _pivot_hash(self) -> str:
        return json_hash(self.texts.units[self.texts.pivot])

    def missing(self) -> list[str]:
        """Languages that are not stored yet, the pivot first."""
        return [code for code in self.texts.units if not self.path(code).exists()]

    def read_count(self, code: str) -> int:
        """Number of units that the model reads in a language."""
        return len(self.texts.chosen(code, self.limit))

    def stored(self, code: str) -> pd.DataFrame:
        """The measures of a language; see `measure`."""
        return pd.read_parquet(self.path(code))

    def measure(self, code: str) -> None:
        """Measure a language and store it: one row per unit.

        Columns: unit, tokens, words (missing without spaces between words), characters, bytes, broken (tokens that are
        part of a character, such as single bytes), unknown; for the units that the model reads also nats, vector and
        surface_rank (of the right translation among the units' pivot texts, by character n-grams).
        """
        if self._opened is None:
            self._opened = self.load()
        model, tokenizer = self._opened
        units = self.texts.units[code]
        ids = tokenizer(list(units.values()), add_special_tokens=False, verbose=False)["input_ids"]
        rows = pd.DataFrame({"unit": list(units), "tokens": [len(i) for i in ids]})
        rows["words"] = [len(text.split()) if has_spaces(code) else None for text in units.values()]
        rows["characters"] = [len(text) for text in units.values()]
        rows["bytes"] = [len(text.encode()) for text in units.values()]
        rows["broken"] = [sum(self._is_broken(tokenizer, i) for i in text) for text in ids]
        rows["unknown"] = [sum(i == tokenizer.unk_token_id for i in text) for text in ids]
        rows = rows.set_index("unit")
        chosen = self.texts.chosen(code, self.limit)
        of = dict(zip(units, ids, strict=True))
        found = read_units(
            model,
            [of[unit] for unit in chosen],
            start_token(tokenizer),
            layer=self.layer,
            batch_tokens=self.batch_tokens,
        )
        read = pd.DataFrame({"nats": found.nats, "vector": list(found.vectors)}, index=chosen)
        read["surface_rank"] = self._surface(code, chosen)
        write_bytes(self.path(code), rows.join(read).reset_index(names="unit").to_parquet(compression="zstd"))

    def _surface(self, code: str, chosen: Sequence[str]) -> list[int]:
        pivot = self.texts.units[self.texts.pivot]
        ranks = surface_ranks([self.texts.units[code][u] for u in chosen], [pivot[u] for u in chosen])
        return [int(rank) for rank in ranks]

    @cached_property
    def _broken(self) -> dict[int, bool]:
        return {}

    def _is_broken(self, tokenizer: Any, token: int) -> bool:
        if token not in self._broken:
            self._broken[token] = BROKEN in tokenizer.decode([token])
        return self._broken[token]
