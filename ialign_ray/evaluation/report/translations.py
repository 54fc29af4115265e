"""Translations and answers in new languages by each model side by side, for the eye."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ialign_ray.config import Experiment, GenerationSuite, Suite, TranslationSuite
from ialign_ray.evaluation.results.analysis import Runs

SENTENCES = 8


def sample_translations(experiment: Experiment, runs: Runs) -> Iterator[str]:
    """Yield lines with source, reference and each model's translation (first seed) of a few test sentences.

    The directions of the new languages take turns; nothing without a suite that generates translations.
    """
    new = set(experiment.languages.l2)
    for suite in experiment.evaluate.suites:
        frames = {name: seeds[0][suite.name] for name, seeds in runs.items() if suite.name in seeds[0]}
        if not generates(suite) or not frames:
            continue
        first = next(iter(frames.values()))
        rows = first[[bool(new & set(direction.split("-"))) for direction in first["language"]]]
        rows = rows.drop_duplicates(["language", "id"])
        turns = rows.groupby("language").cumcount()
        chosen = rows.assign(turn=turns).sort_values(["turn", "language"], kind="stable").head(SENTENCES)
        if chosen.empty:
            continue
        width = max(len("reference"), *map(len, frames))
        yield f"\n{suite.name}: sentences that no run was trained on"
        for row in chosen.to_dict("records"):
            yield f"\n  {row['language']:<{width}}  {row['source']}"
            reference = " | ".join(row["references"]) if "references" in row else row["reference"]
            yield f"  {'reference':<{width}}  {reference}"
            for name, frame in frames.items():
                yield f"  {name:<{width}}  {_made(frame, row['language'], row['id'])}"


def generates(suite: Suite) -> bool:
    """Return True for a suite whose predictions hold generated texts and their references."""
    return isinstance(suite, GenerationSuite) or (isinstance(suite, TranslationSuite) and suite.generate)


def _made(frame: pd.DataFrame, direction: str, row_id: str) -> str:
    found = frame[(frame["language"] == direction) & (frame["id"] == row_id)]
    return str(found["hypothesis"].iloc[0]) if len(found) else ""
