"""COMET and its relatives (Rei et al. 2020, arXiv 2009.09025): quality of an answer, judged by a trained model.

The package `unbabel-comet` runs in another process with its own Python environment: version 2.2.7 needs numpy below 2
and transformers below 5, so it cannot be installed next to this package. The environment variable
`IALIGN_COMET_PYTHON` names that environment's Python. The process loads the model once, and each text is scored once.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any, Final, NamedTuple

import numpy as np

from ialign_ray.errors import ConfigError, ModelError
from ialign_ray.evaluation.metrics.bootstrap import Floats
from ialign_ray.evaluation.metrics.cell import Cell

COMET: Final = "Unbabel/wmt22-comet-da"
"""Rei et al. 2022, wmt22: about 0 to 1."""
AFRICOMET: Final = "masakhane/africomet-mtl"
"""Wang et al. 2024, arXiv 2311.09828: trained for African languages."""
PYTHON: Final = "IALIGN_COMET_PYTHON"

_WORKER: Final = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # Lightning prints to standard output
import torch
from comet import download_model, load_from_checkpoint
model = load_from_checkpoint(download_model(sys.argv[1]))
for line in sys.stdin:
    found = model.predict(json.loads(line), batch_size=16, gpus=int(torch.cuda.is_available()), progress_bar=False)
    print(json.dumps([float(score) for score in found.scores]), file=answers, flush=True)
"""


class JudgedTexts(NamedTuple):
    """Texts of one answer, as a metric with references needs them."""

    source: str
    """Sentence to translate, or texts of the row in the prompt."""
    hypothesis: str
    """Answer of the model."""
    references: tuple[str, ...]
    """One reference or several."""


def judged_texts(cell: Cell) -> list[JudgedTexts] | None:
    """Source, answer and references of each row of a translation or generation suite; None if nothing was generated."""
    if "hypothesis" not in cell.rows.columns:
        return None
    several = "references" if "references" in cell.rows.columns else None
    references = cell.rows[several] if several else cell.rows["reference"].map(lambda text: [text])
    rows = zip(cell.rows["source"], cell.rows["hypothesis"], references, strict=True)
    return [JudgedTexts(source, hypothesis, tuple(given)) for source, hypothesis, given in rows]


def comet_draws(checkpoint: str, cell: Cell) -> Floats | None:
    """Mean over rows of the best score over a row's references (draws,); None if nothing was generated.

    Raises ConfigError if `unbabel-comet` is not installed, ModelError if it fails.
    """
    rows = judged_texts(cell)
    if rows is None:
        return None
    scores = iter(_scores(checkpoint, [(r.source, r.hypothesis, one) for r in rows for one in r.references]))
    return cell.mean(np.array([max(next(scores) for _ in row.references) for row in rows]))


def check_installed() -> None:
    """Raise ConfigError if `unbabel-comet` is not installed for the Python that `IALIGN_COMET_PYTHON` names."""
    _check(os.environ.get(PYTHON, sys.executable))


@lru_cache(maxsize=8)
def _check(python: str) -> None:
    found = "import importlib.util as u, sys; sys.exit(u.find_spec('comet') is None)"
    try:
        missing = subprocess.run([python, "-c", found], check=False, capture_output=True).returncode
    except OSError:
        missing = 1
    if missing:
        raise ConfigError(
            f"the metrics comet and africomet need the package unbabel-comet, which {python} lacks; run `python -m "
            f"venv comet-env && comet-env/bin/pip install unbabel-comet` and set {PYTHON}=comet-env/bin/python"
        )


_known: dict[tuple[str, str, str, str], float] = {}
"""Score of each checkpoint, source, answer and reference: intervals and comparisons measure the same rows again."""


def _scores(checkpoint: str, texts: Sequence[tuple[str, str, str]]) -> list[float]:
    new = [one for one in dict.fromkeys(texts) if (checkpoint, *one) not in _known]
    if new:
        check_installed()
        found = _ask(checkpoint, [dict(zip(("src", "mt", "ref"), one, strict=True)) for one in new])
        _known.update({(checkpoint, *one): score for one, score in zip(new, found, strict=True)})
    return [_known[checkpoint, *one] for one in texts]


def _ask(checkpoint: str, samples: list[dict[str, str]]) -> list[float]:
    worker = _worker(os.environ.get(PYTHON, sys.executable), checkpoint)
    requests, answers = _pipe(worker.stdin), _pipe(worker.stdout)
    try:
        requests.write(json.dumps(samples) + "\n")
        requests.flush()
        scores: list[float] = json.loads(answers.readline())
    except (OSError, ValueError) as error:
        _worker.cache_clear()
        worker.kill()
        raise ModelError(f"COMET ({checkpoint}) failed; its own message is above") from error
    return scores


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


@lru_cache(maxsize=1)  # a model takes gigabytes
def _worker(python: str, checkpoint: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    worker = subprocess.Popen([python, "-c", _WORKER, checkpoint], **pipes)
    atexit.register(worker.kill)
    return worker
