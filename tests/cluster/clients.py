"""Clients on a host of the cluster, until a file appears: python clients.py URL MODEL CLIENTS FOLDER.

`FOLDER/counts.json` is written again twice a second: requests answered, attempts that failed at first, requests lost.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from load import Load


def counts(load: Load) -> dict[str, object]:
    """What became of the requests so far; attempts of one that failed are counted by status, 0 is a lost connection."""
    return {
        "requests": len(load.answers),
        "failed_at_first": len(load.failures),
        "statuses": {str(k): n for k, n in Counter(a.status for a in load.failures).items()},
        "lost": len(load.lost),
        "texts": len({a.text for a in load.answers if a.status == 200}),
        "last": max((a.when for a in load.answers if a.status == 200), default=0.0),
        "longest_gap": round(longest_gap(load), 1),
    }


def longest_gap(load: Load) -> float:
    """The longest time, s, in which no request of any client was answered."""
    times = sorted(a.when for a in load.answers if a.status == 200)
    return max((b - a for a, b in pairwise(times)), default=0.0)


def main(url: str, model: str, clients: str, folder: str) -> None:
    out = Path(folder)
    with Load(url, int(clients), model=model, tokens=12, retries=5) as load:
        while not (out / "stop").exists():
            tell(out, load)
            time.sleep(0.5)
    tell(out, load)
    (out / "ended").touch()


def tell(out: Path, load: Load) -> None:
    (out / "new.json").write_text(json.dumps(counts(load)))
    (out / "new.json").rename(out / "counts.json")


if __name__ == "__main__":
    main(*sys.argv[1:])
