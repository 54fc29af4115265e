"""Clients that ask without a pause, and what became of each request."""

import threading
import time
from dataclasses import dataclass

import httpx2 as httpx

AGAIN = {408, 409, 429, 500, 502, 503, 504}
"""What OpenAI's client tries again, as it does a lost connection."""


@dataclass(frozen=True)
class Answer:
    status: int
    """0 where the connection was lost."""
    version: str | None = None
    text: str | None = None
    retry_after: str | None = None
    attempts: int = 1
    when: float = 0.0


class Load:
    """`threads` clients until the block ends; `answers` has the last attempt of each request, `failures` the others."""

    def __init__(self, url, threads, *, model="champion", tokens=12, retries=0):
        self.url, self.retries = url, retries
        self.body = question(model, tokens)
        self.answers, self.failures, self._ending = [], [], threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        for thread in self._threads:
            thread.join(120)

    @property
    def lost(self):
        return [a for a in self.answers if a.status != 200]

    def versions(self, last):
        """What the last answers came from."""
        return [a.version for a in self.answers[-last:]]

    def mixed(self, texts):
        """Answers whose text is not that of the version that they name."""
        return [a for a in self.answers if a.status == 200 and a.text != texts[a.version]]

    def _run(self):
        with httpx.Client(timeout=60) as client:
            while not self._ending.is_set():
                self.answers.append(self._ask(client))

    def _ask(self, client):
        for attempt in range(1, self.retries + 2):
            answer = ask(client, self.url, self.body, attempt)
            if answer.status not in AGAIN | {0} or attempt > self.retries:
                return answer
            self.failures.append(answer)
            time.sleep(0.5 * 2**attempt)
        raise AssertionError


def question(model, tokens, **more):
    """A chat whose greedy answer is a version's own."""
    messages = [{"role": "user", "content": "The cat"}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}


def ask(client, url, body, attempt=1):
    try:
        found = client.post(f"{url}/v1/chat/completions", json=body)
    except httpx.HTTPError:
        return Answer(0, attempts=attempt, when=time.monotonic())
    text = found.json()["choices"][0]["message"]["content"] if found.status_code == 200 else None
    headers = found.headers
    return Answer(
        found.status_code, headers.get("x-model-version"), text, headers.get("retry-after"), attempt, time.monotonic()
    )


def until(true, seconds=60.0):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
