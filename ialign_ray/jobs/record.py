"""Record of a job as JSON in `storage.runs`: arguments, outcome and result.

The file is written atomically when a job begins and when it ends. If it says `running` but `ialign jobs` does not list
the job as running, the job was killed; it resumes when it is submitted again.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ialign_ray.config import Experiment
from ialign_ray.errors import IalignError, StoppedError
from ialign_ray.storage import json_hash, read_json, write_json

SUCCEEDED, FAILED, STOPPED, RUNNING = "succeeded", "failed", "stopped", "running"
_FREE = {"scaling", "serve"}
"""Sections that do not affect a step's result; `tracking` does: it names the registry that `promote` writes to."""


def record_path(experiment: Experiment, title: str) -> Path:
    """Return the path of a job's record."""
    return Path(experiment.storage.runs).absolute() / experiment.name / "jobs" / f"{title}.json"


@dataclass
class Record:
    """A job's record and its file."""

    path: Path
    fields: dict[str, Any]

    @classmethod
    def begin(cls, experiment: Experiment, title: str, given: dict[str, Any]) -> Record:
        """Record that a job runs, and which attempt it is; `given` are its arguments."""
        path = record_path(experiment, title)
        fields = {
            "job": title,
            "experiment": experiment.name,
            "status": RUNNING,
            "attempt": int(_read(path).get("attempt", 0)) + 1,
            "arguments": given,
            "key": key_of(experiment, given),
            "started": _now(),
            "host": socket.gethostname(),
            "versions": {"python": platform.python_version(), "ray": version("ray")},
        }
        if submission := os.environ.get("IALIGN_SUBMISSION"):
            fields["submission"] = submission
        record = cls(path, fields)
        record.write()
        return record

    def end(self, status: str, exit_code: int, seconds: float, **found: Any) -> None:
        """Record how the job ended; `found` is its result or error."""
        self.fields |= {"status": status, "exit_code": exit_code, "ended": _now(), "seconds": round(seconds, 1)} | found
        self.write()

    def write(self) -> None:
        """Replace the file."""
        write_json(self.path, self.fields)


def recorded(
    experiment: Experiment, title: str, given: dict[str, Any], work: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Do the work, with its record written before and after, and return its result."""
    record, began = Record.begin(experiment, title, given), time.monotonic()
    try:
        result = work()
    except BaseException as error:
        status = STOPPED if isinstance(error, StoppedError | KeyboardInterrupt) else FAILED
        said = str(error) or type(error).__name__
        with suppress(OSError):  # a full disk must not hide what ended the job
            record.end(status, exit_code_of(error), time.monotonic() - began, error=said)
        raise
    record.end(SUCCEEDED, 0, time.monotonic() - began, result=result)
    return result


def exit_code_of(error: BaseException) -> int:
    """Return the command line's exit code: 2 for an error that a user can fix, 143 or 130 when stopped, 1 for a bug."""
    if isinstance(error, IalignError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def finished_before(experiment: Experiment, title: str, given: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of an earlier job with the same settings if it succeeded and its outputs still exist."""
    known = _read(record_path(experiment, title))
    if known.get("status") != SUCCEEDED or known.get("key") != key_of(experiment, given):
        return None
    result: dict[str, Any] = known["result"]
    return result if all(Path(p).exists() for p in result.get("outputs", ())) else None


def key_of(experiment: Experiment, given: dict[str, Any]) -> str:
    """Hash everything that affects a job's result."""
    return json_hash([experiment.model_dump(mode="json", exclude=_FREE), given])


def _read(path: Path) -> dict[str, Any]:
    try:
        known = read_json(path)
    except (OSError, ValueError):  # no record yet, or another file
        return {}
    return known if isinstance(known, dict) else {}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
