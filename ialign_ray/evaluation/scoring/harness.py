"""The harness's own table: tasks whose language is unknown, and metrics that are not means over rows.

Other tasks are suites of kind `lm_eval` (`harness_suites`). Prompts, few-shot examples and normalisation are the
harness's; only the chat template is ours. Each task is run once per model and cached.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment, HarnessConfig, LmEvalSuite
from ialign_ray.corpus.harness_tasks import harness, leaf_tasks, open_task, task_manager
from ialign_ray.errors import ConfigError, DataError, IalignError
from ialign_ray.evaluation.scoring.harness_suites import ITEMS, harness_units
from ialign_ray.pages import markdown_table
from ialign_ray.storage import file_hash, is_intact, json_hash, read_json, whole_folder, write_json, write_text
from ialign_ray.terminal import BlockTable

if TYPE_CHECKING:  # it brings torch, which reading a table does not need
    from ialign_ray.evaluation.scoring.worker import Subject

TABLE = "lm_eval.csv"
PREFIX = "lm_eval:"
"""Prefix of a task's name, to distinguish it from a suite's."""
RESULTS, SAMPLES = "results.json", "samples.jsonl"
_SLOW = ("bleu", "chrf", "chrf++", "ter")
_BOOTSTRAP = 1000  # for metrics that have no closed form; the harness' own 100,000 take minutes


@dataclass(frozen=True)
class Asked:
    """An open model in the form that the harness uses."""

    model: Any
    """Its `HFLM`, an adapter merged into the weights."""
    chat: bool
    """True if the tokenizer's chat template is used."""


def selected(experiment: Experiment, names: Sequence[str]) -> Experiment:
    """The experiment with only these suites, including `lm_eval:TASK`. Raises ConfigError for an unknown one."""
    if not names:
        return experiment
    config = experiment.evaluate
    own = [name for name in names if not name.startswith(PREFIX)]
    known = [suite.name for suite in config.suites]
    if missing := [name for name in own if name not in known]:
        raise ConfigError(
            f"--suite {missing[0]!r} is not in evaluate.suites; use one of {', '.join(known)}, or {PREFIX}TASK"
        )
    tasks = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    changes = {
        "suites": [suite for suite in config.suites if suite.name in own],
        "lm_eval": config.lm_eval.model_copy(update={"tasks": tasks}),
    }
    return experiment.model_copy(update={"evaluate": config.model_copy(update=changes)})


def as_suites(experiment: Experiment) -> tuple[Experiment, list[str]]:
    """The experiment with a suite `lm_eval:TASK` for each task of `evaluate.lm_eval` that can be one, and notes on the
    others, which stay in the harness's own table: their language is unknown, or no score is a mean over rows."""
    config = experiment.evaluate
    settings = config.lm_eval
    suites, left, notes = list(config.suites), [], []
    for task in settings.tasks:
        suite = LmEvalSuite(name=f"{PREFIX}{task}", tasks=task, **settings.model_dump(exclude={"tasks"}))
        try:
            if suite.name in [other.name for other in suites]:
                continue
            list(harness_units(suite, experiment))
        except IalignError as error:
            left.append(task)
            reason = str(error).removeprefix(f"evaluate.suites.{suite.name}: ")
            notes.append(f"{suite.name} is only in the harness's own table: {reason}")
        else:
            suites.append(suite)
    if left == settings.tasks:
        return experiment, notes
    changes = {"suites": suites, "lm_eval": settings.model_copy(update={"tasks": left})}
    return experiment.model_copy(update={"evaluate": config.model_copy(update=changes)}), notes


def whole_table(experiment: Experiment, run: str, predictions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Metrics of suites of the harness's tasks that are not means over rows (chrF, perplexity), as `run_tasks` returns
    them: aggregated by the harness from one run's predictions."""
    rows: list[dict[str, Any]] = []
    for suite in experiment.evaluate.suites:
        frame = predictions.get(suite.name)
        if not isinstance(suite, LmEvalSuite) or frame is None or ITEMS not in frame.columns:
            continue
        tasks = {leaf.task: leaf for leaf in leaf_tasks(suite, experiment.languages.groups())}
        for name, part in frame.dropna(subset=[ITEMS]).groupby("task", sort=False):
            task = open_task(tasks[str(name)], suite.num_fewshot, suite.seed)
            rows += [{"run": run, "task": name, **row} for row in _aggregated(task, part[ITEMS])]
    return pd.DataFrame(rows)


def _aggregated(task: Any, items: pd.Series) -> Iterator[dict[str, Any]]:
    from lm_eval.api.metrics import stderr_for_metric

    values: dict[str, list[Any]] = defaultdict(list)
    for line in items:
        for metric, value in json.loads(line).items():
            values[metric].append(value)
    for key, of_metric in values.items():
        metric, _, chain = key.partition(",")
        aggregate = task.aggregation().get(metric)
        if aggregate is None:
            continue
        value, times = float(aggregate(of_metric)), _BOOTSTRAP // 10 if metric in _SLOW else _BOOTSTRAP
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            error = stderr_for_metric(metric=aggregate, bootstrap_iters=times) if len(of_metric) > 1 else None
            half = 1.96 * float(error(of_metric)) if error else float("nan")
        yield {"metric": metric, "filter": chain, "value": value, "low": value - half, "high": value + half,
               "n": len(of_metric), "higher_is_better": task.higher_is_better().get(metric)}  # fmt: skip


def run_tasks(experiment: Experiment, subjects: Sequence[Subject], console: Console) -> pd.DataFrame:
    """One row per subject, task and metric: value, 95 % interval from the harness' standard error, n.

    Raises ConfigError if the harness is not installed or has no such task, DataError if a task's data is missing.
    """
    settings, rows = experiment.evaluate.lm_eval, []
    for subject in subjects:
        asked: Asked | None = None
        for task in settings.tasks:
            folder = subject.folder / "lm_eval" / task / _key(subject, task, settings)[:16]
            if not is_intact(folder):
                console.print(f"{subject.name}: {PREFIX}{task}", highlight=False)
                asked = asked or _opened(subject)
                _run(asked, task, settings, folder)
            rows += [{"run": subject.name, **row} for row in _rows(read_json(folder / RESULTS))]
    return pd.DataFrame(rows)


def report_tasks(table: pd.DataFrame, folder: Path, console: Console) -> None:
    """Print the table, and write lm_eval.csv and LM_EVAL.md."""
    header = ["run", "task", "metric", "value [95 %]", "n"]
    lines = []
    for row in table.to_dict("records"):
        metric = row["metric"] if row["filter"] == "none" else f"{row['metric']} ({row['filter']})"
        lines.append([row["run"], row["task"], metric, _interval(row), str(row["n"])])
    console.print(BlockTable(header, lines))
    note = "Scores by lm-evaluation-harness; the interval is 1.96 of its standard errors.\n\n"
    write_text(folder / "LM_EVAL.md", note + markdown_table(header, lines, texts=3))
    write_text(folder / TABLE, table.to_csv(index=False))


def read_tasks(folder: Path) -> pd.DataFrame:
    """The table that `report_tasks` wrote into the folder; empty if there is no such table."""
    return pd.read_csv(folder / TABLE) if (folder / TABLE).exists() else pd.DataFrame()


def _interval(row: dict[Any, Any]) -> str:
    bounds = f" [{row['low']:.3f}, {row['high']:.3f}]" if row["low"] == row["low"] else ""
    return f"{row['value']:.3f}{bounds}"


def _key(subject: Subject, task: str, settings: HarnessConfig) -> str:
    own = settings.include_path
    files = sorted(p for p in Path(own).rglob("*") if p.is_file()) if own else []
    return json_hash(
        [
            subject.key,
            task,
            settings.model_dump(exclude={"tasks", "include_path"}),
            [file_hash(file) for file in files],
            harness().__version__,
        ]
    )


def _run(asked: Asked, task: str, settings: HarnessConfig, folder: Path) -> None:
    package = harness()
    tasks = task_manager(settings.include_path, task)
    if task not in tasks.all_tasks:
        where = f", nor does evaluate.lm_eval.include_path {settings.include_path}" if settings.include_path else ""
        raise ConfigError(f"{PREFIX}{task}: lm-evaluation-harness has no such task{where}; see `lm-eval ls tasks`")
    try:
        found = package.simple_evaluate(
            model=asked.model,
            tasks=[task],
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
            task_manager=tasks,
            apply_chat_template=asked.chat,
            bootstrap_iters=_BOOTSTRAP,
        )
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"{PREFIX}{task}: its data cannot be read ({reason}); name local files in the task") from error
    with whole_folder(folder) as scratch:
        samples = found.pop("samples")
        lines = (json.dumps({"task": name, **one}, default=str) for name, of in samples.items() for one in of)
        write_text(scratch / SAMPLES, "".join(f"{line}\n" for line in lines))
        kept = ("results", "n-samples", "n-shot", "higher_is_better", "versions", "configs", "lm_eval_version")
        write_json(scratch / RESULTS, {name: found[name] for name in kept if name in found})


def _opened(subject: Subject) -> Asked:
    harness()
    from lm_eval.models.huggingface import HFLM

    from ialign_ray.modeling.load import merge

    scorer = subject.load()
    encoder = scorer.encoder
    backend = "seq2seq" if encoder.seq2seq else "causal"
    model = HFLM(pretrained=merge(scorer.model), backend=backend, tokenizer=encoder.tokenizer, batch_size=8)
    return Asked(model, encoder.chat)


def _rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for task, values in found["results"].items():
        n = values.get("sample_len") or found["n-samples"].get(task, {}).get("effective", 0)
        for name, value in values.items():
            metric, comma, chain = name.partition(",")
            # the harness' keys are `metric,filter`; others are its notes
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{chain}")
            half = 1.96 * error if isinstance(error, int | float) else float("nan")
            better = found.get("higher_is_better", {}).get(task, {}).get(metric)
            yield {"task": task, "metric": metric, "filter": chain, "value": value, "low": value - half,
                   "high": value + half, "n": n, "higher_is_better": better}  # fmt: skip
