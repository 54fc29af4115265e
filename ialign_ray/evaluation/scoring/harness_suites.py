"""Unit of suites of kind `lm_eval`: rows of the harness's tasks, asked and scored by the harness.

The requests of a task are made for all of its rows, so that few-shot examples, which the harness draws row after row,
are those of a whole run; only the rows of a shard are then given to the model.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd

from ialign_ray.config import Experiment, LmEvalSuite
from ialign_ray.config.harness_suite import parts_of
from ialign_ray.corpus.harness_tasks import (
    LeafTask,
    folder_stamp,
    harness,
    leaf_tasks,
    named_errors,
    open_task,
    row_texts,
    task_files_hash,
    task_rows,
)
from ialign_ray.errors import ConfigError, DataError
from ialign_ray.evaluation.metrics.registry import MEASURED
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.evaluation.suites.load import CLUSTER
from ialign_ray.storage import json_hash

if TYPE_CHECKING:  # torch, which reading predictions does not need
    from ialign_ray.evaluation.scoring.scorer import Scorer

SCORE, CHANCE = "score", "chance"
ITEMS = "items"
"""Column with the values that metrics other than means aggregate over all rows, as JSON by metric."""
_BATCH = 8


@dataclass(frozen=True)
class HarnessUnit(Unit):
    """Tasks of the harness, each row with all metrics of its task."""

    leaves: tuple[LeafTask, ...]
    """The tasks."""
    num_fewshot: int | None
    seed: int
    metric: str
    """Chief metric, whose values are the column `score`."""
    limit: int | None
    """Rows of each task for which requests are made; no row depends on the later ones."""

    @property
    def key(self) -> list[Any]:
        """Settings that predictions depend on, the harness's version, and a hash of the files of own tasks."""
        tasks = [[leaf.task, leaf.within] for leaf in self.leaves]
        folders = sorted({leaf.include_path or "" for leaf in self.leaves})
        files = [task_files_hash(folder or None) for folder in folders]
        settings = {"num_fewshot": self.num_fewshot, "seed": self.seed, "metric": self.metric}
        return [type(self).__name__, self.version, settings, tasks, files, harness().__version__]

    def predict(self, scorer: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
        """Columns suite, language, id, task, chance, score, answers (JSON), `measured:METRIC` for each mean over rows,
        and the values that other metrics aggregate, `items` (JSON by metric)."""
        asked = _Asked.of(scorer)
        leaves = {leaf.task: leaf for leaf in self.leaves}
        found: list[dict[str, Any]] = [{}] * len(rows)
        for name, part in rows.reset_index(drop=True).groupby("task", sort=False):
            leaf = leaves[str(name)]
            numbers = part["number"].tolist()
            for place, row in zip(part.index, asked.results(leaf, self, numbers), strict=True):
                found[place] = row
        frame = rows[["suite", "language", "id", "task", CHANCE]].reset_index(drop=True)
        frame = pd.concat([frame, pd.DataFrame(found)], axis=1)
        return frame.assign(**{SCORE: frame.get(f"{MEASURED}{self.metric}", np.nan)})


class _Asked:
    """A model in the form that the harness uses, with the requests of the tasks that it was asked."""

    _known: ClassVar[WeakKeyDictionary[Scorer, _Asked]] = WeakKeyDictionary()

    def __init__(self, scorer: Scorer) -> None:
        harness()
        from lm_eval.models.huggingface import HFLM

        encoder = scorer.encoder
        backend = "seq2seq" if encoder.seq2seq else "causal"
        with _quiet():
            self._model = HFLM(pretrained=scorer.model, backend=backend, tokenizer=encoder.tokenizer, batch_size=_BATCH)
        self._chat = encoder.chat
        self._requests: dict[tuple[LeafTask, int | None, int, int | None], dict[int, list[Any]]] = {}

    @classmethod
    def of(cls, scorer: Scorer) -> _Asked:
        """Return the one of a scorer, which keeps its requests between shards."""
        if scorer not in cls._known:
            cls._known[scorer] = cls(scorer)
        return cls._known[scorer]

    def results(self, leaf: LeafTask, unit: HarnessUnit, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Metrics and answers of some rows of a task."""
        task = open_task(leaf, unit.num_fewshot, unit.seed)
        key = (leaf, unit.num_fewshot, unit.seed, unit.limit)
        if key not in self._requests:
            chat = getattr(self._model, "apply_chat_template", None) if self._chat else None
            self._requests[key] = requests_of(task, unit.limit, chat, self._model.tokenizer_name)
        made = {number: self._requests[key][number] for number in numbers}
        self._run([request for of_row in made.values() for request in of_row])
        task._instances = [request for of_row in made.values() for request in of_row]
        task.apply_filters()
        means = means_of(task)
        with named_errors(leaf.task):
            return [_measured(task, of_row, means) for of_row in made.values()]

    def _run(self, requests: Sequence[Any]) -> None:
        by_type: dict[str, list[Any]] = defaultdict(list)
        for request in requests:
            request.resps, request.filtered_resps = [], {}
            by_type[request.request_type] += [request] * request.repeats
        for name, of_type in by_type.items():
            with _quiet():
                answers = getattr(self._model, name)(of_type, disable_tqdm=True)
            for request, answer in zip(of_type, answers, strict=True):
                request.resps.append(answer)


def requests_of(task: Any, limit: int | None, chat: Any = None, tokenizer: str = "") -> dict[int, list[Any]]:
    """Requests of each row of a task, by the row's number; `chat` makes the text of turns."""
    with named_errors(task.task_name), contextlib.redirect_stderr(io.StringIO()), _quiet():  # a progress bar each
        task.build_all_requests(
            limit=limit,
            apply_chat_template=chat is not None,
            fewshot_as_multiturn=chat is not None,
            chat_template=chat,
            tokenizer_name=tokenizer,
        )
    found: dict[int, list[Any]] = defaultdict(list)
    for request in task.instances:
        found[request.doc_id].append(request)
    return {number: sorted(of_row, key=lambda request: request.idx) for number, of_row in found.items()}


def means_of(task: Any) -> list[str]:
    """Names of a task's metrics that are means over rows, in the order of its `metric_list`."""
    return [name for name, function in task.aggregation().items() if getattr(function, "__name__", "") == "mean"]


def _measured(task: Any, requests: Sequence[Any], means: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    items: dict[str, Any] = {}
    chains = list(requests[0].filtered_resps)
    for chain in chains:
        answers = [request.filtered_resps[chain] for request in requests]
        for metric, value in task.process_results(requests[0].doc, answers).items():
            name = metric if chain == chains[0] else f"{metric},{chain}"
            if (metric in means or metric not in task.aggregation()) and np.isscalar(value):
                row[f"{MEASURED}{name}"] = float(value)  # type: ignore[arg-type]
            else:
                items[f"{metric},{chain}"] = value
        if chain == chains[0]:
            row["answers"] = json.dumps(answers, default=_plain, ensure_ascii=False)
    return row | ({ITEMS: json.dumps(items, default=_plain, ensure_ascii=False)} if items else {})


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log of each call."""
    logger = logging.getLogger("lm_eval")
    before, logger.level = logger.level, logging.ERROR
    try:
        yield
    finally:
        logger.level = before


def harness_units(suite: LmEvalSuite, experiment: Experiment) -> Iterator[HarnessUnit]:
    """The unit of a suite.

    Raises ConfigError if the harness, a task or a language is missing or tasks have no common metric, DataError if the
    data of a task cannot be read.
    """
    groups = tuple(experiment.languages.groups().items())
    yield _unit(suite.model_dump_json(), groups, folder_stamp(suite.include_path))


@lru_cache(maxsize=16)
def _unit(settings: str, groups: tuple[tuple[str, str], ...], stamp: str) -> HarnessUnit:
    """The unit of a suite; each command needs it several times, and the requests of many tasks take minutes."""
    suite = LmEvalSuite.model_validate_json(settings)
    leaves = leaf_tasks(suite, dict(groups))
    names = _names_in_language(leaves)
    parts, chief = [], {}
    for leaf in leaves:
        task = open_task(leaf, suite.num_fewshot, suite.seed)
        chief[leaf.task] = _metrics(task)
        parts.append(_rows(suite, leaf, task, names[leaf]))
    metric = _chief(suite, chief)
    rows = pd.concat(parts, ignore_index=True)
    if not metric.partition(",")[0].startswith("acc"):
        rows[CHANCE] = 0.0
    twice = rows[rows.duplicated(["language", "id"])]
    if not twice.empty:
        raise DataError(
            f"evaluate.suites.{suite.name}: id {twice['id'].iloc[0]!r} is used twice in {twice['language'].iloc[0]}; "
            "name a field, or several, whose values differ by `id`"
        )
    return HarnessUnit(suite.name, "default", rows, tuple(leaves), suite.num_fewshot, suite.seed, metric, suite.limit)


def _names_in_language(leaves: Sequence[LeafTask]) -> dict[LeafTask, str]:
    """Name of each task without its language's code, equal for the same task in other languages; empty for the only
    task of a language."""
    of_language: dict[str, list[LeafTask]] = defaultdict(list)
    for leaf in leaves:
        of_language[leaf.language].append(leaf)
    names = {}
    for several in of_language.values():
        for leaf in several:
            codes = {word for part in parts_of(leaf.task) for word in part.split("_")}
            words = [word for word in re.split(r"[_\W]+", leaf.task) if word not in codes]
            names[leaf] = "_".join(words) if len(several) > 1 else ""
        if len({names[leaf] for leaf in several}) < len(several):
            names |= {leaf: leaf.task for leaf in several}
    return names


def _rows(suite: LmEvalSuite, leaf: LeafTask, task: Any, name: str) -> pd.DataFrame:
    docs = task_rows(task, suite.limit)
    asked = requests_of(task, suite.limit)
    rows = []
    for number, doc in docs:
        sentence = _joined(doc, suite.id, f"evaluate.suites.{suite.name}.id") if suite.id else str(number)
        arguments = [[request.request_type, *request.args] for request in asked[number]]
        row = {
            "suite": suite.name,
            "language": leaf.language,
            "id": f"{name}:{sentence}" if name else sentence,
            "task": leaf.task,
            "number": number,
            # all that the row is asked, with its examples: rows are found by their content
            "asked": json_hash([arguments, json.dumps(doc, default=str, sort_keys=True)]),
            "length": len(str(arguments)),
            CHANCE: _chance(task, doc),
        }
        if suite.cluster:
            row[CLUSTER] = f"{name}:{_joined(doc, suite.cluster, f'evaluate.suites.{suite.name}.cluster')}"
        rows.append(row)
    texts = row_texts([doc for _, doc in docs])
    return pd.DataFrame(rows).assign(**{f"text:{field}": pd.Series(texts[field], dtype=object) for field in texts})


def _joined(doc: Any, fields: str | Sequence[str], where: str) -> str:
    named = [fields] if isinstance(fields, str) else fields
    if missing := [field for field in named if not isinstance(doc, Mapping) or field not in doc]:
        have = ", ".join(doc) if isinstance(doc, Mapping) else "none"
        raise DataError(f"{where}: the task's rows have no field {missing[0]!r}; they have {have}")
    return " | ".join(str(doc[field]) for field in named)


def _chance(task: Any, doc: Any) -> float:
    """Expected score of a random choice among a row's options; 0 if the answer is not chosen from options."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return 0.0
    options = task.doc_to_choice(doc) if hasattr(task, "doc_to_choice") else doc["choices"]
    return 1 / len(options)


def _metrics(task: Any) -> dict[str, bool]:
    """Metrics that are means over rows, by their names in results -> True if higher is better."""
    better = task.higher_is_better()
    chains = [each.name for each in getattr(task, "_filters", [])] or ["none"]
    return {
        metric if k == 0 else f"{metric},{chain}": better.get(metric) is not False
        for k, chain in enumerate(chains)
        for metric in means_of(task)
    }


def _chief(suite: LmEvalSuite, metrics: Mapping[str, Mapping[str, bool]]) -> str:
    where = f"evaluate.suites.{suite.name}"
    if suite.metric:
        for task, known in metrics.items():
            if suite.metric not in known:
                have = ", ".join(known) or "no such metric"
                raise ConfigError(
                    f"{where}: metric {suite.metric!r} is not a mean over the rows of task {task}, which has {have}"
                )
            if not known[suite.metric]:
                raise ConfigError(
                    f"{where}: metric {suite.metric!r} of task {task} is better when lower; name one of its scores"
                )
        return suite.metric
    chief = {task: next((m for m, higher in known.items() if higher), None) for task, known in metrics.items()}
    if missing := [task for task, metric in chief.items() if metric is None]:
        raise ConfigError(
            f"{where}: no score of task {missing[0]} is a mean over rows; name it in evaluate.lm_eval.tasks for the "
            "harness's own table"
        )
    first, *others = chief
    if different := [task for task in others if chief[task] != chief[first]]:
        raise ConfigError(
            f"{where}: tasks {first} and {different[0]} have different metrics ({chief[first]} and "
            f"{chief[different[0]]}); name a common one by `metric`, or use two suites"
        )
    return str(chief[first])


def task_texts(suite: LmEvalSuite, experiment: Experiment) -> pd.DataFrame:
    """Rows of a suite with language, id and texts."""
    (unit,) = harness_units(suite, experiment)
    return unit.rows
