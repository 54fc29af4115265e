"""The plan of a run, a folder that determines all its examples: example i is a pure function of it.

The folder travels with the run (workers on any node, a resumed driver and a later reader see the same
pools, templates and tokenizer), so nothing is read twice from the user's files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ialign_ray.corpus.identity import rng
from ialign_ray.corpus.pairs import PAIR_SCHEMA
from ialign_ray.storage import json_hash, read_json, whole_folder, write_json
from ialign_ray.tasks.alignment import XSS
from ialign_ray.tasks.mixture import Draw, Mixture
from ialign_ray.tasks.negatives import Negatives, Pair
from ialign_ray.tasks.render import Example, draw_task, render
from ialign_ray.tasks.surface import MATCHING_VERSION, Matching
from ialign_ray.tasks.templating import TemplateSet, template_set


@dataclass(frozen=True)
class Drawn:
    """Example number i before it becomes tokens."""

    row_id: str
    epoch: int
    source: str
    """`replay`, or task and new language: the key of the loss curves."""
    example: Example
    asked: str
    """The task that was drawn; the example has another if the pair could not be used for it."""


@dataclass(frozen=True)
class Plan:
    """The pools, the replay ratio, the task mix and the wording of one run."""

    seed: int
    ratio: float
    mix: dict[str, float]
    templates: Sequence[TemplateSet]
    names: dict[str, dict[str, str]]
    """Template language -> language code -> its name in that language."""
    old: frozenset[str]
    """L1 codes; curves are named after the other language of a pair."""
    pairs: pa.Table
    replay: pa.Table
    matching: Matching | None = None
    """Pairs that XSS uses; all of them in a mix without XSS, and in older plans."""

    @cached_property
    def mixture(self) -> Mixture:
        """The order in which rows are drawn."""
        return Mixture(self.seed, self.ratio, self.pairs.num_rows, self.replay.num_rows)

    @cached_property
    def _negatives(self) -> Negatives:
        sentences: dict[str, dict[str, str]] = {}
        for pair in self.pairs.to_pylist():
            for side in ("source", "target"):
                by_id = sentences.setdefault(pair[f"{side}_language"], {})
                by_id[_sentence(pair["row_id"])] = pair[side]
        return Negatives(sentences, self.matching)

    def matched(self, cache: Path) -> Plan:
        """The plan with the pairs that XSS uses, if the mix has it; they are learned once and stored in `cache`."""
        if XSS not in self.mix or self.ratio == 1:
            return self
        pairs = self.pairs.to_pylist()
        file = cache / f"{json_hash([MATCHING_VERSION, pairs])[:32]}.json"
        if not file.exists():
            found = self._negatives.learn_matching(Pair(**pair) for pair in pairs)
            write_json(file, found and found.plain())
        plain = read_json(file)
        return replace(self, matching=plain and Matching.of(plain))

    def draw(self, i: int) -> Drawn:
        """Example i of the run, a function of only (seed, epoch, row id)."""
        return self.at(self.mixture.draw(i))

    def at(self, place: Draw) -> Drawn:
        """The example at one place of the stream."""
        if place.replay:
            row = _row(self.replay, place.row)
            turns = tuple(json.loads(row.get("turns") or "[]"))
            example = Example(row["inputs"], row["targets"], (), "replay", row["source"], turns)
            return Drawn(row["row_id"], place.epoch, "replay", example, "replay")
        pair = Pair(**_row(self.pairs, place.row))
        return self.align(pair, place.epoch)

    def align(self, pair: Pair, epoch: int, task: str | None = None) -> Drawn:
        """One alignment example of a pair; its task is drawn from the mix unless given."""
        random = rng(self.seed, epoch, pair.row_id)
        drawn = draw_task(self.mix, random)
        example = render(
            task or drawn,
            pair,
            rng=random,
            templates=self.templates,
            names=lambda code, language: self.names[language][code],
            negatives=self._negatives,
        )
        new = pair.source_language if pair.target_language in self.old else pair.target_language
        return Drawn(pair.row_id, epoch, f"{example.task}/{new}", example, task or drawn)

    @classmethod
    def replay_only(cls, pool: pa.Table, seed: int) -> Plan:
        """A plan that draws only instructions."""
        return cls(seed, 1.0, {}, [], {}, frozenset(), PAIR_SCHEMA.empty_table(), pool)

    def save(self, folder: Path) -> None:
        """Write the plan as a whole folder."""
        with whole_folder(folder) as scratch:
            pq.write_table(self.pairs, scratch / "pairs.parquet", compression="zstd")
            pq.write_table(self.replay, scratch / "replay.parquet", compression="zstd")
            write_json(scratch / "plan.json", self._plain())
            if self.matching:
                write_json(scratch / "matching.json", self.matching.plain())

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read a plan that `save` wrote. Raises ConfigError for templates of a task that is not installed."""
        plain = read_json(folder / "plan.json")
        plain["templates"] = [template_set(t, f"templates of {folder}") for t in plain["templates"]]
        plain["old"] = frozenset(plain["old"])
        return cls(
            **plain,
            pairs=pq.read_table(folder / "pairs.parquet"),
            replay=pq.read_table(folder / "replay.parquet"),
            matching=Matching.of(read_json(matching)) if (matching := folder / "matching.json").exists() else None,
        )

    def _plain(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "ratio": self.ratio,
            "mix": self.mix,
            "templates": [t.model_dump(mode="json") for t in self.templates],
            "names": self.names,
            "old": sorted(self.old),
        }


def _row(table: pa.Table, index: int) -> dict[str, str]:
    return {name: table[name][index].as_py() for name in table.column_names}


def _sentence(row_id: str) -> str:
    return row_id.rpartition(":")[0]
