"""Results in the exchange format Every Eval Ever (schema 0.3.0), and published results read from it.

One file holds the scores of one model. Each score has its interval, and the numbers of its rows and resamples.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from ialign_ray.config import Experiment, Suite
from ialign_ray.errors import DataError
from ialign_ray.evaluation.metrics.baselines import BASELINES
from ialign_ray.evaluation.metrics.registry import METRICS, lower_is_better
from ialign_ray.evaluation.report.declared import declared, declared_note, declared_notes
from ialign_ray.pocket import POCKET
from ialign_ray.storage import write_text
from ialign_ray.version import __version__

SCHEMA: Final = "0.3.0"
PUBLISHED: Final = ("model", "evaluation", "metric", "value", "low", "high", "n", "source")
"""Columns of a table of published scores."""
NOT_PUBLISHED: Final = pd.DataFrame(columns=list(PUBLISHED), dtype=object)
"""A table without any."""
Relationship = Literal["first_party", "third_party", "collaborative", "other"]


def write_every_eval_ever(
    results: pd.DataFrame,
    experiment: Experiment,
    folder: Path,
    organization: str,
    relationship: Relationship = "other",
    now: datetime | None = None,
) -> list[Path]:
    """Write one file for each model of a results table (`results.csv`), without the baselines; return their paths.

    `organization` made the evaluation, and `relationship` is its relationship to the makers of the model.
    """
    written = []
    for run, rows in results[~results["run"].isin(BASELINES)].groupby("run", sort=False):
        log = evaluation_log(rows, str(run), experiment, organization, relationship, now or datetime.now(UTC))
        path = folder / (re.sub(r"[^\w.-]+", "_", f"{experiment.name}-{run}") + ".json")
        write_text(path, json.dumps(log, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
        written.append(path)
    return written


def evaluation_log(
    rows: pd.DataFrame, run: str, experiment: Experiment, organization: str, relationship: Relationship, now: datetime
) -> dict[str, Any]:
    """The scores of one model as an object of the schema: averages over prompts, for each language, group and suite."""
    model = experiment.model
    local = Path(model.id).exists() or model.id.startswith(POCKET)
    base = Path(model.id).name if local else model.id  # a path of this machine says nothing elsewhere
    name = base if run == "base" else f"{base} + {experiment.name}/{run}"
    about = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown" if local or run != "base" else "open_weights",
        "revision": model.revision or "",
        "run": run,
        "declared_training_data": " ".join(declared_notes(experiment)),
        **({} if run == "base" else {"base_model": base, "tuning": model.tuning}),
    }
    suites = {suite.name: suite for suite in experiment.evaluate.suites}
    known = {suite: declared_note(suite, found) for suite, found in declared(experiment).items()}
    stamp = str(now.timestamp())
    chosen = rows[[_is_average(row, rows) for row in rows.to_dict("records")]]
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{experiment.name}/{name.replace('/', '_')}/{stamp}",
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": experiment.name,
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
        },
        "eval_library": {"name": "ialign_ray", "version": __version__},
        "model_info": {
            "name": name,
            "id": name,
            "inference_engine": {"name": "transformers"},
            "additional_details": {key: value for key, value in about.items() if value},
        },
        "evaluation_results": [
            _result(row, suites.get(str(row["suite"])), experiment.evaluate.resamples, known.get(str(row["suite"])))
            for row in chosen.to_dict("records")
            if math.isfinite(row["value"])
        ],
    }


def _is_average(row: Mapping[Any, Any], rows: pd.DataFrame) -> bool:
    """Return True for the average over prompts, or for the only prompt."""
    return row["prompt"] == "all" or not ((rows["suite"] == row["suite"]) & (rows["prompt"] == "all")).any()


def _result(
    row: Mapping[Any, Any], suite: Suite | None, resamples: int, contamination: str | None = None
) -> dict[str, Any]:
    metric = str(row["metric"])
    known = METRICS.get(metric)
    low, high = known.limits if known else (-math.inf, math.inf)
    # the schema has no place for a score without bounds, such as nats, but under no type
    bounded = math.isfinite(low) and math.isfinite(high)
    bounds = {"score_type": "continuous", "min_score": low, "max_score": high} if bounded else {}
    details = {"scorer": str(row["scorer"]), "prompt": str(row["prompt"]), "training_seeds": str(row["seeds"])}
    if contamination:
        details["contamination"] = contamination
    uncertainty: dict[str, Any] = {"num_samples": int(row["n"]), "num_bootstrap_samples": resamples}
    if math.isfinite(row["low"]) and math.isfinite(row["high"]):
        uncertainty["confidence_interval"] = {
            "lower": row["low"],
            "upper": row["high"],
            "confidence_level": 0.95,
            "method": "bootstrap over sentences, or over clusters of them",
        }
    scope = str(row["scope"]).partition(":")[2] or "all"
    return {
        "evaluation_result_id": "/".join(str(row[key]) for key in ("suite", "scope", "prompt", "scorer", "metric")),
        "evaluation_name": f"{row['suite']}/{scope}",
        "source_data": _source(str(row["suite"]), suite, int(row["n"])),
        "metric_config": {
            "metric_id": metric,
            "metric_name": known.title if known else metric,
            "lower_is_better": lower_is_better(metric),
            **bounds,
        },
        "score_details": {"score": row["value"], "details": details, "uncertainty": uncertainty},
    }


def _source(name: str, suite: Suite | None, n: int) -> dict[str, Any]:
    hub = getattr(suite, "hub", None)
    if not hub:
        return {"dataset_name": name, "source_type": "other"}
    return {"dataset_name": name, "source_type": "hf_dataset", "hf_repo": hub, "samples_number": n}


def read_published(files: Sequence[Path]) -> pd.DataFrame:
    """Scores of files in this format, of any origin (Inspect, HELM, leaderboards): columns `PUBLISHED`.

    Raises DataError for a file that is not of the format.
    """
    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            log = json.loads(file.read_text(encoding="utf-8"))
            source, model = log["source_metadata"], log["model_info"]
            for result in log["evaluation_results"]:
                details = result["score_details"]
                uncertainty = details.get("uncertainty") or {}
                interval = uncertainty.get("confidence_interval") or {}
                metric = result["metric_config"]
                rows.append(
                    {
                        "model": model.get("name") or model["id"],
                        "evaluation": result["evaluation_name"],
                        "metric": metric.get("metric_name") or metric.get("metric_id") or "score",
                        "value": float(details["score"]),
                        "low": interval.get("lower"),
                        "high": interval.get("upper"),
                        "n": uncertainty.get("num_samples"),
                        "source": source.get("source_name") or source["source_organization_name"],
                    }
                )
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror}; name a file of Every Eval Ever") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file} is not a file of Every Eval Ever ({type(error).__name__}: {error}); see its schema {SCHEMA}"
            ) from error
    return pd.DataFrame(rows, columns=list(PUBLISHED))
