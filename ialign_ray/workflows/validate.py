"""`ialign validate`: check, count and show everything, without a cluster or model weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from ialign_ray.config import Experiment, LmEvalSuite, Suite, SuiteSource
from ialign_ray.corpus.harness_tasks import leaf_tasks
from ialign_ray.evaluation.scoring.membership import membership_units
from ialign_ray.evaluation.scoring.suite_kinds import suite_units
from ialign_ray.inspection.tokenizer_fit import fitness, warnings
from ialign_ray.modeling.load import check_rank, model_shape, set_aside_warning
from ialign_ray.streaming.examples import encode_drawn
from ialign_ray.tasks.alignment import XSS
from ialign_ray.tasks.negatives import Pair
from ialign_ray.tasks.plan import Plan
from ialign_ray.tasks.render import Example
from ialign_ray.tasks.surface import FEWEST, Matching
from ialign_ray.terminal import BlockTable, say
from ialign_ray.training.objective import objective_of
from ialign_ray.training.prepare import Prepared, prepare

_REASONS = {
    "xss": "names, numbers or spelling would give the answer away; a larger corpus of longer texts has more alike",
    "mlm": "their sentences have one word",
    "tlm": "their sentences have one word",
}
OFTEN = 0.05
"""Share of a task's examples that may become another task without a warning."""


def validate(experiment: Experiment, console: Console) -> None:
    """Check an experiment and print mix counts and one rendered example per task."""
    prepared = prepare(experiment, console)
    membership_units(experiment, suite_units(experiment))
    if experiment.model.tuning == "lora":
        check_rank(model_shape(experiment.model), experiment.model.lora)
    console.print(data_table(prepared))
    console.print(mix_table(experiment, prepared))
    if experiment.evaluate.suites:
        console.print(suite_table(experiment))
    if XSS in prepared.plan.mix and not prepared.plan.matching and prepared.plan.ratio < 1:
        say(console, f"XSS: under {FEWEST} pairs per direction, so its surface was not matched and may reveal labels")
    if prepared.plan.matching:
        console.print(matching_table(prepared.plan.matching))
    if experiment.train.validation:
        console.print(held_out_line(prepared, experiment.train.validation.every), highlight=False)
    for warning in [
        *coverage(prepared, experiment.languages.l1),
        *fallback_warnings(prepared),
        *set_aside_warning(experiment.model),
    ]:
        console.print(f"[bold yellow]warning:[/] {escape(warning)}", highlight=False)
    for task, example in examples(prepared.plan).items():
        console.print(Panel(Text(f"{example.prompt}\n\n→ {example.target}"), title=f"{task} ({example.template})"))
    console.print(f"{experiment.name}: valid", highlight=False)


def coverage(prepared: Prepared, old: Sequence[str]) -> list[str]:
    """Warnings about languages that the tokenizer covers badly, from a sample of the training pairs."""
    pairs = prepared.plan.pairs
    texts: dict[str, list[str]] = {}
    for code in pc.unique(pairs["source_language"]).to_pylist():
        own = pairs.filter(pc.equal(pairs["source_language"], code))
        texts[code] = own["source"].unique().to_pylist()
    return warnings(fitness(prepared.encoder.tokenizer, texts), old)


def fallback_warnings(prepared: Prepared) -> list[str]:
    """Warnings about tasks whose examples often became another task."""
    warnings = []
    for task, (fallen, drawn) in prepared.fallbacks().items():
        if fallen / drawn > OFTEN:
            reason = _REASONS.get(task.partition("/")[0], "the task cannot use their sentences")
            warnings.append(
                f"{fallen} of {drawn} examples of {task} became translations ({fallen / drawn:.0%}): {reason}"
            )
    return warnings


def matching_table(matching: Matching) -> BlockTable:
    """Table of how well the surface of two sentences separates translations from mismatches, matched or not."""
    rows = [
        (direction, f"{own.auc:.2f}", f"{own.auc_used:.2f}", f"{own.used:.0%}")
        for direction, own in matching.directions.items()
    ]
    return BlockTable(("XSS", "AUC of the surface, all pairs", "used pairs", "pairs used"), rows)


def data_table(prepared: Prepared) -> BlockTable:
    """Table of rows read and dropped, per corpus and for replay."""
    header = ("data", "read", "incomplete", "cleaned", "leaked", "held out", "kept", "pairs", "too long")
    rows = []
    for name, c in prepared.parallel.counts.items():
        pairs = c.pairs - c.too_long - c.validation
        counts = (c.read, c.incomplete, c.cleaned, c.leaked, c.held_out, c.kept, pairs, c.too_long)
        rows.append((name, *map(str, counts)))
    r = prepared.replay
    kept = f"{r.pool} of {r.eligible}"
    of_replay = (r.read, r.empty, 0, r.leaked, r.validation, kept, "-", r.too_long)
    return BlockTable(header, [*rows, ("replay", *map(str, of_replay))])


def suite_table(experiment: Experiment) -> BlockTable:
    """Table of the suites, with the languages that each measures."""
    rows = [
        (suite.name, suite.kind, ", ".join(sorted(_languages(suite, experiment))) or "old tasks")
        for suite in experiment.evaluate.suites
    ]
    return BlockTable(("suite", "kind", "languages"), rows)


def _languages(suite: Suite, experiment: Experiment) -> set[str]:
    if isinstance(suite, LmEvalSuite):
        return {leaf.language for leaf in leaf_tasks(suite, experiment.languages.groups())}
    return suite.measured if isinstance(suite, SuiteSource) else set()


def held_out_line(prepared: Prepared, every: int) -> str:
    """Sentence about the examples and interval of validation."""
    counts = prepared.counts()["validation"]
    named = ", ".join(f"{source} {n}" for source, n in counts.items())
    return f"validation: {sum(counts.values())} held-out examples every {every} steps ({named})"


def mix_table(experiment: Experiment, prepared: Prepared) -> BlockTable:
    """Table with each source's share of the run's first examples, and of their loss."""
    total = experiment.train.steps * experiment.train.batch_size
    drawn = prepared.first[:total]
    counted = Counter(d.source for d in drawn)
    tokens: Counter[str] = Counter()
    for example in drawn:
        tokens[example.source] += encode_drawn(prepared.encoder, example).learned
    shares = objective_of(experiment.train).shares(counted, tokens)
    rows = [
        (source, str(count), f"{count / len(drawn):.1%}", f"{shares[source]:.1%}")
        for source, count in sorted(counted.items())
    ]
    header = ("source", f"of the first {len(drawn):,} examples of {total:,}", "share", "share of the loss")
    return BlockTable(header, rows)


def examples(plan: Plan) -> dict[str, Example]:
    """Return one rendered example per task of the mix, and one of replay."""
    shown = {}
    if plan.ratio < 1:
        tasks = [task for task, weight in plan.mix.items() if weight > 0]
        # spread over the pool, so that several languages are shown
        places = [k * plan.pairs.num_rows // len(tasks) for k in range(len(tasks))]
        for task, row in zip(tasks, plan.pairs.take(places).to_pylist(), strict=True):
            shown[task] = plan.align(Pair(**row), 0, task).example
    if plan.ratio > 0:
        drawn = (plan.draw(i) for i in range(100_000))
        shown |= {d.source: d.example for d in islice((d for d in drawn if d.source == "replay"), 1)}
    return shown
