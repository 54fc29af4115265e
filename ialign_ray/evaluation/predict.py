"""Per-example predictions of one model on every suite, kept as parquet and never computed twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress

from ialign_ray.config import ClassificationSuite, Experiment, InstructionSuite, Suite, TranslationSuite
from ialign_ray.evaluation.suites import (
    CONTENT_FREE,
    classification_rows,
    fill,
    instruction_rows,
    translation_rows,
)
from ialign_ray.inference.scorers import label_values
from ialign_ray.inference.scoring import LabelScores, score_continuations, score_labels
from ialign_ray.storage import json_hash, read_json, write_json
from ialign_ray.tokens.encode import Encoder

Tick = Callable[[int], None]


class Scorer:
    """A model with its encoder, as the suites use it."""

    def __init__(self, model: Any, encoder: Encoder, batch_tokens: int) -> None:
        self.model, self.encoder, self.batch_tokens = model, encoder, batch_tokens
        longest = getattr(model.config, "max_position_embeddings", None)
        self._room = int(longest) if longest else 1 << 20

    def classify(self, suite: ClassificationSuite, base: str, tick: Tick) -> pd.DataFrame:
        """Scores of every label for every prompt, language and test sentence."""
        rows = classification_rows(suite, base)
        frames = []
        for prompt in suite.prompts:
            labels = [self.encoder.label(suite.labels[name][prompt.language]) for name in rows.labels]
            asked = [self._prompt(fill(prompt.text, {"text": t}), labels) for t in rows.test["text"]]
            scores = score_labels(self.model, asked, labels, max_batch_tokens=self.batch_tokens, progress=_steps(tick))
            free = self._content_free(prompt.text, labels)
            frame = rows.test.drop(columns="text").assign(prompt=prompt.name)
            for scorer in ("sum", "mean", "calibrated"):
                frame[scorer] = list(label_values(scores, scorer, free))
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def translations(self, suite: TranslationSuite, experiment: Experiment, tick: Tick) -> pd.DataFrame:
        """Nats of every held-out translation given the right and given a mismatched source."""
        rows = translation_rows(suite, experiment)
        rows["nats"], rows["tokens"] = self._nats(list(rows["prompt"]), list(rows["target"]), tick)
        rows["mismatched_nats"], _ = self._nats(list(rows["mismatched"]), list(rows["target"]), tick)
        rows["bytes"] = [len(t.encode()) for t in rows["target"]]
        return rows.drop(columns=["prompt", "mismatched", "target"])

    def instructions(self, suite: InstructionSuite, base: str, tick: Tick) -> pd.DataFrame:
        """Nats of every held-out instruction's answer."""
        rows = instruction_rows(suite, base)
        rows["nats"], rows["tokens"] = self._nats(list(rows["prompt"]), list(rows["target"]), tick)
        rows["bytes"] = [len(t.encode()) for t in rows["target"]]
        return rows.drop(columns=["prompt", "target"])

    def _content_free(self, prompt: str, labels: Sequence[list[int]]) -> LabelScores:
        asked = [self._prompt(fill(prompt, {"text": t}), labels) for t in CONTENT_FREE]
        return score_labels(self.model, asked, labels, max_batch_tokens=self.batch_tokens)

    def _prompt(self, text: str, labels: Sequence[list[int]]) -> list[int]:
        return self._tail(self.encoder.prompt(text), max(len(label) for label in labels))

    def _tail(self, prompt: list[int], answer: int) -> list[int]:
        # what exceeds the model's positions is cut from the front: the question stands at the end
        taken = 0 if self.encoder.seq2seq else answer  # an encoder-decoder counts the two sides apart
        return prompt[-max(1, self._room - taken) :]

    def _nats(self, prompts: Sequence[str], targets: Sequence[str], tick: Tick) -> tuple[Any, Any]:
        answers = [self.encoder.target(t)[: self._room - 1] for t in targets]
        asked = [self._tail(self.encoder.prompt(p), len(a)) for p, a in zip(prompts, answers, strict=True)]
        scores = score_continuations(
            self.model, asked, answers, max_batch_tokens=self.batch_tokens, progress=_steps(tick)
        )
        return -scores.log_prob, scores.tokens


def _steps(tick: Tick) -> Tick:
    """Turn "rows finished so far" into increments."""
    last = 0

    def progress(done: int) -> None:
        nonlocal last
        tick(done - last)
        last = done

    return progress


def suite_rows(suite: Suite, experiment: Experiment) -> int:
    """Rows that a suite scores, for the progress bar."""
    if isinstance(suite, ClassificationSuite):
        return len(classification_rows(suite, experiment.storage.data).test) * len(suite.prompts)
    if isinstance(suite, TranslationSuite):
        return 2 * len(translation_rows(suite, experiment))
    return len(instruction_rows(suite, experiment.storage.data))


def predict_suites(
    experiment: Experiment, load: Callable[[], Scorer], folder: Path, model_key: str, console: Console
) -> dict[str, pd.DataFrame]:
    """Predictions of a model on all suites, read from `folder` where they are there already.

    A suite's file is kept under a key of model, suite and data, and computed again when one changes.
    `load` is only called when something is missing, since a model takes seconds to load.
    """
    frames: dict[str, pd.DataFrame] = {}
    scorer: Scorer | None = None
    for suite in experiment.evaluate.suites:
        path = folder / f"{suite.name}.parquet"
        key = json_hash(
            [model_key, suite.model_dump(mode="json"), experiment.languages.names, _stamp(suite, experiment)]
        )
        if _known(path) != key or not path.exists():
            scorer = scorer or load()
            frame = _predict(suite, experiment, scorer, console, folder.parent.name)
            _write(path, frame, key)
        frames[suite.name] = pd.read_parquet(path)
    return frames


def _predict(suite: Suite, experiment: Experiment, scorer: Scorer, console: Console, name: str) -> pd.DataFrame:
    quiet = not console.is_terminal
    with Progress(console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task(f"{name}: {suite.name}", total=suite_rows(suite, experiment))

        def tick(rows: int) -> None:
            bar.advance(task, rows)

        if isinstance(suite, ClassificationSuite):
            frame = scorer.classify(suite, experiment.storage.data, tick)
        elif isinstance(suite, TranslationSuite):
            frame = scorer.translations(suite, experiment, tick)
        else:
            frame = scorer.instructions(suite, experiment.storage.data, tick)
    if quiet:
        console.print(f"{name}: scored {len(frame):,} rows of {suite.name}", highlight=False)
    return frame


def _stamp(suite: Suite, experiment: Experiment) -> Any:
    """Size and time of a local file: a changed evaluation set is scored again."""
    if suite.path is None or "://" in suite.path:
        return suite.origin
    from ialign_ray.corpus.readers import resolve

    path = Path(resolve(suite.path, experiment.storage.data))
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.exists() else None


def _known(path: Path) -> str:
    meta = path.with_suffix(".json")
    return str(read_json(meta)["key"]) if meta.exists() else ""


def _write(path: Path, frame: pd.DataFrame, key: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    scratch = path.with_suffix(".part")
    frame.to_parquet(scratch, index=False, compression="zstd")
    os.replace(scratch, path)  # noqa: PTH105 - atomic
    write_json(path.with_suffix(".json"), {"key": key, "rows": len(frame)})
