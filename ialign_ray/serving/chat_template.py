"""Chat templates of models, rendered in a separate process with limits of time, memory and length."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary, finalize

from ialign_ray.errors import ModelError
from ialign_ray.tokens.chat import RefusedTurnsError, dated

RENDER_S: Final = 2.0
"""Longest time of one conversation; templates of ordinary models take milliseconds."""
_START_S: Final = 60.0
_AROUND_TEXT, _AROUND_TURN = 65_536, 1024
"""Characters that a template may write around a conversation, and around each turn."""
_SCRIPT = Path(__file__).with_name("chat_process.py")
_PASSED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
"""Environment of the process, without keys and tokens."""


class ChatTemplate:
    """One template, and the process that renders it. Models with equal templates share both.

    `render` blocks, and one thread at a time runs it: the one in `threads`, so that a slow template delays no other
    model.
    """

    def __init__(self, template: str, variables: Mapping[str, Any]) -> None:
        """`variables`: special tokens and others that the template may name."""
        self._template, self._variables = template, dict(variables)
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._end: finalize[..., Any] | None = None
        self.threads = ThreadPoolExecutor(1, "ialign-chat")

    def render(self, turns: Sequence[Mapping[str, str]], generation: bool = True) -> str:
        """Render a conversation, with `generation` up to the beginning of the next answer.

        Raises RefusedTurnsError, or ModelError if the template fails or reaches a limit.
        """
        length = sum(len(turn["content"]) for turn in turns)
        asked = {
            "template": self._template,
            "variables": self._variables,
            "generation": generation,
            "turns": list(turns),
            "most": _AROUND_TEXT + 2 * length + _AROUND_TURN * len(turns),
            "seconds": RENDER_S,
        }
        with self._lock:
            answer = self._answer(json.dumps(asked).encode())
        if "text" in answer:
            return str(answer["text"])
        if answer["error"] == "Refused":
            raise RefusedTurnsError("the model's chat template does not accept these roles in this order")
        raise ModelError(
            f"the model's chat template failed ({answer['error']}) or took more than {RENDER_S:g} s for this "
            "conversation; shorten it, or ask another model"
        )

    def check(self, name: str) -> None:
        """Raise ModelError if the template of the model `name` cannot render one short turn in time."""
        try:
            self.render([{"role": "user", "content": "a"}])
        except RefusedTurnsError:
            pass
        except ModelError as error:
            raise ModelError(f"{name} is refused: {error}") from error

    def _answer(self, asked: bytes) -> dict[str, Any]:
        connection = self._connection or self._start()
        try:
            connection.send_bytes(asked)
            if connection.poll(RENDER_S):
                answer: dict[str, Any] = json.loads(connection.recv_bytes())
                return answer
            reason = "Timeout"
        except (OSError, EOFError):
            reason = "Killed"
        self._stop()
        return {"error": reason}

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
        # -P: the folder of the script contains modules with names of other packages
        command = [sys.executable, "-P", str(_SCRIPT), str(theirs.fileno())]
        with theirs:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        connection = Connection(ours.detach())
        self._connection, self._end = connection, finalize(self, _end, process, connection)
        try:
            if not connection.poll(_START_S):
                raise EOFError
            connection.recv_bytes()
        except (OSError, EOFError) as error:
            self._stop()
            raise ModelError("the process that renders chat templates does not start; see the log") from error
        return connection

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._connection = self._end = None


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()


_KNOWN: WeakValueDictionary[str, ChatTemplate] = WeakValueDictionary()
_LOCK = threading.Lock()


def template_of(tokenizer: Any, arguments: Mapping[str, Any] | None = None, date: str | None = None) -> ChatTemplate:
    """Return the template of a tokenizer that has one, with further variables and the day that it prints (ISO)."""
    template = dated(str(tokenizer.get_chat_template()), date)
    variables = {**tokenizer.special_tokens_map, **(arguments or {})}
    with _LOCK:
        key = json.dumps([template, variables])
        found = _KNOWN.get(key)
        if found is None:
            found = _KNOWN[key] = ChatTemplate(template, variables)
        return found
