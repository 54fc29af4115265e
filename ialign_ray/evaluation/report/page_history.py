"""Training as the runs' folders record it: curves, counts of data and warnings. A folder that is gone is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ialign_ray.config import load_experiment
from ialign_ray.corpus.build import latest
from ialign_ray.errors import DataError, IalignError
from ialign_ray.storage import read_json
from ialign_ray.training.run_log import records, shown_warnings, validations

POINTS = 60
"""Points of a curve: more cannot be distinguished, and make the page heavy."""
_CURVE = ["run", "seed", "source", "step", "loss"]
EXPERIMENT = "experiment.yaml"
_NO_RECIPE = ("train.seed", "train.micro_batch", "train.gradient_check", "train.compile", "train.batching",
              "train.checkpoint_every", "train.keep_checkpoints", "train.validation")  # fmt: skip
"""Beginnings of the fields in which the seeds of one run may differ: they decide nothing else than the seed does."""
_OF_TRAINING = ("model", "corpora", "cleaning", "decontamination", "replay", "tasks", "train")
"""Sections that decide what a run becomes."""
Folders = Mapping[str, Sequence[Path]]


def loss_curves(folders: Folders) -> pd.DataFrame:
    """Nats per target token of each task and of replay, averaged over equal stretches of steps."""
    parts = [_of_run(run, seed, path) for run, seed, path in _each(folders)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_CURVE)


def validation_curves(folders: Folders) -> pd.DataFrame:
    """Losses that validation found on the way, where there was any."""
    rows = [
        (run, seed, source, found.step, loss)
        for run, seed, path in _each(folders)
        for found in validations(path)
        for source, loss in found.losses.items()
    ]
    return pd.DataFrame(rows, columns=_CURVE)


def data_counts(folders: Folders) -> list[dict[str, Any]]:
    """A row for each run and corpus: how many rows were read, and what became of them."""
    rows = []
    for run, seed, path in _each(folders):
        if seed == 0 and (path / "record.json").exists():
            data = read_json(path / "record.json").get("data", {})
            sources = data.get("corpora", {}) | {"replay": data.get("replay") or {}}
            rows += [{"run": run, "source": name, "counts": counts} for name, counts in sources.items() if counts]
    return rows


def source_shares(folders: Folders) -> list[dict[str, Any]]:
    """A row for each run and source of its first seed: examples drawn, and its shares of the examples and of the loss.

    Keys: run, source, drawn, share, loss_share. The loss share is NaN for runs of versions that did not record it.
    """
    rows = []
    for run, seed, path in _each(folders):
        if seed == 0 and (path / "record.json").exists():
            drawn = read_json(path / "record.json").get("drawn") or {}
            counts, loss = drawn.get("by_source", {}), drawn.get("loss_share", {})
            total = sum(counts.values())
            rows += [
                {"run": run, "source": source, "drawn": n, "share": n / total, "loss_share": loss.get(source, math.nan)}
                for source, n in counts.items()
                if total
            ]
    return rows


def cleaning_drops(folders: Folders) -> list[dict[str, Any]]:
    """A row for each corpus that runs were trained on: what each step of cleaning dropped and changed in it.

    Keys: corpus, read, kept (rows), steps (name -> rows, dropped, changed; texts), only those that did something. The
    corpus that was built last under the run's experiment is read, if it has as many rows as the run read.
    """
    rows: dict[str, dict[str, Any]] = {}
    for _, _, path in _each(folders):
        for name, counts in _built(path).items():
            rows.setdefault(json.dumps([name, counts["version"]]), _drops(name, counts))
    return list(rows.values())


def differences(folders: Folders) -> tuple[list[str], list[dict[str, Any]]]:
    """Runs, and the fields that decide training in which they differ: field, and run -> its values over seeds."""
    found: dict[str, list[dict[str, str]]] = {}
    for run, _, path in _each(folders):
        if (path / EXPERIMENT).exists():
            found.setdefault(run, []).append(_settings(path))
    fields = dict.fromkeys(field for seeds in found.values() for seed in seeds for field in seed)
    values = {
        field: {run: ", ".join(dict.fromkeys(s.get(field, "–") for s in seeds)) for run, seeds in found.items()}
        for field in fields
    }
    return list(found), [{"field": f, "values": of} for f, of in values.items() if len(set(of.values())) > 1]


def refuse_mixed_seeds(folders: Folders) -> None:
    """Raise DataError where the seeds of a run were trained with different settings: their spread is not luck alone."""
    for run, paths in folders.items():
        known = [(path, _settings(path)) for path in paths if (path / EXPERIMENT).exists()]
        for path, settings in known[1:]:
            first, of_first = known[0]
            for field in of_first.keys() | settings.keys():
                values = [each.get(field, "left out") for each in (of_first, settings)]
                if values[0] != values[1] and not field.startswith(_NO_RECIPE):
                    raise DataError(
                        f"the seeds of {run} differ in {field}: {values[0]} in {first.name} and {values[1]} in "
                        f"{path.name}; train them with the same settings, or give the runs different names"
                    )


def _settings(path: Path) -> dict[str, str]:
    whole = yaml.safe_load((path / EXPERIMENT).read_text(encoding="utf-8"))
    return _flat({k: whole[k] for k in _OF_TRAINING if k in whole})


def warnings(folders: Folders) -> list[str]:
    """Warnings of the runs, each once."""
    lines = (f"{run} (seed {seed}): {line}" for run, seed, path in _each(folders) for line in shown_warnings(path))
    return list(dict.fromkeys(lines))


def _of_run(run: str, seed: int, path: Path) -> pd.DataFrame:
    rows = [
        (name.partition("/")[0], record["step"], nats, tokens)
        for record in records(path)
        for name, (nats, tokens) in record.get("sources", {}).items()
    ]
    steps = pd.DataFrame(rows, columns=["source", "step", "nats", "tokens"])
    if steps.empty:
        return pd.DataFrame(columns=_CURVE)
    # rounded up, so that there are at most POINTS stretches
    width = max(1, -(-int(steps["step"].max()) // POINTS))
    steps["step"] = ((steps["step"] - 1) // width + 1) * width
    total = steps.groupby(["source", "step"], as_index=False)[["nats", "tokens"]].sum()
    return total.assign(run=run, seed=seed, loss=total["nats"] / total["tokens"])[_CURVE]


def _each(folders: Folders) -> Iterator[tuple[str, int, Path]]:
    for run, paths in folders.items():
        for seed, path in enumerate(paths):
            if path.is_dir():
                yield run, seed, path


def _built(run: Path) -> dict[str, dict[str, Any]]:
    """Corpus -> counts of the build that the run read, as far as that is known."""
    try:
        built = latest(load_experiment(run / EXPERIMENT, stored=True))
        read = read_json(run / "record.json")["data"]["corpora"]
    except (IalignError, OSError, KeyError, ValueError):
        return {}
    if built is None:
        return {}
    counts = built.counts
    return {
        name: of | {"version": counts["version"]}
        for name, of in counts["corpora"].items()
        if name in read and of["rows_in"] == read[name]["read"]
    }


def _drops(name: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    steps = {
        step: {
            "rows": counts["dropped_rows"].get(step, 0),
            "dropped": sum(counts["dropped"].get(step, {}).values()),
            "changed": sum(counts["changed"].get(step, {}).values()),
        }
        for step in dict.fromkeys([*counts["dropped_rows"], *counts["dropped"], *counts["changed"]])
    }
    active = {step: of for step, of in steps.items() if any(of.values())}
    return {"corpus": name, "read": counts["rows_in"], "kept": counts["rows_out"], "steps": active}


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Dotted field -> value as JSON; items of lists go by their `name`, or their place."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(item.get("name", k)): item for k, item in enumerate(value)}
    if not isinstance(value, dict) or not value:
        return {name: json.dumps(value, ensure_ascii=False)}
    parts = [_flat(of, f"{name}.{key}" if name else str(key)) for key, of in value.items()]
    return {field: text for part in parts for field, text in part.items()}
