"""Tables, verdict and page of an experiment: printed, and written next to its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from ialign_ray.config import ChoiceSuite, ClassificationSuite, Experiment, GenerationSuite, Suite
from ialign_ray.evaluation.report.contexts import NO_CONTEXTS, context_table, printed_contexts
from ialign_ray.evaluation.report.declared import declared, declared_note, declared_notes, marked
from ialign_ray.evaluation.report.every_eval_ever import NOT_PUBLISHED, read_published, write_every_eval_ever
from ialign_ray.evaluation.report.inputs import ReportInputs, find_material, gather, joined, load_material
from ialign_ray.evaluation.report.overview_tables import NOTE, overview_table
from ialign_ray.evaluation.report.tables import bias_table, suite_columns, table
from ialign_ray.evaluation.report.translations import generates, sample_translations
from ialign_ray.evaluation.results.analysis import Analysis, Runs, analyse
from ialign_ray.evaluation.results.fitted_baselines import fit_baselines
from ialign_ray.evaluation.results.verdict import Statement
from ialign_ray.evaluation.scoring.harness import read_tasks
from ialign_ray.evaluation.scoring.membership import read_membership
from ialign_ray.pages import markdown_table
from ialign_ray.storage import write_bytes, write_text
from ialign_ray.terminal import BlockTable, say

PAGE = "report.html"
TRAINED_ON = "trained on"
"""Outcome of a statement about rows of a suite that a run was trained on."""


def report(
    experiment: Experiment,
    runs: Runs,
    folder: Path,
    console: Console,
    folders: Mapping[str, Sequence[Path]] | None = None,
    warnings: Sequence[str] = (),
) -> list[Statement]:
    """Print table and verdict, and write them, every number and the page into `folder`.

    `folders`: run -> the folders of its training seeds, for curves and records; `warnings` come first in the verdict.
    """
    return write_report(gather(experiment, runs, folder, folders, warnings), folder, console)


def report_again(
    given: Sequence[Path],
    to: Path | None,
    console: Console,
    published: Sequence[Path] = (),
    share: tuple[Path, str] | None = None,
) -> Path:
    """Make the report of one or several finished comparisons again; returns the page's path.

    `published` are files of Every Eval Ever, whose scores are shown next to ours; `share` is a folder that gets ours in
    that format, and the name of the organization that made them.
    """
    others = read_published(published)  # first: a wrong file should not cost the minutes below
    found = {str(path): find_material(path) for path in given}
    loaded = {name: load_material(folder) for name, folder in found.items()}
    folder = to or next(iter(found.values()))
    material = joined(loaded)
    baselines, notes = fit_baselines(material.experiment, material.baselines, again=True)
    tasks = pd.concat([read_tasks(path) for path in found.values()], ignore_index=True).drop_duplicates()
    hints = pd.concat([read_membership(path) for path in found.values()], ignore_index=True).drop_duplicates()
    write_report(replace(material, baselines=baselines, notes=notes), folder, console, tasks, hints, others)
    if not others.empty:
        write_text(folder / "published.csv", others.to_csv(index=False))
        console.print(published_table(others))
    results = pd.read_parquet(folder / "results.parquet")
    for path in write_every_eval_ever(results, material.experiment, *share) if share else ():
        say(console, f"Every Eval Ever: {path}")
    return folder / PAGE


def published_table(scores: pd.DataFrame) -> BlockTable:
    """Published scores as they were given; an interval or a number of rows is often missing."""
    rows = []
    for row in scores.to_dict("records"):
        interval = f" [{row['low']:.4g}, {row['high']:.4g}]" if pd.notna(row["low"]) and pd.notna(row["high"]) else ""
        n = f"{row['n']:.0f}" if pd.notna(row["n"]) else "-"
        rows.append((row["model"], row["evaluation"], row["metric"], f"{row['value']:.4g}{interval}", n, row["source"]))
    return BlockTable(("published: model", "evaluation", "metric", "value", "n", "source"), rows)


def write_report(
    material: ReportInputs,
    folder: Path,
    console: Console,
    tasks: pd.DataFrame | None = None,
    hints: pd.DataFrame | None = None,
    published: pd.DataFrame = NOT_PUBLISHED,
) -> list[Statement]:
    """Analyse, print and write RESULTS.md, the CSV and parquet tables and the page, which shows `tasks` of the harness
    and `hints` of membership too (left out: those in `folder`), and `published` scores next to ours."""
    hints = read_membership(folder) if hints is None else hints
    analysis = analyse(material.experiment, material.runs, material.baselines)
    leaks = [Statement("", "warning", TRAINED_ON, f"{warning}.") for warning in material.warnings]
    leaks += [Statement("", "warning", TRAINED_ON, note) for note in declared_notes(material.experiment)]
    analysis = replace(analysis, statements=[*leaks, *analysis.statements])
    text, printed = _tables(material.experiment, material.runs, analysis.results)
    for shown in printed:
        console.print(shown)
    if overview := overview_table(analysis.overview):
        console.print(overview[1])
    contexts = context_table(material.experiment, analysis)
    if not contexts.empty:
        write_text(folder / "contexts.csv", contexts.to_csv(index=False))
        console.print(*printed_contexts(contexts), sep="\n")
    for statement in analysis.statements:
        console.print(f"- {statement.text}", highlight=False, soft_wrap=True)
    for line in sample_translations(material.experiment, material.runs):
        say(console, line)
    if len(hints):
        console.print(BlockTable(HINT_HEADER, hint_rows(hints)))
    write_text(folder / "RESULTS.md", _markdown(material, analysis, text, hints))
    write_page(
        material, analysis, folder, console, read_tasks(folder) if tasks is None else tasks, hints, published, contexts
    )
    return analysis.statements


HINT_HEADER = ["suite", "language", "AUC against fresh sentences [95 %]", "n", "fresh"]
HINTS = (
    "Min-K% Prob of the base (Shi et al. 2024) on each suite's texts against freshly written sentences of the same "
    "language: .5 if the texts surprise the model as much as sentences that it cannot have read. A higher AUC is a "
    "hint that it has read them, and not proof: other topics or an easier style raise it too."
)


def hint_rows(hints: pd.DataFrame) -> list[list[str]]:
    """Cells of the table of membership hints; an interval of too few texts is left out."""
    rows = []
    for row in hints.to_dict("records"):
        interval = f" [{row['low']:.3f}, {row['high']:.3f}]" if pd.notna(row["low"]) else " (too few rows)"
        rows.append([row["suite"], row["language"], f"{row['auc']:.3f}{interval}", str(row["n"]), str(row["fresh"])])
    return rows


def write_page(
    material: ReportInputs,
    analysis: Analysis,
    folder: Path,
    console: Console,
    tasks: pd.DataFrame,
    hints: pd.DataFrame | None = None,
    published: pd.DataFrame = NOT_PUBLISHED,
    contexts: pd.DataFrame = NO_CONTEXTS,
) -> None:
    """Write the CSV and parquet tables and the page; `tasks` as from `harness.run_tasks`, `hints` as from
    `membership.membership_table`, the others as of `render_page`, or empty."""
    from ialign_ray.evaluation.report.page import render_page  # altair and vl-convert: seconds of imports

    known = declared(material.experiment)
    for name, frame in numbers(analysis).items():
        if known and "suite" in frame.columns:
            frame = frame.assign(trained_on=frame["suite"].isin(list(known)))
        write_text(folder / f"{name}.csv", frame.to_csv(index=False))
        write_bytes(folder / f"{name}.parquet", frame.to_parquet(index=False))
    shown = [] if hints is None else hint_rows(hints)
    write_text(
        folder / PAGE, render_page(material, analysis, tasks, {"text": HINTS, "rows": shown}, published, contexts)
    )
    console.print(f"Report: {folder / PAGE}", soft_wrap=True, highlight=False)


def numbers(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """File name -> tidy table, for papers."""
    retention = pd.DataFrame(
        [
            {"run": r.run, "what": r.what, "value": r.change.value, "low": r.change.low, "high": r.change.high}
            | {"n": r.change.n, "tasks": r.tasks, "tolerance": r.tolerance, "outcome": outcome}
            for found in (analysis.backward, analysis.retention)
            for r in found
            for outcome in [r.outcome if found is analysis.retention else ""]
        ]
    )
    tables = {
        "results": analysis.results,
        "comparisons": analysis.comparisons,
        "languages": analysis.languages,
        "forgetting": analysis.old,
        "retention": retention,
        "transfer": analysis.gains,
        "mcnemar": analysis.mcnemar,
        "overview": analysis.overview,
    }
    always = ("results", "comparisons")
    return {name: frame for name, frame in tables.items() if name in always or not frame.empty}


def _tables(experiment: Experiment, runs: Runs, results: pd.DataFrame) -> tuple[str, list[object]]:
    markdown, printed = [], []
    known = declared(experiment)
    for suite in experiment.evaluate.suites:
        shown = suite_columns(suite, results, experiment.evaluate.scorer)
        part = results[results["suite"] == suite.name]
        if part.empty or not shown:
            continue
        text, rich_table = table(part, marked(shown, known))
        printed.append(rich_table)
        lines = [declared_note(suite.name, known[suite.name])] if suite.name in known else []
        notes = "".join(f"\n{line}\n" for line in [*lines, *generation_notes(suite, runs)])
        bias = f"\n{bias_table(suite, results)}" if isinstance(suite, ClassificationSuite | ChoiceSuite) else ""
        markdown.append(f"## {suite.name}\n\n{text}{bias}{notes}")
    return "\n".join(markdown), list(printed)


def _markdown(material: ReportInputs, analysis: Analysis, tables: str, hints: pd.DataFrame) -> str:
    experiment = material.experiment
    scored = (
        f"Scorer: {experiment.evaluate.scorer}; value [95 % interval over sentences, or over clusters of them]. The "
        "verdict is about recipes: its intervals hold the luck of training too."
    )
    said = "\n".join(f"- {s.text}" for s in analysis.statements)
    notes = "".join(f"- {note}\n" for note in (*material.notes, *analysis.notes))
    backward = "".join(f"- {r.run}: {r.numbers}\n" for r in analysis.backward)
    transfer = "".join(f"- {suite}: L2 and L3 gains over runs: {c}\n" for suite, c in analysis.correlations.items())
    overview = overview_table(analysis.overview)
    parts = {
        "Overview": f"{NOTE}\n\n{overview[0]}" if overview else "",
        "Verdict": said + "\n",
        "Backward transfer": backward,
        "Transfer": transfer,
        "Notes": notes,
    }
    if len(hints):
        parts["Membership hints"] = f"{HINTS}\n\n{markdown_table(HINT_HEADER, hint_rows(hints), texts=2)}"
    body = "".join(f"\n## {title}\n\n{lines}" for title, lines in parts.items() if lines)
    return f"# {experiment.name}\n\n{scored}\n\n{tables}{body}"


def generation_notes(suite: Suite, runs: Runs) -> list[str]:
    """sacrebleu's signatures and what could not be measured, of a suite that generates texts."""
    if not generates(suite):
        return []
    from ialign_ray.evaluation.metrics import generation, translation

    frame = next(iter(runs.values()))[0][suite.name]  # references and languages are the same for every run
    return generation.described(frame) if isinstance(suite, GenerationSuite) else translation.described(frame)
