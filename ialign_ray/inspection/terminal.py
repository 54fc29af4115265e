"""A report on a terminal or in a log. Invisible and control characters are printed as their code points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from ialign_ray.inspection.flagged import Dropped, FlaggedRow
from ialign_ray.inspection.lengths import Histogram, bar_width
from ialign_ray.inspection.prompts import Rendered, Tokens
from ialign_ray.inspection.report import CorpusReport, Report, StepTable
from ialign_ray.inspection.rows import visible
from ialign_ray.inspection.tokenizer_fit import Fitness
from ialign_ray.terminal import BlockTable

_BARS = " ▁▂▃▄▅▆▇█"
SHOWN = 600
"""Characters of a text that are printed at most; the page holds more."""
LEARNED = 16
"""Lines of learned statistics that are printed at most."""
FLAGGED = 5
"""Suspicious rows that are printed per corpus; the page holds more."""


def show_counts(console: Console, tables: Iterable[StepTable], learned: Sequence[str]) -> None:
    """Print the counts of every corpus and the learned statistics."""
    for table in tables:
        console.print(counts_table(table))
        for line in remarks(table):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if learned:
        console.print("Learned from the data:", highlight=False)
    for line in learned[:LEARNED]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if len(learned) > LEARNED:
        console.print(f"  and {len(learned) - LEARNED:,} more, in counts.json and on the page", highlight=False)


def show_report(console: Console, report: Report) -> None:
    """Print a short form of the page: fewer suspicious rows, and the prompts of one direction per task."""
    show_counts(console, (corpus_report.steps for corpus_report in report.corpora), report.learned)
    for corpus_report in report.corpora:
        console.print(lengths_table(corpus_report))
        _show_dropped(console, corpus_report)
        _show_flagged(console, corpus_report)
    if report.tokens:
        _show_tokens(console, report.tokens)


def counts_table(steps: StepTable) -> BlockTable:
    """One row per language, one column per step."""
    names = ["read", *(step.replace("_", " ") for step in steps.steps), "kept", *steps.splits]
    lines = []
    for code in steps.languages:
        cells = [step_cell(steps, step, code) for step in steps.steps]
        splits = [f"{steps.texts(split, code):,}" for split in steps.splits]
        lines.append([code, f"{steps.read(code):,}", *cells, f"{steps.kept(code):,}", *splits])
    rows = [f"{steps.rows(split):,}" for split in steps.splits]
    lost = [f"-{n:,}" if (n := steps.counts["dropped_rows"].get(s, 0)) else "0" for s in steps.steps]
    lines.append(["rows", f"{steps.counts['rows_in']:,}", *lost, f"{steps.all_rows:,}", *rows])
    return BlockTable(["texts", *names], lines, f"\n{steps.corpus}: texts per language", total=True)


def step_cell(steps: StepTable, step: str, code: str) -> str:
    """`-5 ~12`: five dropped, twelve changed."""
    dropped, changed = steps.dropped(step, code), steps.changed(step, code)
    return " ".join([f"-{dropped:,}"] * bool(dropped) + [f"~{changed:,}"] * bool(changed)) or "0"


def remarks(steps: StepTable) -> list[str]:
    """Lines that complete the table."""
    said = ["-n dropped, ~n changed; a row is dropped when no pair of it is left."]
    if steps.idle:
        said.append(f"Nothing dropped or changed by: {', '.join(steps.idle)}.")
    if steps.leaked_from:
        named = ", ".join(f"{n:,} of {origin}" for origin, n in steps.leaked_from.items())
        said.append(f"Rows with an evaluation sentence: {named}.")
    if steps.counts["unreadable"]:
        said.append(f"{steps.counts['unreadable']:,} rows could not be read.")
    if left_out := steps.counts.get("left_out"):  # older corpora have no such counts
        reasons = ", ".join(f"{rows:,} {reason}" for reason, rows in left_out.items())
        said.append(f"Left out by the state that the file gives them: {reasons}.")
    if not steps.all_rows:
        said.append("Nothing is left of this corpus.")
    elif steps.empty:
        said.append(f"No text is left in: {', '.join(steps.empty)}.")
    return said


def lengths_table(corpus_report: CorpusReport) -> BlockTable:
    """Characters per text, with a histogram per language."""
    histograms = corpus_report.lengths.texts
    width, count = bar_width(list(histograms.values()))
    title = f"{corpus_report.steps.corpus}: characters per text ({width} per bar; the last bar holds all longer texts)"
    rows = []
    for code, histogram in histograms.items():
        numbers = [f"{histogram.percentile(p):,}" if histogram.n else "-" for p in (50, 90, 99, 100)]
        rows.append([code, sparks(histogram, width, count), f"{histogram.n:,}", *numbers])
    return BlockTable(["language", "histogram", "n", "median", "90%", "99%", "longest"], rows, f"\n{title}")


def sparks(histogram: Histogram, width: int, count: int) -> str:
    """A histogram as one line of bars; a bar that is not empty can be seen."""
    bars = histogram.bars(width, count)
    most = max([*bars, 1])
    return "".join(_BARS[-(-n * (len(_BARS) - 1) // most)] for n in bars)


def fitness_cells(f: Fitness) -> list[str]:
    """n, tokens per word or character, unknown share and lengths."""
    lengths = [f"{f.percentile(p):,}" for p in (50, 90, 99, 100)]
    return [
        f"{f.texts:,}",
        f"{f.fertility:.2f}{'' if f.unit == 'word' else ' per character'}",
        f"{f.unknown:.2%}",
        *lengths,
    ]


def share(part: int, whole: int) -> str:
    """`1.5% (3)`."""
    return f"{part / whole:.1%} ({part:,})" if part else "0"


def _show_dropped(console: Console, corpus_report: CorpusReport) -> None:
    for step, found in corpus_report.dropped.items():
        if found:
            total = sum(corpus_report.steps.counts["dropped"].get(step, {}).values())
            console.print(
                f"\n{corpus_report.steps.corpus}: {len(found)} of {total:,} texts dropped by {step}", style="bold"
            )
        for dropped in found:
            console.print(_dropped(dropped, corpus_report.steps))


def _show_flagged(console: Console, corpus_report: CorpusReport) -> None:
    if not (kept := corpus_report.steps.all_rows):
        return
    console.print(f"\n{corpus_report.steps.corpus}: the most suspicious of {kept:,} rows that were kept", style="bold")
    if not corpus_report.flagged:
        console.print("No row is suspicious by any measure.")
    for flagged_row in corpus_report.flagged[:FLAGGED]:
        console.print(_flagged_row(flagged_row, corpus_report.steps))


def _show_tokens(console: Console, tokens: Tokens) -> None:
    names = ["n", "tokens per word", "unknown", "median", "90%", "99%", "longest", "too long"]
    rows = [[code, *fitness_cells(fitness), f"{tokens.too_long(code):.1%}"] for code, fitness in tokens.fitness.items()]
    console.print(BlockTable(["language", *names], rows, f"\nTokens of {tokens.tokenizer}"))
    if tokens.missing:
        console.print(f"No training text in: {', '.join(tokens.missing)}.")
    for warning in tokens.warnings:
        console.print(Text("warning: ", style="bold yellow") + Text(warning))
    if tokens.rendered:
        console.print(_truncation(tokens))
    for some in _by_task(tokens).values():
        console.print(prompt_panel(some[0]))


def _truncation(tokens: Tokens) -> BlockTable:
    title = f"Rendered prompts, {tokens.max_prompt} tokens at most; targets, {tokens.max_target} at most"
    names = ["task", "n", "longest", "text shortened", "dropped as too long", "most touched"]
    rows = [[some[0].task, *_summed(some), _most_touched(some)] for some in _by_task(tokens).values()]
    return BlockTable(names, rows, f"\n{title}")


def _by_task(tokens: Tokens) -> dict[str, list[Rendered]]:
    found: dict[str, list[Rendered]] = {}
    for rendered in tokens.rendered:
        found.setdefault(rendered.task, []).append(rendered)
    return found


def _summed(some: Sequence[Rendered]) -> list[str]:
    n, longest = sum(r.n for r in some), max(r.percentile(100) for r in some)
    touched = (sum(r.shortened for r in some), sum(r.dropped for r in some))
    return [f"{n:,}", f"{longest:,}", *(share(part, n) for part in touched)]


def _most_touched(some: Sequence[Rendered]) -> str:
    worst = max(some, key=lambda r: (r.shortened + r.dropped) / r.n)
    touched = worst.shortened + worst.dropped
    return f"{worst.source} → {worst.target}: {share(touched, worst.n)}" if touched else ""


def prompt_panel(rendered: Rendered) -> Panel:
    """One prompt and its target."""
    example = rendered.example
    title = Text(f"{rendered.task} {rendered.source} → {rendered.target} ({example.template})")
    return Panel(Text(f"{visible(example.prompt)}\n\n→ {visible(example.target)}"), title=title)


def _dropped(dropped: Dropped, steps: StepTable) -> RenderableType:
    lines = [_side(dropped.language, dropped.text)]
    if dropped.pivot is not None:
        lines.append(_side("pivot", dropped.pivot))
    return Group(Text(f"  {steps.place(dropped.file, dropped.line)}  {visible(dropped.id)[:80]}", style="dim"), *lines)


def _flagged_row(flagged_row: FlaggedRow, steps: StepTable) -> RenderableType:
    head = f"  {steps.place(flagged_row.file, flagged_row.line)}  {visible(flagged_row.id)[:80]}"
    why = f"    anomaly {flagged_row.anomaly:.2f}: {'; '.join(flagged_row.reasons)}"
    sides = [_side(code, text) for code, text in zip((flagged_row.pivot, flagged_row.other), flagged_row.texts)]
    return Group(Text(head, style="dim"), Text(why, style="yellow"), *sides)


def _side(code: str, text: str) -> Text:
    return Text(f"    {code}: ", style="bold") + Text(clipped(text), style="not bold")


def clipped(text: str, limit: int = SHOWN) -> str:
    """The visible text, its end left out where it is long."""
    return visible(text[:limit]) + (f" … ({len(text):,} characters)" if len(text) > limit else "")
