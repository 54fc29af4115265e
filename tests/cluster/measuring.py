"""What a fault costs a run: watched from outside, step by step, and written down for docs/clusters.md."""

from __future__ import annotations

import json
import os
import threading
import time
from itertools import pairwise
from pathlib import Path

from launch import REPOSITORY

from ialign_ray.training.run_log import records

LOG = REPOSITORY / "runs" / "cluster-faults.jsonl"
PAUSE = 2.0
"""Seconds without a step that are no pause: a checkpoint, or a busy machine."""


def steps_done(run: Path) -> int:
    """The last step that a run recorded."""
    return max((r["step"] for r in records(run)), default=0)


class Watch:
    """Every change of a run's last recorded step while the block goes on; back at a checkpoint, it falls."""

    def __init__(self, run: Path) -> None:
        self.seen = [(time.monotonic(), steps_done(run))]
        self._run, self._ended = run, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.03):
            step = steps_done(self._run)
            if step != self.seen[-1][1]:
                self.seen.append((time.monotonic(), step))

    def cost(self, fault: float) -> dict[str, float]:
        """Seconds from the fault to the first step that had not been done before, and steps done again.

        Between them lies the longest pause; without one the run went on, and both are 0.
        """
        before = [each for each in self.seen if each[0] <= fault][-1:]
        seen = [(fault, before[0][1]), *(each for each in self.seen if each[0] > fault)]
        pauses = [later[0] - earlier[0] for earlier, later in pairwise(seen)]
        longest = max(range(len(pauses)), key=pauses.__getitem__)
        if pauses[longest] < PAUSE:
            return {"seconds": 0.0, "steps_repeated": 0}
        highest = max(step for _, step in seen[: longest + 1])
        back = next(when for when, step in seen[longest + 1 :] if step > highest)
        repeated = sum(max(0, a[1] - b[1]) for a, b in pairwise(seen))
        return {"seconds": round(back - fault, 1), "steps_repeated": repeated}


def write_down(case: str, **found: object) -> None:
    """One line for the table in docs/clusters.md."""
    LOG.parent.mkdir(exist_ok=True)
    line = {"case": case, **found, "load": round(os.getloadavg()[0], 1), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
    with LOG.open("a") as file:
        file.write(json.dumps(line) + "\n")
