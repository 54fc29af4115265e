"""Report of `ialign data inspect` on a built corpus, before it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ialign_ray.config import CorpusConfig, Experiment
from ialign_ray.config.cleaning import ScriptStep
from ialign_ray.corpus.assemble import TRAIN
from ialign_ray.corpus.build import Built
from ialign_ray.corpus.cleaning.step import Scope
from ialign_ray.errors import ConfigError
from ialign_ray.inspection.flagged import Dropped, FlaggedRow, dropped, flagged
from ialign_ray.inspection.lengths import Lengths
from ialign_ray.inspection.prompts import Tokens, tokens
from ialign_ray.inspection.rows import batches, parts
from ialign_ray.languages import display_name
from ialign_ray.tokens.encode import Encoder


@dataclass(frozen=True)
class StepTable:
    """Counts of the texts of one corpus by step, one row per language."""

    corpus: str
    languages: list[str]
    steps: list[str]
    """Steps that dropped or changed something, in their order."""
    idle: list[str]
    """Steps that did neither."""
    counts: Mapping[str, Any]
    """Counts of the build."""
    leaked_from: Mapping[str, int] = field(default_factory=dict)
    """Suite or protected set -> rows dropped for a sentence of it."""

    @property
    def splits(self) -> list[str]:
        """Splits that hold rows; the training split is always named."""
        return list(dict.fromkeys([TRAIN, *self.counts["splits"]]))

    def read(self, code: str) -> int:
        """Texts of a language that were read."""
        return int(self.counts["cells_in"].get(code, 0))

    def dropped(self, step: str, code: str) -> int:
        """Texts that a step dropped."""
        return int(self.counts["dropped"].get(step, {}).get(code, 0))

    def changed(self, step: str, code: str) -> int:
        """Texts that a step changed."""
        return int(self.counts["changed"].get(step, {}).get(code, 0))

    def rows(self, split: str) -> int:
        """Rows of a split."""
        return int(self.counts["splits"].get(split, {}).get("rows", 0))

    @property
    def all_rows(self) -> int:
        """Rows of all splits."""
        return sum(self.rows(split) for split in self.splits)

    def texts(self, split: str, code: str) -> int:
        """Texts of a language in a split."""
        return int(self.counts["splits"].get(split, {}).get("texts", {}).get(code, 0))

    def kept(self, code: str) -> int:
        """Texts of a language in all splits."""
        return sum(self.texts(split, code) for split in self.splits)

    @property
    def empty(self) -> list[str]:
        """Languages of which no text is left."""
        return [code for code in self.languages if not self.kept(code)]

    def file(self, number: int) -> str:
        """Name of a file by its number, from 1."""
        files = self.counts["files"]
        return str(files[number - 1]) if 0 < number <= len(files) else f"file {number}"

    def place(self, file: int, line: int) -> str:
        """File and line of a row, as the user knows them."""
        return f"{self.file(file)}:{line}"


@dataclass(frozen=True)
class CorpusReport:
    """Findings in one corpus."""

    steps: StepTable
    lengths: Lengths
    dropped: dict[str, list[Dropped]]
    """Step -> examples."""
    flagged: list[FlaggedRow]


@dataclass(frozen=True)
class Report:
    """Everything about one built corpus."""

    built: Built
    name: str
    names: dict[str, str]
    """Language code -> English name."""
    corpora: list[CorpusReport]
    learned: list[str]
    tokens: Tokens | None
    """None if they were not requested."""

    @property
    def version(self) -> str:
        """The corpus' version."""
        return str(self.built.counts["version"])

    @property
    def warnings(self) -> list[str]:
        """Warnings of the build and of the tokenizer."""
        return [*self.built.counts["warnings"], *(self.tokens.warnings if self.tokens else [])]


def inspect(experiment: Experiment, built: Built, encoder: Encoder | None) -> Report:
    """Inspect a built corpus; tokens are left out without an encoder."""
    return Report(
        built,
        experiment.name,
        {code: english(experiment, code) for c in experiment.corpora for code in c.languages},
        [_corpus_report(experiment, corpus, built) for corpus in experiment.corpora],
        learned(built.counts["learned"]),
        tokens(experiment, built, encoder) if encoder else None,
    )


def step_table(experiment: Experiment, corpus: CorpusConfig, built: Built) -> StepTable:
    """The counts of one corpus in the order of its steps."""
    counts = built.counts["corpora"][corpus.name]
    order = [*(s.step for s in experiment.cleaning.steps), "leaks", "overlaps", "identity", "incomplete"]
    touched = {s for what in ("dropped", "changed") for s, cells in counts[what].items() if any(cells.values())}
    steps = [*(s for s in dict.fromkeys(order) if s in touched), *sorted(touched - set(order))]
    idle = [str(s.step) for s in experiment.cleaning.steps if s.step not in touched]
    leaked_from = built.counts.get("leaked_from", {}).get(corpus.name, {})
    return StepTable(corpus.name, corpus.languages, steps, idle, counts, leaked_from)


def learned(found: Mapping[str, Any]) -> list[str]:
    """One line for each thing that a step learned from the data."""
    return [line for step, values in found.items() for line in _LINES.get(step, _plain)(step, values)]


def english(experiment: Experiment, code: str) -> str:
    """English name of a language, or its code if no name is known."""
    try:
        return display_name(code, "eng", experiment.languages.names)
    except ConfigError:
        return code


def _corpus_report(experiment: Experiment, corpus: CorpusConfig, built: Built) -> CorpusReport:
    table, scope = step_table(experiment, corpus, built), Scope(corpus.languages, corpus.pivots)
    lengths = Lengths(scope)
    for batch in batches(parts(built, corpus.name)):
        lengths.add(batch)
    scripts = next((s.scripts for s in experiment.cleaning.steps if isinstance(s, ScriptStep)), {})
    return CorpusReport(
        table,
        lengths,
        dropped(built, corpus.name, table.steps),
        flagged(built, corpus.name, scope, lengths.usual(), scripts),
    )


def _ratio(step: str, values: Mapping[str, Any]) -> list[str]:
    return [
        f"{step}: {pair} has a median length ratio of {v['median']:.2f}; kept from {v['low']:.2f} to {v['high']:.2f} "
        f"(n = {v['n']:,} pairs)"
        if v["used"]
        else f"{step}: {pair} has too few pairs to learn from and is not checked (n = {v['n']:,})"
        for pair, v in values.items()
    ]


def _language(step: str, values: Mapping[str, Any]) -> list[str]:
    return [
        f"{step}: {code} recognised in {v['recognised']:.0%} of {v['n']:,} texts judged; "
        f"the check was {'used' if v['used'] else 'not used'}"
        for code, v in values.items()
    ]


def _duplicates(step: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{step}: {values['groups']:,} groups of equal rows; {values['dropped']:,} rows dropped, the first kept"]


def _near(step: str, values: Mapping[str, Any]) -> list[str]:
    return [
        f"{step}: {values['candidates']:,} candidate pairs compared, {values['verified']:,} alike enough; "
        f"{values['dropped']:,} rows dropped"
    ]


def _plain(step: str, values: Any) -> list[str]:
    return [f"{step}: {values}"]


_LINES: dict[str, Callable[[str, Any], list[str]]] = {
    "ratio": _ratio,
    "language": _language,
    "duplicates": _duplicates,
    "near_duplicates": _near,
}
