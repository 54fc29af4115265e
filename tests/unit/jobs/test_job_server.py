"""A job server out of reach, of another kind or version: one sentence within seconds; and how a job ended."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import aiohttp
import pytest
from refusals import refused

from ialign_ray.errors import ClusterError, ConfigError, DetachedError
from ialign_ray.jobs.server import JobServer, exit_code, http_address, with_agent


@pytest.fixture
def answering():
    """A server that answers every request alike; yields its address."""
    servers = []

    def start(body, status=200):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_nobody_answers(ialign, answering):
    refused(ialign("jobs", "--address", "127.0.0.1:9"), "no Ray job server answers at http://127.0.0.1:9", "ray start")
    refused(ialign("stop", "x", "--address", "127.0.0.1:9"), "no Ray job server answers")


def test_an_older_ray(ialign, answering):
    old = answering(json.dumps({"version": "4", "ray_version": "2.9.0"}))
    refused(ialign("jobs", "--address", old), "runs Ray 2.9.0, but ialign_ray needs 2.60 or newer")


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"ray_version": "none"}'])
def test_another_kind_of_server(ialign, answering, body):
    refused(
        ialign("jobs", "--address", answering(body)),
        "is not a Ray job server; pass the dashboard's address",
    )


def test_a_token_that_is_not_there(ialign, answering, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    locked = answering("Unauthorized: Missing authentication token", 401)
    refused(ialign("jobs", "--address", locked), "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN")


def test_addresses(monkeypatch):
    assert http_address("head:8265/") == "http://head:8265"
    assert http_address("https://head") == "https://head"
    for wrong in ("auto", "ray://head:10001", "http://"):
        with pytest.raises(ConfigError, match="--address .* is not a job server; pass the dashboard's address"):
            http_address(wrong)


@pytest.mark.parametrize(
    ("status", "code", "ends"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 143)],
)
def test_the_exit_code_is_the_drivers(status, code, ends):
    assert exit_code(SimpleNamespace(status=status, driver_exit_code=code)) == ends


def test_a_head_whose_agent_is_not_up_yet_is_asked_again():
    said = [RuntimeError("Request failed with status code 500: No available agent to submit job"), None]

    def send():
        if error := said.pop(0):
            raise error

    with_agent(send)
    assert said == []
    for wrong in ("status code 500: No available agent", "status code 400: no such folder"):
        with pytest.raises(RuntimeError, match=wrong):
            with_agent(lambda wrong=wrong: (_ for _ in ()).throw(RuntimeError(wrong)), seconds=0)


class Log:
    """A job server's client whose connection breaks: each try gives the log from its beginning, in parts."""

    def __init__(self, *tries, status="SUCCEEDED", code=0):
        self._tries, self._end = list(tries), (status, code)

    async def tail_job_logs(self, name):
        for part in self._tries.pop(0):
            if isinstance(part, BaseException):
                raise part
            yield part

    def get_job_info(self, name):
        status, code = self._end if not self._tries else ("RUNNING", None)
        return SimpleNamespace(submission_id=name, status=Status(status), driver_exit_code=code, message="lost")

    def get_job_logs(self, name):
        return "abcdefgh"


class Status(str):
    def is_terminal(self):
        return self in ("SUCCEEDED", "FAILED", "STOPPED")


def following(client):
    server = object.__new__(JobServer)
    server.address, server._client = "http://head:8265", client
    return server


def test_a_lost_connection_is_taken_up_where_the_log_was(monkeypatch):
    monkeypatch.setattr("ialign_ray.jobs.server._POLL_SECONDS", 0)
    lost = RuntimeError("WebSocket connection closed unexpectedly")
    proxy = aiohttp.WSServerHandshakeError(None, (), status=502)  # of a head that restarts
    client = Log(["ab", "c", lost], [lost], [proxy], ["abcd", "e"], ["ab", "cdefg"])
    written = []
    assert following(client).follow("tiny-align", written.append) == 0
    assert "".join(written) == "abcdefgh"


def test_a_job_that_is_not_there_is_told_at_once():
    class Without(Log):
        def get_job_info(self, name):
            raise RuntimeError("Request failed with status code 404: Job nothing does not exist.")

        def list_jobs(self):
            return []

    with pytest.raises(ClusterError, match="job 'nothing' at http://head:8265.*see `ialign jobs`"):
        following(Without([aiohttp.WSServerHandshakeError(None, (), status=404)])).follow("nothing", pytest.fail)


def test_a_job_that_ray_lost_is_told(monkeypatch):
    written = []
    client = Log(["abc"], status="FAILED", code=None)
    assert following(client).follow("tiny-align", written.append) == 1
    assert "".join(written) == "abcdefghthe job did not run to its end: lost\n"


def test_a_user_who_stops_looking_hears_how_to_look_again():
    with pytest.raises(DetachedError, match="follow it again with `ialign jobs --follow tiny-align`"):
        following(Log([KeyboardInterrupt()], ["x"])).follow("tiny-align", pytest.fail)


def test_a_pipe_gets_whole_names(ialign, monkeypatch):
    from ray.job_submission import JobDetails

    name = "indonesian-javanese-sundanese-minangkabau-half-replay-rank-sixteen-align-first"
    job = JobDetails(type="SUBMISSION", submission_id=name, status="FAILED", entrypoint="x", driver_exit_code=143)
    monkeypatch.setattr(JobServer, "__init__", lambda *_: None)
    monkeypatch.setattr(JobServer, "jobs", lambda _: [job])
    monkeypatch.setenv("COLUMNS", "60")
    assert name in ialign("jobs")[1]
