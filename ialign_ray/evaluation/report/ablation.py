"""The ablation table: one row per setting, with intervals, what each gains on its own control, and label shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment, Suite
from ialign_ray.evaluation.metrics.registry import lower_is_better
from ialign_ray.evaluation.report.declared import declared, declared_notes, marked
from ialign_ray.evaluation.report.inputs import gather
from ialign_ray.evaluation.report.tables import Column, table
from ialign_ray.evaluation.report.write import write_page
from ialign_ray.evaluation.results.analysis import CONTROL, RunFrames, analyse
from ialign_ray.evaluation.results.cells import Measured
from ialign_ray.evaluation.results.summary import compare
from ialign_ray.evaluation.rules import UNMEASURED
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, label_names
from ialign_ray.pages import markdown_table
from ialign_ray.storage import write_text

PAGES = "ablation"
"""Folder of the page and its material, next to those of `ialign compare`."""


@dataclass(frozen=True)
class AblationRow:
    """A setting with the predictions of its seeds."""

    name: str
    control: str | None
    """The row it is measured against."""
    seeds: Sequence[RunFrames]
    folders: Sequence[Path] = ()
    """Run folders of its training seeds."""


def write_ablation(
    experiment: Experiment,
    rows: Sequence[AblationRow],
    folder: Path,
    console: Console,
    warnings: Sequence[str] = (),
) -> Path:
    """Print the tables; write ABLATION.md, ablation.csv and ablation_differences.csv; returns the first.

    Where all settings share one control, `folder`/ablation holds the report of all of them as well.
    """
    made = folder / PAGES
    folders = {row.name: row.folders for row in rows if row.folders}
    material = gather(experiment, {row.name: row.seeds for row in rows}, made, folders, warnings)
    analysis = analyse(experiment, material.runs, material.baselines)
    results, differences = analysis.results, against_controls(rows, analysis.measured, experiment.evaluate.seed_spread)
    parts = [f"# {experiment.name}: ablation\n", _about(experiment, rows)]
    for warning in warnings:
        console.print(f"- {warning}", highlight=False, soft_wrap=True, markup=False)
        parts.append(f"{warning}.\n")
    known = declared(experiment)
    parts += [f"{note}\n" for note in declared_notes(experiment)]
    for suite in experiment.evaluate.suites:
        of_suite = results[results["suite"] == suite.name]
        for title, chosen in _tables(experiment, suite, of_suite):
            text, printed = table(of_suite, marked(chosen, known))
            if title == "scores":  # shares are too many columns for a terminal
                console.print(printed)
            parts.append(f"## {suite.name}: {title}\n\n{text}")
            if title == "scores" and len(differences):
                parts.append(f"Against the control of equal steps and seeds:\n\n{_gains(differences, chosen)}")
    write_text(folder / "ABLATION.md", "\n".join(parts))
    write_text(folder / "ablation.csv", results.to_csv(index=False))
    write_text(folder / "ablation_differences.csv", differences.to_csv(index=False))
    if {row.control for row in rows} == {None, CONTROL}:  # a page measures every arm against one control
        write_page(material, analysis, made, console, pd.DataFrame())
    return folder / "ABLATION.md"


def against_controls(
    rows: Sequence[AblationRow],
    measured: Mapping[str, Measured],
    seed_spread: float | dict[str, float] | None = None,
) -> pd.DataFrame:
    """Paired differences of each setting with its own control, columns of `results.compare`."""
    pairs = [(row.name, row.control) for row in rows if row.control in measured]
    frames = [
        compare(name, measured[name], str(control), measured[str(control)], seed_spread=seed_spread)
        for name, control in pairs
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _tables(experiment: Experiment, suite: Suite, results: pd.DataFrame) -> list[tuple[str, list[Column]]]:
    """Title and columns of the tables of one suite: the scores its kind shows, and the shares of predicted labels."""
    scopes = sorted({scope for scope in results["scope"] if scope.startswith("group:")}) or ["all"]
    scorer = SUITES[suite.kind].scored(experiment.evaluate.scorer)
    shown = [
        Column(f"{title} {scope.removeprefix('group:')}", suite.name, scope, metric, scorer)
        for metric, title in SUITES[suite.kind].titles(suite.named_metrics).items()
        for scope in scopes
    ]
    shares = [
        Column(f"{label} {scope.removeprefix('group:')}", suite.name, scope, f"share_{number}", scorer)
        for scope in scopes
        for number, label in enumerate(label_names(suite))
    ]
    known = set(results["metric"])
    tables = [("scores", shown), ("shares of predicted labels", shares)]
    return [(title, kept) for title, of in tables if (kept := [column for column in of if column.metric in known])]


def _gains(differences: pd.DataFrame, columns: Sequence[Column]) -> str:
    rows = [
        [str(run), str(against), *(_gain(part, column) for column in columns)]
        for (run, against), part in differences.groupby(["run", "against"], sort=False)
    ]
    return markdown_table(["setting", "control", *(c.title for c in columns)], rows, texts=2)


def _gain(part: pd.DataFrame, column: Column) -> str:
    found = part[(part["prompt"] == "all") & (part["suite"] == column.suite) & (part["scope"] == column.scope)]
    found = found[(found["metric"] == column.metric) & (found["scorer"] == column.scorer)]
    if found.empty:
        return "–"
    value, low, high = (float(found[name].iloc[0]) for name in ("value", "low", "high"))
    text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    better = high < 0 if lower_is_better(column.metric) else low > 0
    return f"**{text}**" if better and not np.isnan(low) and found["luck"].iloc[0] != UNMEASURED else text


def _about(experiment: Experiment, rows: Sequence[AblationRow]) -> str:
    axes = "; ".join(f"`{field}`" for field in experiment.ablate.axes)
    varied = "one at a time" if experiment.ablate.one_at_a_time else "in every combination"
    seeds = max(len(row.seeds) for row in rows)
    known = seeds > 1 or experiment.evaluate.seed_spread is not None
    luck = "with the luck of training" if known else "without the luck of training, which one seed cannot measure"
    return (
        f"Varied {varied}: {axes}; `reference` is the experiment without changes. {seeds} training seed"
        f"{'s' if seeds > 1 else ''}, {experiment.train.steps} steps of {experiment.train.batch_size}. Values with "
        f"95 % intervals over sentences, seeds pooled; differences {luck}; label scores: {experiment.evaluate.scorer}. "
        "Bold: better than the control beyond the interval, luck included.\n"
    )
