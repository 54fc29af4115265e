"""The report's page: verdict first, then what it rests on. One file, no network, whatever the texts hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ialign_ray.config import Experiment, dump_yaml
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.registry import METRICS, in_words
from ialign_ray.evaluation.report import page_charts, page_history
from ialign_ray.evaluation.report.contexts import NO_CONTEXTS
from ialign_ray.evaluation.report.declared import MARK, declared, declared_note
from ialign_ray.evaluation.report.every_eval_ever import NOT_PUBLISHED
from ialign_ray.evaluation.report.inputs import ReportInputs
from ialign_ray.evaluation.report.overview_tables import NOTE, overview_rows
from ialign_ray.evaluation.report.page_examples import suite_texts, worst_examples
from ialign_ray.evaluation.report.tables import row_order
from ialign_ray.evaluation.results.analysis import BASE, Analysis
from ialign_ray.evaluation.rules import UNMEASURED
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, label_names
from ialign_ray.pages import themed
from ialign_ray.pages.charts import Figure, colours


def render_page(
    material: ReportInputs,
    analysis: Analysis,
    tasks: pd.DataFrame,
    hints: Mapping[str, Any] | None = None,
    published: pd.DataFrame = NOT_PUBLISHED,
    contexts: pd.DataFrame = NO_CONTEXTS,
) -> str:
    """The page as HTML. Scripts run by their hash alone: none that came with a text can run.

    `tasks` as from `harness.run_tasks`, or empty; `hints` has the `text` and `rows` of a table of membership hints;
    `published` as from `every_eval_ever.read_published`, `contexts` as from `contexts.context_table`.
    """
    experiment, folders = material.experiment, material.folders
    texts, untold = suite_texts(experiment)
    before = material.runs.get(analysis.reference, [])
    examples = {arm: worst_examples(experiment, material.runs[arm], before, texts) for arm in analysis.arms}
    environment = themed("ialign_ray.evaluation.report")
    environment.filters |= {"signed": signed, "plain": plain, "p": p_text, "percent": percent}
    return environment.get_template("page.html.j2").render(
        experiment=experiment,
        a=analysis,
        seeds={run: len(seeds) for run, seeds in material.runs.items()},
        in_words=in_words,
        groups=experiment.languages.groups(),
        heat=heat_maps(experiment, analysis.languages),
        scores=group_scores(experiment, analysis.results, published),
        published=published.to_dict("records"),
        contexts=contexts.to_dict("records"),
        prompts=prompt_rows(experiment, analysis.results),
        charts=_charts(experiment, analysis, folders),
        data=page_history.data_counts(folders),
        sources=page_history.source_shares(folders),
        drops=page_history.cleaning_drops(folders),
        differing=page_history.differences(folders),
        tasks=tasks.to_dict("records"),
        overview=overview_rows(analysis.overview, languages=True),
        overview_note=NOTE,
        hints=hints or {"rows": []},
        declared={suite: declared_note(suite, found) for suite, found in declared(experiment).items()},
        mark=MARK,
        run_warnings=page_history.warnings(folders),
        examples={arm: found for arm, found in examples.items() if found},
        notes=[*material.notes, *analysis.notes, *untold],
        configuration=dump_yaml(experiment),
    )


def heat_maps(experiment: Experiment, languages: pd.DataFrame) -> list[dict[str, Any]]:
    """One for each suite."""
    groups = experiment.languages.groups()
    return [heat_map(suite, part, groups) for suite, part in languages.groupby("suite", sort=False)]


def heat_map(suite: object, part: pd.DataFrame, groups: Mapping[str, str]) -> dict[str, Any]:
    """Change over base per language (row) and run (column), its colour and its significance after Holm."""
    strongest = max(float(part["value"].abs().max()), 1e-9)
    runs = row_order(part["run"].unique())
    cells = {(row["language"], row["run"]): _heat_cell(row, strongest) for row in part.to_dict("records")}
    metric = str(part["metric"].iloc[0])
    return {"suite": str(suite), "metric": in_words(metric), "runs": runs, "cells": cells} | {
        "languages": sorted(part["language"].unique(), key=lambda code: (groups.get(code, ""), code)),
        "n": int(part["n"].max()),
    }


def _heat_cell(row: Mapping[Any, Any], strongest: float) -> dict[str, Any]:
    return {
        "value": row["value"],
        "tone": "gain" if row["value"] > 0 else "loss",
        "strength": round(70 * min(1.0, abs(row["value"]) / strongest)),
        "sure": bool(row["p_holm"] < 0.05) and row["luck"] != UNMEASURED,
        "said": f"{row['language']}, {row['run']}: {signed(row['value'])} [{signed(row['low'])}, "
        f"{signed(row['high'])}], n = {row['n']}, p after Holm {p_text(row['p_holm'])}",
    }


def group_scores(
    experiment: Experiment, results: pd.DataFrame, published: pd.DataFrame = NOT_PUBLISHED
) -> list[dict[str, Any]]:
    """Scores of each suite's main metric: one row per run, then one per published model; one column per group.

    A published score (`every_eval_ever.PUBLISHED`) is that of a suite's group if its evaluation is called SUITE/GROUP,
    or SUITE for all languages, and its metric as ours.
    """
    found = []
    for suite in experiment.evaluate.suites:
        kind = SUITES[suite.kind]
        metric = kind.chief(suite)
        part = _chief(results, suite.name, metric, kind.scored(experiment.evaluate.scorer))
        scopes = sorted(s for s in part["scope"].unique() if s.startswith("group:")) or ["all"]
        cells = {(row["run"], row["scope"]): row for row in part.to_dict("records")}
        if not cells:
            continue
        title = METRICS[metric].title
        of_metric = published[published["metric"].str.casefold().isin([metric.casefold(), title.casefold()])]
        others: dict[str, None] = {}
        for row in of_metric.to_dict("records"):
            scope = {f"{suite.name}/{s.removeprefix('group:')}": s for s in scopes} | {suite.name: "all"}
            place = scope.get(row["evaluation"])
            if place in scopes:
                name = f"{row['model']} ({row['source']})"
                others[name] = None
                cells[name, place] = {key: math.nan if pd.isna(value) else value for key, value in row.items()}
        runs = row_order(part["run"].unique())
        of = {"suite": suite.name, "title": title, "runs": [*runs, *others], "scopes": scopes, "cells": cells}
        found.append(of | {"baselines": (*BASELINES, *others)})
    return found


def prompt_rows(experiment: Experiment, results: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean over prompts with the spread, by suite, group and run, where there are several prompts."""
    rows: list[dict[str, Any]] = []
    for suite in experiment.evaluate.suites:
        kind = SUITES[suite.kind]
        part = _chief(results, suite.name, kind.chief(suite), kind.scored(experiment.evaluate.scorer))
        if "prompts" in part.columns:
            several = part[(part["prompts"] > 1) & part["scope"].str.startswith("group:")]
            rows += [{str(k): v for k, v in row.items()} for row in several.sort_values("scope").to_dict("records")]
    return rows


def _chief(results: pd.DataFrame, suite: str, metric: str, scorer: str) -> pd.DataFrame:
    chosen = (results["suite"] == suite) & (results["prompt"] == "all")
    return results[chosen & (results["metric"] == metric) & (results["scorer"] == scorer)]


def _charts(experiment: Experiment, analysis: Analysis, folders: page_history.Folders) -> dict[str, list[Any]]:
    """Section -> its charts."""
    trained = _trained(analysis)
    return {
        "runs": [(colour, run) for run, colour in colours(trained).items()],
        "tradeoff": _tradeoffs(analysis),
        "transfer": _transfers(analysis),
        "loss": page_charts.curves(page_history.loss_curves(folders), trained),
        "validation": page_charts.curves(page_history.validation_curves(folders), trained),
        "shares": _shares(experiment, analysis.results),
    }


def _trained(analysis: Analysis) -> list[str]:
    """Runs in the order of their colours."""
    runs = row_order(analysis.results["run"].unique())
    return [run for run in runs if run not in (*BASELINES, BASE)]


def _tradeoffs(analysis: Analysis) -> list[Figure]:
    kept = {r.run: r for r in analysis.retention}
    found = []
    for suite, part in analysis.groups[analysis.groups["of"] != "L1"].groupby("suite", sort=False):
        rows = [_point(row, kept[row["run"]].change) for row in part.to_dict("records") if row["run"] in kept]
        if rows:
            metric = str(part["metric"].iloc[0])
            first = next(iter(kept.values()))
            gain = f"{in_words(metric)} over {analysis.reference}"
            caption = (
                "Up is gain, right is more kept; bars are 95 % intervals. Right of the dashed line the loss is within "
                "the tolerance; a run is good if its whole cross is above zero and right of that line. "
                f"Old work: {first.what}. n = {int(part['n'].max()):,} sentences."
            )
            words = {"title": str(suite), "caption": caption, "kept": "change over base"}
            found.append(
                page_charts.gain_against_forgetting(
                    pd.DataFrame(rows), first.tolerance, gain, _trained(analysis), words
                )
            )
    return found


def _point(row: Mapping[Any, Any], kept: Any) -> dict[str, Any]:
    said = (
        f"{row['run']}, {row['of']}: gain {signed(row['value'])} [{signed(row['low'])}, {signed(row['high'])}], "
        f"old work {signed(kept.value)} [{signed(kept.low)}, {signed(kept.high)}], n = {row['n']}"
    )
    of_y = {"y": row["value"], "y_low": row["low"], "y_high": row["high"]}
    of_x = {"x": kept.value, "x_low": kept.low, "x_high": kept.high}
    return {"run": row["run"], "group": row["of"], "said": said} | of_x | of_y


def _transfers(analysis: Analysis) -> list[Figure]:
    found = []
    for suite, correlation in analysis.correlations.items():
        wide = analysis.gains[analysis.gains["suite"] == suite].pivot_table(
            index=["run", "seed"], columns="group", values="gain"
        )
        caption = (
            "A point is one trained run (an arm's seed). If points rise together, runs that gain on L2 gain on L3 "
            f"too; this is a correlation over runs, not proof of a cause: {correlation}."
        )
        gains = wide[["L2", "L3"]].dropna().reset_index()
        found.append(page_charts.transfer(gains, _trained(analysis), str(suite), caption))
    return found


def _shares(experiment: Experiment, results: pd.DataFrame) -> list[dict[str, Any]]:
    found = []
    for suite in experiment.evaluate.suites:
        if not (labels := label_names(suite)):
            continue
        part = results[
            (results["suite"] == suite.name)
            & (results["prompt"] == "all")
            & (results["scorer"] == experiment.evaluate.scorer)
            & results["metric"].str.startswith("share_")
            & results["scope"].str.startswith("language:")
            & ~results["run"].isin(BASELINES)
        ]
        rows = [
            {"run": r["run"], "language": r["scope"].partition(":")[2], "share": r["value"]}
            | {"label": labels[int(r["metric"].removeprefix("share_"))]}
            for r in part.to_dict("records")
        ]
        labels = labels[: len(part["metric"].unique())]  # a suite may have more letters than options
        if rows:
            languages = page_charts.label_shares(pd.DataFrame(rows), labels, row_order(part["run"].unique()))
            of = {"name": suite.name, "n": int(part["n"].max()), "languages": languages}
            found.append(of | {"key": [(colour, label) for label, colour in colours(labels).items()]})
    return found


def signed(value: float) -> str:
    """A change with its sign; a dash for NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:+.3f}"


def plain(value: float) -> str:
    """A score; a dash for NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def p_text(value: float) -> str:
    """A p of two figures; a dash for NaN."""
    return "–" if value is None or math.isnan(value) else f"{value:.2g}"


def percent(value: float) -> str:
    """A share with one decimal; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.1%}"
