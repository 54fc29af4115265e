"""Inputs of a report, kept in one folder so that it can be made again without models, clusters or data.

`report/`, next to the tables, holds `experiment.yaml`, `runs.json` (run -> the folders of its training seeds, relative
to the folder of the tables), `predictions-SUITE.parquet`, every prediction with its run and seed, and
`baselines-SUITE.parquet`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ialign_ray.config import Experiment, dump_yaml, load_experiment
from ialign_ray.errors import DataError
from ialign_ray.evaluation.report.page_history import refuse_mixed_seeds
from ialign_ray.evaluation.results.analysis import BASE, Runs
from ialign_ray.evaluation.results.fitted_baselines import Fitted, fit_baselines
from ialign_ray.storage import is_intact, read_json, whole_folder, write_json, write_text

REPORT = "report"
_RUNS, _EXPERIMENT = "runs.json", "experiment.yaml"


@dataclass(frozen=True)
class ReportInputs:
    """Predictions of all runs of an experiment, and the folders of those runs."""

    experiment: Experiment
    runs: Runs
    folders: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Run -> the folders of its training seeds; curves and records are read from them while they are there."""
    baselines: Mapping[str, Fitted] = field(default_factory=dict)
    """Suite of classes -> its baselines."""
    notes: Sequence[str] = ()
    """Sentences about what is missing, and why."""
    warnings: Sequence[str] = ()
    """Sentences about rows that runs were trained on, and that are left out."""


def gather(
    experiment: Experiment,
    runs: Runs,
    folder: Path,
    folders: Mapping[str, Sequence[Path]] | None = None,
    warnings: Sequence[str] = (),
) -> ReportInputs:
    """Material with baselines, those that `folder`/report holds of the same rows or new ones, written there.

    Raises DataError where the seeds of a run were trained with different settings.
    """
    refuse_mixed_seeds(folders or {})
    kept = folder / REPORT
    stored = _baselines(kept) if is_intact(kept) else {}
    material = ReportInputs(experiment, runs, folders or {}, *fit_baselines(experiment, stored), warnings)
    save_material(material, folder)
    return material


def save_material(material: ReportInputs, folder: Path) -> None:
    """Write `folder`/report, whole or not at all."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for run, seeds in material.runs.items():
        for seed, by_suite in enumerate(seeds):
            for suite, frame in by_suite.items():
                parts.setdefault(suite, []).append(frame.assign(run=run, seed=seed))
    # relative, so that a folder of runs may be moved as a whole
    base = Path(os.path.realpath(folder))
    places = {
        run: [os.path.relpath(os.path.realpath(path), base) for path in paths]
        for run, paths in material.folders.items()
    }
    with whole_folder(folder / REPORT) as scratch:
        write_text(scratch / _EXPERIMENT, dump_yaml(material.experiment))
        for number, (suite, frames) in enumerate(parts.items()):
            _write(frames, scratch / f"predictions-{number}-{_plain(suite)}.parquet")
        for number, (suite, fitted) in enumerate(material.baselines.items()):
            frames = [frame.assign(run=name) for name, frame in fitted.predictions.items()]
            _write(frames, scratch / f"baselines-{number}-{_plain(suite)}.parquet")
        keys = {suite: fitted.key for suite, fitted in material.baselines.items()}
        known = {"runs": list(material.runs), "folders": places, "baselines": keys, "warnings": [*material.warnings]}
        write_json(scratch / _RUNS, known)


def _write(frames: Sequence[pd.DataFrame], path: Path) -> None:
    pd.concat(frames, ignore_index=True).to_parquet(path, index=False, compression="zstd")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def find_material(given: Path) -> Path:
    """The folder of tables that a given folder means: itself, or a run's `evaluation`."""
    for folder in (given, given / "evaluation"):
        if (folder / REPORT).exists():
            return folder
    raise DataError(f"{given} holds no `{REPORT}` folder; run `ialign compare` or `ialign evaluate` first")


def load_material(folder: Path) -> ReportInputs:
    """Read `folder`/report. Raises DataError where it is torn."""
    kept = folder / REPORT
    if not is_intact(kept):
        raise DataError(f"{kept} is torn or was changed; run `ialign compare` or `ialign evaluate` again to write it")
    meta = read_json(kept / _RUNS)
    runs: dict[str, dict[int, dict[str, pd.DataFrame]]] = {run: {} for run in meta["runs"]}
    for path in sorted(kept.glob("predictions-*.parquet"), key=lambda p: int(p.name.split("-")[1])):
        for (run, seed), frame in pd.read_parquet(path).groupby(["run", "seed"], sort=False):
            # suites' frames were written together: columns of other runs are empty in this one
            rows = frame.drop(columns=["run", "seed"]).dropna(axis=1, how="all").reset_index(drop=True)
            runs[str(run)].setdefault(int(str(seed)), {})[str(rows["suite"].iloc[0])] = rows
    return ReportInputs(
        load_experiment(kept / _EXPERIMENT, stored=True),
        {run: [seeds[k] for k in sorted(seeds)] for run, seeds in runs.items()},
        {run: [(folder / path).resolve() for path in paths] for run, paths in meta["folders"].items()},
        _baselines(kept),
        warnings=meta.get("warnings", ()),
    )


def _baselines(kept: Path) -> dict[str, Fitted]:
    found = {}
    for number, (suite, key) in enumerate(read_json(kept / _RUNS).get("baselines", {}).items()):
        rows = pd.read_parquet(kept / f"baselines-{number}-{_plain(suite)}.parquet")
        made = {
            str(name): part.drop(columns="run").reset_index(drop=True) for name, part in rows.groupby("run", sort=False)
        }
        found[suite] = Fitted(key, made)
    return found


def joined(found: Mapping[str, ReportInputs]) -> ReportInputs:
    """Several materials as one. The base must be the same; a name that two others share gets its folder before it.

    Raises DataError where the bases differ, as gains over different bases cannot be compared.
    """
    (first_name, first), *others = found.items()
    runs, folders = dict(first.runs), dict(first.folders)
    for name, other in others:
        if BASE in runs and BASE in other.runs and not _equal(runs[BASE], other.runs[BASE]):
            raise DataError(f"{first_name} and {name} have different predictions of base; report them apart")
        for run, seeds in other.runs.items():
            if run in runs and _equal(runs[run], seeds):
                continue
            chosen = f"{Path(name).name}:{run}" if run in runs else run
            runs[chosen], folders[chosen] = seeds, other.folders.get(run, [])
    warnings = list(dict.fromkeys(line for material in found.values() for line in material.warnings))
    return ReportInputs(first.experiment, runs, folders, first.baselines, warnings=warnings)


def _equal(first: Sequence[Mapping[str, pd.DataFrame]], second: Sequence[Mapping[str, pd.DataFrame]]) -> bool:
    if len(first) != len(second) or any(a.keys() != b.keys() for a, b in zip(first, second)):
        return False
    return all(
        a[suite].to_json(double_precision=8) == b[suite].to_json(double_precision=8)
        for a, b in zip(first, second)
        for suite in a
    )
