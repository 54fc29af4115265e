"""Suites as task files of lm-evaluation-harness: a YAML file and the rows as JSON Lines for each prompt and language.

The harness then asks the same prompts. Its `acc` ranks as our scorer `sum`, its `acc_norm` as `per_character`; it does
not calibrate, and asks the options of a row in one order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd
import yaml

from ialign_ray.config import Experiment
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.metrics.registry import PERPLEXITY
from ialign_ray.evaluation.scoring.choice_suites import ChoiceUnit
from ialign_ray.evaluation.scoring.prompted_suites import LabelUnit, LikelihoodUnit, TranslationUnit, Unit
from ialign_ray.evaluation.scoring.suite_kinds import ALONE, suite_units
from ialign_ray.storage import write_text

_BY_OPTIONS: Final = ("acc", "acc_norm")
_BY_LIKELIHOOD: Final = ("bits_per_byte", "byte_perplexity", "word_perplexity")
_BY_TEXT: Final = ("chrf", "bleu")


def export_tasks(experiment: Experiment, folder: Path, suites: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Write the task files of suites (all if none is named) into `folder`; return the groups' names, one per suite, and
    a note on each suite that cannot be written.

    Raises ConfigError for an unknown suite, DataError for one whose rows cannot be read.
    """
    config = experiment.evaluate
    known = [suite.name for suite in config.suites]
    if missing := [name for name in suites if name not in known]:
        raise ConfigError(f"--suite {missing[0]!r} is not in evaluate.suites; use one of {', '.join(known) or 'none'}")
    chosen = [suite for suite in config.suites if not suites or suite.name in suites]
    kinds = {suite.name: suite.kind for suite in chosen}
    separator = experiment.model.separator
    tasks: dict[str, list[str]] = {}
    metrics: dict[str, Sequence[str]] = {}
    only = experiment.model_copy(update={"evaluate": config.model_copy(update={"suites": chosen})})
    for unit in suite_units(only):
        for language, rows in unit.rows.groupby("language", sort=False):
            if made := _task(unit, kinds[unit.suite], rows.reset_index(drop=True), separator):
                settings, docs = made
                prompt = "" if unit.prompt == ALONE else f"_{unit.prompt}"
                name = _plain(f"{unit.suite}{prompt}_{language}")
                _write(folder, name, settings, docs)
                tasks.setdefault(unit.suite, []).append(name)
                metrics[unit.suite] = [one["metric"] for one in settings["metric_list"]]
    for suite, names in tasks.items():
        # languages weigh equally, as in our groups
        means = [{"metric": metric, "weight_by_size": False} for metric in metrics[suite]]
        group = {"group": _plain(suite), "task": names, "aggregate_metric_list": means}
        write_text(folder / f"{_plain(suite)}.yaml", yaml.safe_dump(group, sort_keys=False, allow_unicode=True))
    notes = [f"{name}: a suite of kind {kind} is not written" for name, kind in kinds.items() if name not in tasks]
    return [_plain(suite) for suite in tasks], notes


def _task(
    unit: Unit, kind: str, rows: pd.DataFrame, separator: str
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]] | None:
    """Settings of one task and its rows; None for a unit that the harness cannot ask."""
    # the harness moves white space before an answer into the answer, and keeps it out of chat turns
    before = separator.rstrip()
    asked = "{{prompt}}" + before.replace("{", "{{'{'}}")
    settings: dict[str, Any] = {"doc_to_text": asked, "target_delimiter": separator[len(before) :]}
    if isinstance(unit, LabelUnit | ChoiceUnit):
        if isinstance(unit, LabelUnit):
            prompts, choices = unit.prompts(rows), [list(unit.words)] * len(rows)
        else:
            options = unit.options(rows)
            prompts = unit.prompts(rows, options)
            choices = [list(unit.letters)] * len(rows) if unit.form == "letter" else options
        settings |= {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "label"}
        docs = {"prompt": prompts, "choices": choices, "label": rows["label"].tolist()}
        return settings | _measured(_BY_OPTIONS), _docs(rows, docs)
    if isinstance(unit, TranslationUnit):
        settings |= {"output_type": "generate_until", "doc_to_target": "target"}
        settings["generation_kwargs"] = {"until": [], "max_gen_toks": unit.max_new_tokens or 128, "do_sample": False}
        settings["doc_to_text"] += settings.pop("target_delimiter")
        return settings | _measured(_BY_TEXT), _docs(rows, {"prompt": rows["prompt"], "target": rows["target"]})
    if isinstance(unit, LikelihoodUnit) and kind == PERPLEXITY:
        settings = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{target}}"}
        return settings | _measured(_BY_LIKELIHOOD), _docs(rows, {"target": rows["target"]})
    return None


def _measured(metrics: Sequence[str]) -> dict[str, Any]:
    return {"metric_list": [{"metric": name} for name in metrics]}


def _docs(rows: pd.DataFrame, columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    fields = {"id": rows["id"], "language": rows["language"], **columns}
    return (dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True))


def _write(folder: Path, name: str, settings: dict[str, Any], docs: Iterator[dict[str, Any]]) -> None:
    data = (folder / f"{name}.jsonl").absolute()
    write_text(data, "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "num_fewshot": 0,
        **settings,
        "metadata": {"version": 1.0},
    }
    write_text(folder / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False, allow_unicode=True))


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", name)
