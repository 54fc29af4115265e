"""Client of a Ray cluster's job server: submit, follow, list and stop jobs, with errors in one sentence."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from aiohttp import ClientError
from packaging.version import Version
from ray.exceptions import AuthenticationError

from ialign_ray.errors import ClusterError, ConfigError, DetachedError, StoppedError
from ialign_ray.jobs.environment import STOP_SECONDS
from ialign_ray.jobs.submission import NAME, Attempt, Submission, next_attempt

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
OLDEST = Version("2.60")
"""The oldest Ray that the package works with."""
_REACH_SECONDS = 10
_POLL_SECONDS = 0.5
_AGENT_SECONDS = 120
_LOST_SECONDS = 120
"""Seconds that a head may be unreachable while a job is followed, since it may be restarting."""


class JobServer:
    """A job server. Raises ClusterError if it is unreachable, refuses the token, or runs an older Ray."""

    def __init__(self, address: str | None = None) -> None:
        self.address = http_address(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
        self._check_version()
        from ray.job_submission import JobSubmissionClient

        for module in ("dashboard_sdk", "job.sdk"):  # they log each package and connection
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
        with self._in_sentences(), _own_address(self.address):
            self._client = JobSubmissionClient(self.address)

    def submit(self, submission: Submission) -> str:
        """Submit a job and return the id of this attempt. Raises ConfigError while an earlier attempt is running."""
        known = {
            # a job that was submitted by other means has only an id
            job.submission_id: Attempt((job.metadata or {}).get(NAME, job.submission_id), job.status.is_terminal())
            for job in self.jobs()
        }
        attempt = next_attempt(submission.name, known)
        with tempfile.TemporaryDirectory(prefix="ialign-") as scratch, self._in_sentences():
            archive = Path(scratch) / "working-dir.zip"
            submission.package.write(archive)
            environment = {**submission.environment, "IALIGN_SUBMISSION": attempt}
            with_agent(
                lambda: self._client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=attempt,
                    runtime_env={"working_dir": str(archive), "env_vars": environment},
                    metadata=dict(submission.metadata),
                )
            )
        return attempt

    def jobs(self) -> list[Any]:
        """Return Ray's details of every submitted job, oldest first."""
        with self._in_sentences():
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(found, key=lambda job: job.start_time or 0)

    def job(self, name: str) -> Any:
        """Return Ray's details of one job. Raises ClusterError if there is no such job."""
        with self._in_sentences(name):
            return self._client.get_job_info(name)

    def stop(self, name: str) -> bool:
        """Send SIGTERM and wait until the job has ended. Return False if it had already ended."""
        if self.job(name).status.is_terminal():
            return False
        with self._in_sentences(name):
            self._client.stop_job(name)
        deadline = time.monotonic() + STOP_SECONDS + 30
        while not self.job(name).status.is_terminal():
            if time.monotonic() > deadline:
                raise ClusterError(f"{name} did not end within {STOP_SECONDS} s of SIGTERM; see the head's logs")
            time.sleep(_POLL_SECONDS)
        return True

    def follow(self, name: str, write: Callable[[str], object]) -> int:
        """Write a job's log as it grows, to its end, and return the exit code of its driver.

        After a lost connection the log continues at the same place. Raises DetachedError at Ctrl-C: the job keeps
        running.
        """
        log, lost = _Log(write), time.monotonic()
        try:
            self.job(name)  # raises if there is no such job
            while True:
                try:
                    asyncio.run(self._tail(name, log))
                    if (job := self.job(name)).status.is_terminal():
                        return exit_code(self._ended(job, log))
                    lost = time.monotonic()
                except ClusterError:
                    if time.monotonic() - lost > _LOST_SECONDS:
                        raise
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt as error:
            raise DetachedError(
                f"{name} is still running; follow it again with `ialign jobs --follow {name}`, or end it with "
                f"`ialign stop {name}`"
            ) from error

    def _ended(self, job: Any, log: _Log) -> Any:
        """Write the rest of a log, and Ray's message if the driver did not exit normally."""
        with self._in_sentences():
            log.take(0, self._client.get_job_logs(job.submission_id))
        if job.status == "FAILED" and job.driver_exit_code is None:
            log.write(f"the job did not run to its end: {' '.join(str(job.message).split())[:500]}\n")
        return job

    async def _tail(self, name: str, log: _Log) -> None:
        """Write the new part of a log until the connection or the job ends."""
        start = 0
        with self._in_sentences(name):
            async for text in self._client.tail_job_logs(name):
                log.take(start, text)
                start += len(text)

    def _check_version(self) -> None:
        try:
            answer = requests.get(f"{self.address}/api/version", timeout=_REACH_SECONDS)
        except requests.RequestException as error:
            raise ClusterError(
                f"no Ray job server answers at {self.address} ({type(error).__name__}); start a head with `ray start "
                "--head`, open a tunnel with `ray dashboard CLUSTER.yaml`, or pass another address with --address"
            ) from error
        if answer.status_code in (401, 403):  # the client sends the token, if there is one
            return
        try:
            found = Version(answer.json()["ray_version"])
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self.address} is not a Ray job server; pass the dashboard's address with --address"
            ) from error
        if found < OLDEST:
            raise ClusterError(
                f"the cluster at {self.address} runs Ray {found}, but ialign_ray needs {OLDEST} or newer; start "
                f"it with this machine's version, {version('ray')}"
            )

    @contextmanager
    def _in_sentences(self, name: str = "") -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(
                f"{self.address} rejects the token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or "
                "RAY_AUTH_TOKEN_PATH) to the cluster's"
            ) from error
        except (ConnectionError, TimeoutError, requests.RequestException, ClientError) as error:
            raise ClusterError(
                f"the job server at {self.address} no longer answers; check that its head is running"
            ) from error
        except RuntimeError as error:
            if name and "status code 404" in str(error):
                raise ClusterError(self._unknown(name)) from error
            said = " ".join(str(error).split())
            raise ClusterError(f"the job server at {self.address} refused the request: {said[:300]}") from error

    def _unknown(self, name: str) -> str:
        known = ", ".join(job.submission_id for job in self.jobs()[-5:]) or "none"
        return f"no such job {name!r} at {self.address} (the newest: {known}); see `ialign jobs`"


class _Log:
    """Position in a log, which Ray sends from its beginning at each connection."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write, self._shown = write, 0

    def take(self, start: int, text: str) -> None:
        """Write the new part of a text that begins at character `start` of the log."""
        if unseen := text[max(0, self._shown - start) :]:
            self.write(unseen)
            self._shown += len(unseen)


def with_agent(send: Callable[[], object], seconds: float = _AGENT_SECONDS) -> None:
    """Send; retry while the head has no agent, which starts up to a minute after the job server."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            send()
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def http_address(address: str) -> str:
    """Return a job server's URL. Raises ConfigError for another kind of address."""
    url = address if "://" in address else f"http://{address}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.hostname == "auto":
        raise ConfigError(
            f"--address {address!r} is not a job server; pass the dashboard's address, such as {DEFAULT_ADDRESS}"
        )
    return url.rstrip("/")


def exit_code(job: Any) -> int:
    """Return the driver's exit code as a shell would; Ray's own command turns every failure into 1."""
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        return StoppedError.exit_code
    code = job.driver_exit_code
    if code is None:  # it never started, or its node is gone
        return 1
    return 128 - code if code < 0 else int(code)


@contextmanager
def _own_address(address: str) -> Iterator[None]:
    """Set the environment to this address, since Ray's client prefers the environment to its argument."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before
