"""A job server out of reach, of another kind or version: one sentence within seconds; and how a job ended."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from refusals import refused

from ialign_ray.errors import ConfigError
from ialign_ray.jobs.server import exit_code, http_address, with_agent


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


@pytest.mark.parametrize("body", ["<html>", "[]", "{}"])
def test_another_kind_of_server(ialign, answering, body):
    refused(ialign("jobs", "--address", answering(body)), "answers, but not as a Ray job server does")


def test_a_token_that_is_not_there(ialign, answering, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    locked = answering("Unauthorized: Missing authentication token", 401)
    refused(ialign("jobs", "--address", locked), "asks for another token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN")


def test_addresses(monkeypatch):
    assert http_address("head:8265/") == "http://head:8265"
    assert http_address("https://head") == "https://head"
    for wrong in ("auto", "ray://head:10001", "http://"):
        with pytest.raises(ConfigError, match="is no job server; give the dashboard's address"):
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
