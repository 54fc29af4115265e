"""Scores of a run in the metadata of its model card, as the Hub shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from ialign_ray.config import Experiment
from ialign_ray.evaluation.metrics.registry import METRICS
from ialign_ray.evaluation.report.declared import MARK, declared, declared_note
from ialign_ray.evaluation.scoring.suite_kinds import SUITES

_TASKS: Final = {"classification": "text-classification", "translation": "translation"}
"""Kind of a suite -> task of the Hub; other kinds are `text-generation`."""


def add_scores(card: Path, results: pd.DataFrame, experiment: Experiment, run: str) -> int:
    """Add a run's chief score of each suite and language to a model card's metadata; return their number.

    `results` is the table of its report. Each has its interval, rows and training seeds, and the card's text stays.
    """
    from huggingface_hub import EvalResult, ModelCard

    found, known = [], declared(experiment)
    for suite in experiment.evaluate.suites:
        kind = SUITES[suite.kind]
        metric = kind.chief(suite)
        own = results[(results["run"] == run) & (results["suite"] == suite.name) & (results["metric"] == metric)]
        own = own[own["scorer"] == kind.scored(experiment.evaluate.scorer)]
        averaged = own[own["prompt"] == "all"]
        for row in (own if averaged.empty else averaged).to_dict("records"):
            if not str(row["scope"]).startswith("language:"):
                continue
            found.append(
                EvalResult(
                    task_type=_TASKS.get(suite.kind, "text-generation"),
                    dataset_type=getattr(suite, "hub", None) or suite.name,
                    dataset_name=f"{suite.name} {MARK}" if suite.name in known else suite.name,
                    dataset_config=str(row["scope"]).removeprefix("language:"),
                    metric_type=metric,
                    metric_name=METRICS[metric].title if metric in METRICS else metric,
                    metric_value=round(float(row["value"]), 6),
                    metric_args={key: round(float(row[key]), 6) for key in ("low", "high")}
                    | {"n": int(row["n"]), "seeds": int(row["seeds"]), "prompt": str(row["prompt"])}
                    | ({"trained_on": declared_note(suite.name, known[suite.name])} if suite.name in known else {}),
                )
            )
    if found:
        page = ModelCard.load(card)
        page.data.model_name = f"{experiment.name}: {run}"
        page.data.eval_results = found
        page.save(card)
    return len(found)
