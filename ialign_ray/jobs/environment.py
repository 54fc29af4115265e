"""Environment variables of a job: settings of Ray, and the submitter's credentials by name, stored nowhere else."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version

from ialign_ray.cluster.join import SETTINGS
from ialign_ray.errors import ConfigError

SUBMITTED_WITH = "IALIGN_SUBMITTED_WITH"
STOP_SECONDS = 120
"""Seconds from SIGTERM to SIGKILL when a job is stopped; Ray's default of 3 s is too short for a checkpoint."""
OWN = SETTINGS | {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
"""Variables that every job gets; `jobs/runtime-env.yaml` has the same for `ray job submit`."""
PASSED = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
)
"""Variables that are passed on if they are set; others need `--env NAME`."""
TRACKING = "MLFLOW_TRACKING_URI"
"""Passed on if it names a server; the cluster cannot reach a file or database on the submitter's machine."""


def job_environment(environ: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """Return a job's variables. Raises ConfigError if a requested one is not set, or Ray would change its value."""
    wanted = list(also)
    if unset := [name for name in wanted if name not in environ]:
        raise ConfigError(f"--env {unset[0]} is not set here; export it first, or omit it")
    server = [TRACKING] if environ.get(TRACKING, "").startswith(("http://", "https://")) else []
    passed = {name: environ[name] for name in dict.fromkeys((*PASSED, *server, *wanted)) if name in environ}
    for name, value in passed.items():
        if re.search(r"\$(\w|\{)", value):
            raise ConfigError(f"{name} holds a $, which Ray would expand as a variable; set it on the cluster's nodes")
    here = f"{platform.python_version()} {version('ray')}"
    return OWN | {SUBMITTED_WITH: here} | passed


def differing(sender: str | None, python: str, ray: str) -> str | None:
    """Return a warning if the submitter's Python (to the minor version) or Ray differs from the cluster's."""
    if not sender:
        return None
    its_python, its_ray = sender.split()
    if its_ray == ray and its_python.split(".")[:2] == python.split(".")[:2]:
        return None
    return (
        f"submitted from Python {its_python} with Ray {its_ray}, run by Python {python} with Ray {ray}; the job uses "
        "the cluster's versions, so results may differ from local ones"
    )
