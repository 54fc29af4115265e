"""Tasks of lm-evaluation-harness: the tasks of a suite, their languages, rows and texts.

The harness is an optional package, imported when a suite of kind `lm_eval` is read.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ialign_ray.config import LmEvalSuite
from ialign_ray.config.harness_suite import code_in, parts_of
from ialign_ray.corpus.suite_texts import text_columns
from ialign_ray.errors import ConfigError, DataError, IalignError
from ialign_ray.languages import script_of
from ialign_ray.storage import file_hash, json_hash

_CODE_FILES: Final = {".yaml", ".yml", ".py"}
"""Files of `include_path` that decide how rows are asked and scored; the rows have their own hashes."""


@dataclass(frozen=True)
class LeafTask:
    """One task of the harness in one language."""

    language: str
    task: str
    """Its name."""
    within: str
    """Name that it is loaded by: its own, or that of a group that changes its settings."""
    include_path: str | None


def harness() -> Any:
    """Import the harness. Raises ConfigError if it is not installed."""
    try:
        import lm_eval
    except ImportError as error:
        raise ConfigError(
            "lm_eval:TASK and suites of kind lm_eval need lm-evaluation-harness, which is not installed; pip install "
            "'ialign_ray[lm-eval]'"
        ) from error
    return lm_eval


def leaf_tasks(suite: LmEvalSuite, groups: Mapping[str, str]) -> list[LeafTask]:
    """Every task of a suite with its language, in the order of the suite.

    Raises ConfigError for a task that the harness lacks, for a language that is unclear or in no group, and if no task
    is left.
    """
    where, known = f"evaluate.suites.{suite.name}", suite.languages or list(groups)
    found = []
    for given, name in suite.named:
        manager = task_manager(suite.include_path, name)
        for task, within in _leaves(manager, name, f"{where}.tasks", suite.include_path):
            language = given or code_in(task, known)
            if language is None and not (suite.grouped or suite.languages):
                raise ConfigError(f"{where}: {_unclear(task, groups)}")
            if language is None or (suite.languages is not None and language not in suite.languages):
                continue
            if language not in groups and suite.grouped:
                continue
            if language not in groups:
                raise ConfigError(
                    f"{where}: language {language!r} of task {task} is in no group; add it to l1, l2 or l3 of "
                    "languages, or leave it out by `languages` of the suite"
                )
            found.append(LeafTask(language, task, within, suite.include_path))
    if not found:
        raise ConfigError(f"{where}: no task is left in the languages that are measured; see `tasks` and `languages`")
    if twice := [leaf.task for leaf in found if sum(leaf.task == other.task for other in found) > 1]:
        raise ConfigError(f"{where}: task {twice[0]} is named twice; remove one")
    return found


def _unclear(task: str, groups: Mapping[str, str]) -> str:
    several = [part for part in parts_of(task) if code_in(part, groups)]
    if several:
        return (
            f"the name of task {task} has the codes of several languages ({', '.join(several)}); write tasks: "
            f"{{{several[0]}: {task}}}, with the language that is measured"
        )
    if written := [part for part in parts_of(task) if "_" in part]:
        return (
            f"task {task} is in {script_language(written[0])!r}, which is in no group; add it to l1, l2 or l3 of "
            "languages, or set grouped: true to leave out such tasks"
        )
    return f"the language of task {task} is not clear from its name; write tasks: {{LANGUAGE: {task}}}"


def script_language(code: str) -> str:
    """Return a code without its script if that is the usual one; as it is for an unknown language."""
    plain, _, script = code.partition("_")
    with contextlib.suppress(ConfigError):
        return plain if script_of(plain) == script else code
    return code


def _leaves(manager: Any, name: str, where: str, include_path: str | None) -> Iterator[tuple[str, str]]:
    """Name of each task, and the name that it is loaded by."""
    if set(name) & set("*?["):
        matching = fnmatch.filter(manager.all_subtasks, name)
        if not matching:
            raise ConfigError(f"{where}: no task of lm-evaluation-harness matches {name!r}; see `lm-eval ls tasks`")
        yield from ((task, task) for task in matching)
    elif name in manager.all_subtasks:
        yield name, name
    elif name in manager.all_tags:
        yield from ((task, task) for task in sorted(manager.task_index[name].tags))
    elif name in manager.all_groups:
        members = _plain_members(manager, name)
        if members is None:
            # it changes settings of its tasks, so they are loaded as its members
            yield from ((task, name) for task in _loaded(name, include_path, folder_stamp(include_path)))
        for member in members or ():
            yield from _leaves(manager, member, where, include_path)
    else:
        own = f", nor does include_path {include_path}" if include_path else ""
        raise ConfigError(f"{where}: lm-evaluation-harness has no task {name!r}{own}; see `lm-eval ls tasks`")


def _plain_members(manager: Any, group: str) -> list[str] | None:
    """Names in a group; None if it defines or changes tasks instead of only naming them."""
    from lm_eval.config.group import GroupConfig
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index[group]
    config = load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else entry.cfg or {}
    members = config.get("task")
    if set(config) - {field.name for field in fields(GroupConfig)} or not isinstance(members, list):
        return None
    return members if all(isinstance(name, str) and name in manager.all_tasks for name in members) else None


def task_manager(include_path: str | None, name: str) -> Any:
    """Return the harness's index of tasks: of the folder alone if it has all of the name's tasks, else with the
    harness's own."""
    harness()
    stamp = folder_stamp(include_path)
    if include_path:
        if not Path(include_path).is_dir():
            raise ConfigError(f"include_path {include_path} of lm-evaluation-harness is not a folder; name one")
        alone = _manager(include_path, False, stamp)
        if (
            name in (*alone.all_subtasks, *alone.all_tags)
            or fnmatch.filter(alone.all_subtasks, name)
            or (name in alone.all_groups and _plain_members(alone, name) is not None)
        ):
            return alone
    return _manager(include_path, True, stamp)  # reads 14,000 files, about ten seconds


@lru_cache(maxsize=8)
def _manager(include_path: str | None, defaults: bool, stamp: str) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=defaults)


def _files(include_path: str | None) -> list[Path]:
    return sorted(p for p in Path(include_path).rglob("*") if p.is_file()) if include_path else []


def folder_stamp(include_path: str | None) -> str:
    """Return a hash that changes with the files of a folder, for caches of one process."""
    return json_hash([[str(p), *(p.stat().st_size, p.stat().st_mtime_ns)] for p in _files(include_path)])


def task_files_hash(include_path: str | None) -> str:
    """Return a hash of the files of a folder that decide how rows are asked and scored, without the data."""
    return json_hash([[p.name, file_hash(p)] for p in _files(include_path) if p.suffix in _CODE_FILES])


@lru_cache(maxsize=64)
def _loaded(name: str, include_path: str | None, stamp: str) -> dict[str, Any]:
    """Task objects of the harness by name: several for a group."""
    manager = task_manager(include_path, name)
    with named_errors(name), contextlib.redirect_stderr(io.StringIO()):  # progress bars of reading data
        found: dict[str, Any] = manager.load([name])["tasks"]
    return found


@contextlib.contextmanager
def named_errors(task: str) -> Iterator[None]:
    """Raise DataError for data of a task that cannot be read, ConfigError if the harness fails in another way: task
    files hold code, which may raise anything."""
    import datasets

    unreadable = (OSError, StopIteration, IndexError, datasets.exceptions.DatasetsError)
    try:
        yield
    except IalignError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, unreadable):
            raise DataError(
                f"lm_eval:{task}: its data cannot be read ({reason}); name local files in the task"
            ) from error
        raise ConfigError(
            f"lm_eval:{task}: lm-evaluation-harness cannot use the task ({type(error).__name__}: {reason}); try "
            f"`lm-eval run --tasks {task} --limit 1`"
        ) from error


def open_task(leaf: LeafTask, num_fewshot: int | None, seed: int) -> Any:
    """Return the harness's object of a task with these few-shot examples, as `simple_evaluate` would set them.

    Raises DataError if its data cannot be read, ConfigError for a task that runs the model's answers as code or that
    needs more than text.
    """
    task = _loaded(leaf.within, leaf.include_path, folder_stamp(leaf.include_path))[leaf.task]
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(f"lm_eval:{leaf.task} runs a model's answers as code; use another task")
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(f"lm_eval:{leaf.task} asks about images or sound; use a task of texts")
    if not hasattr(task, "own_fewshot"):  # the object is reused for other numbers
        task.own_fewshot = task.get_config("num_fewshot")
    own = task.own_fewshot
    # a task that sets 0 is never asked with examples
    task.set_config(key="num_fewshot", value=own or 0 if num_fewshot is None or own == 0 else num_fewshot)
    task.set_fewshot_seed(seed=seed)
    return task


def task_rows(task: Any, limit: int | None) -> list[tuple[int, dict[str, Any]]]:
    """Number and fields of each row that is scored. Raises DataError if there is no row."""
    with named_errors(task.task_name):
        rows = list(task.doc_iterator(limit=limit))
    if not rows:
        raise DataError(f"lm_eval:{task.task_name}: its data has no rows to score; see its test_split")
    return rows


def row_texts(docs: Sequence[Any]) -> dict[str, list[str | None]]:
    """Field (`field.2` for a place in a list) -> its texts, of the fields that resemble texts."""
    texts = text_columns(_table(docs), fewest=max(3.0, len(docs) / 2))
    return {name: column.to_pylist() for name, column in texts.items()}


def _table(docs: Sequence[Any]) -> pa.Table:
    plain = [doc if isinstance(doc, dict) else {"text": str(doc)} for doc in docs]
    names = list(dict.fromkeys(name for doc in plain for name in doc))
    columns = {}
    for name in names:
        values = [doc.get(name) for doc in plain]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several types
            columns[name] = pa.array([json.dumps(value, default=str, ensure_ascii=False) for value in values])
    return pa.table(columns)


def suite_task_texts(suite: LmEvalSuite, groups: Mapping[str, str]) -> list[str]:
    """Every text of the rows of a suite's tasks, which must not be trained on."""
    found: dict[str, None] = {}
    for leaf in leaf_tasks(suite, groups):
        docs = [doc for _, doc in task_rows(open_task(leaf, suite.num_fewshot, suite.seed), suite.limit)]
        found |= dict.fromkeys(text for column in row_texts(docs).values() for text in column if text)
    return list(found)
