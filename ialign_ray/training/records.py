"""Lines of JSON that grow while a run goes on: for curves, and for what a resumed run decides from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Records:
    """One such file, written by one process. Where the disk takes no more, lines wait in memory for room."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting = b""

    def append(self, record: dict[str, Any]) -> str | None:
        """Add a line; the cause when it begins to wait in memory. Half a line is taken back."""
        told = bool(self._waiting)
        self._waiting += json.dumps(record).encode() + b"\n"
        try:
            self.settle()
        except OSError as error:
            return None if told else error.strerror or str(error)
        return None

    def settle(self) -> None:
        """Write what waits, or raise OSError."""
        if not self._waiting:
            return
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            if file.write(self._waiting) == len(self._waiting):
                self._waiting = b""
            else:
                file.truncate(size)
                raise OSError("no room for a whole record")

    def forget_after(self, step: int) -> None:
        """Cut the lines beyond `step` off, and a torn last one; needs no room on the disk."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            end = 0
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n") or _step_of(line) > step:
                    break
                end += len(line)
            file.truncate(end)

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; one torn by a crash is passed over."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except ValueError:
        return 0
