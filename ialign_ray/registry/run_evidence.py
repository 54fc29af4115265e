"""A version's folder: all evidence of a model, gathered from its run and hashed.

model/ as written by `ialign align`: adapter or full model, tokenizer, record.json; absent for a base with a context
context/                    settings and pools of the context that its prompts have, if there is one
predictions/version/        per-example predictions by suite, parquet
predictions/base/           those of the untrained base model
predictions/control/        those of the replay-only run, if there is one
metrics.csv                 every score with n and its 95 % interval
experiment.yaml             the resolved experiment whose `evaluate` was used
data.json                   suite -> hash of the texts that were scored
README.md                   the card, with scores
search/                     front and winner of the search, if the run is a trial
manifest.json               SHA-256 of every file
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from ialign_ray.config import Experiment, dump_yaml, load_experiment
from ialign_ray.config.suite_source import TEXT
from ialign_ray.errors import RegistryError
from ialign_ray.evaluation.metrics.registry import lower_is_better
from ialign_ray.evaluation.report.declared import MARK, declared, declared_notes
from ialign_ray.evaluation.report.inputs import REPORT
from ialign_ray.evaluation.results.cells import Frames, Measured
from ialign_ray.evaluation.results.summary import summarise
from ialign_ray.evaluation.rules import rules_of, tolerance_of
from ialign_ray.evaluation.scoring.context_suites import contexted_units
from ialign_ray.evaluation.scoring.portable_contexts import portable_context
from ialign_ray.evaluation.scoring.predict import predict_models
from ialign_ray.evaluation.scoring.predictions import row_keys
from ialign_ray.evaluation.scoring.prompted_suites import Unit
from ialign_ray.evaluation.scoring.suite_kinds import SUITES, suite_units
from ialign_ray.evaluation.scoring.trained_on import trained_on
from ialign_ray.evaluation.scoring.worker import Subject, plan_work
from ialign_ray.evaluation.subjects import BASE, PREDICTIONS, base_subject, run_name, run_subject
from ialign_ray.incontext.stored import StoredContext, tokenizer_hash, write_context
from ialign_ray.modeling.fingerprint import base_identity
from ialign_ray.modeling.load import load_tokenizer
from ialign_ray.pages import markdown_table
from ialign_ray.registry.attempts import SHORT, looks, row_tags
from ialign_ray.registry.evidence import Evidence
from ialign_ray.registry.store import Version, content_hash
from ialign_ray.search.results import PARETO_FRONT, TRIALS, WINNER
from ialign_ray.storage import json_hash, read_json, spoiled_file, whole_folder, write_json, write_text
from ialign_ray.training.runs import MODEL, RECORD, run_experiment

VERSION, CONTROL, SEARCH, CONTEXT = "version", "control", "search", "context"
_EXPERIMENT, _CARD, _METRICS, _DATA = "experiment.yaml", "README.md", "metrics.csv", "data.json"
_TEXTS = ("language", "id", "label", "source", "target", "references", "checks", "asked")
"""Columns of a suite's rows that contain the sentence itself (or a hash of it), in addition to those of its texts."""


@dataclass(frozen=True)
class RunEvidence:
    """Content of a version."""

    run: Path
    experiment: Experiment
    frames: Mapping[str, Mapping[str, pd.DataFrame]]
    """`version`, `base` and `control` -> suite -> predictions."""
    data: Mapping[str, str]
    """Suite -> hash of the texts that were scored."""
    warnings: Sequence[str] = ()
    """Sentences about rows that the run or its control was trained on, and that are excluded."""
    context: StoredContext | None = None
    """Context of the version's prompts."""
    trained: bool = True
    """False if the version is the base model with a context."""

    @property
    def weights(self) -> str:
        """Hash of the version's weights and tokenizer."""
        return content_hash(self.run / MODEL) if self.trained else json_hash(base_identity(self.experiment.model))


def gather(
    run: Path, evaluated: Experiment | None = None, control: Path | None = None, context: str | None = None
) -> RunEvidence:
    """Collect a finished run's predictions and those of base and control.

    With a `context` the predictions are those under it. The run may then be the folder of `ialign icl`, and the version
    is the base model with that context.

    `evaluated` is the experiment that the run was evaluated with, if not its own. The control is the run that the
    experiment's `compare.arms.control` trained alongside it, if that is finished. Raises RegistryError if the run is
    unfinished or damaged, or predictions are missing or of another model.
    """
    trained = context is None or (run / MODEL).exists()
    if trained and (spoiled := spoiled_file(run / MODEL)) is not None:
        raise RegistryError(
            f"{run} contains no finished model: {MODEL}/{spoiled} is missing or does not match its hash; "
            "finish it with `ialign align ... --resume`, or name another run"
        )
    experiment = (
        _with_evaluation(run_experiment(run / MODEL), evaluated) if trained else evaluated or prompted_experiment(run)
    )
    if not experiment.evaluate.suites:
        raise RegistryError(f"{run}: evaluate.suites is empty, so nothing was measured; evaluate with an experiment")
    # the run may have been moved: base predictions are read next to it, not in the experiment's folder
    base = replace(base_subject(experiment), folder=(_beside(run, BASE) or run.parent / BASE) / PREDICTIONS)
    own = run_subject(experiment, run) if trained else base
    subjects = {VERSION: own if context is None else replace(own, context=context), BASE: base}
    if beside := control or _control_beside(run, experiment):
        subjects[CONTROL] = run_subject(experiment, beside)
    kept = None
    if context is not None:
        kept = portable_context(experiment, context, tokenizer_hash(_tokenizer(experiment, run, trained)))
    units = suite_units(experiment)
    runs = {role: s.folder.parent for role, s in subjects.items() if role != BASE and s.folder != base.folder}
    known = trained_on(experiment, runs, units)
    asked = units + (contexted_units(experiment, [context]) if context is not None else [])
    frames = [known.clear(found) for found in _kept(experiment, asked, list(subjects.values()))]
    units = [replace(unit, rows=known.without(unit.suite, unit.rows)) for unit in units]
    found = dict(zip(subjects, frames, strict=True))
    return RunEvidence(run, experiment, found, _hashes(units), known.warnings, kept, trained)


def prompted_experiment(run: Path) -> Experiment:
    """The experiment of a folder of `ialign icl`."""
    if not (file := run / REPORT / _EXPERIMENT).exists():
        raise RegistryError(f"{run} is neither a finished run nor a folder of `ialign icl`; name one of them")
    return load_experiment(file, stored=True)


def _tokenizer(experiment: Experiment, run: Path, trained: bool) -> Any:
    own = str(run / MODEL) if trained and (run / MODEL / "tokenizer_config.json").exists() else None
    return load_tokenizer(experiment.model, own)


def write_version(material: RunEvidence, target: Path) -> str:
    """Write a version's folder, and return its content hash."""
    with whole_folder(target) as scratch:
        if material.trained:
            shutil.copytree(material.run / MODEL, scratch / MODEL)
        if material.context is not None:
            write_context(material.context, scratch / CONTEXT)
        for role, frames in material.frames.items():
            (scratch / PREDICTIONS / role).mkdir(parents=True)
            for suite, frame in frames.items():
                frame.to_parquet(scratch / PREDICTIONS / role / f"{suite}.parquet", index=False, compression="zstd")
        scores = _scores(material)
        write_text(scratch / _METRICS, scores.to_csv(index=False))
        write_text(scratch / _EXPERIMENT, dump_yaml(material.experiment))
        write_json(scratch / _DATA, dict(material.data))
        card = _card(material)
        notes = "".join(f"\n{warning}.\n" for warning in material.warnings)
        write_text(scratch / _CARD, card.rstrip() + "\n\n" + _table(scores, material.experiment) + notes)
        _copy_search(material.run, scratch / SEARCH)
    return content_hash(target)


def _card(material: RunEvidence) -> str:
    """Card of the model, with a section about its context."""
    about = ""
    if material.trained:
        about = (material.run / MODEL / _CARD).read_text(encoding="utf-8").rstrip() + "\n"
    if material.context is None:
        return about
    kept = material.context
    title = f"# {material.experiment.name}\n\nThe base model {material.experiment.model.id}, without training.\n"
    sizes = [f"{len(pool.exemplars)} exemplars of {suite}" for suite, pool in kept.pools.items() if pool.exemplars]
    sizes += [f"{len(kept.pairs)} translation pairs"] if kept.pairs else []
    pool = ", ".join(sizes) or "no pool"
    return f"{about or title}\n## Context\n\nPrompts have the context `{kept.name}`, whose pool has {pool}.\n"


def evidence(folder: Path, name: str) -> dict[str, Evidence]:
    """`version`, `base` and, if there is one, `control` -> its contents in a version's folder."""
    experiment = load_experiment(folder / _EXPERIMENT, stored=True)
    # absent in versions that were registered before the texts were hashed
    data = read_json(folder / _DATA) if (folder / _DATA).exists() else {}
    return {
        role.name: Evidence(
            name if role.name == VERSION else role.name,
            experiment,
            {s.name: pd.read_parquet(role / f"{s.name}.parquet") for s in experiment.evaluate.suites},
            data,
            trained=role.name != VERSION or (folder / MODEL).exists(),
        )
        for role in sorted((folder / PREDICTIONS).iterdir())
    }


def headline(folder: Path) -> list[dict[str, Any]]:
    """The version's scores by group with intervals: what tables show."""
    experiment, scores = load_experiment(folder / _EXPERIMENT, stored=True), pd.read_csv(folder / _METRICS)
    columns = ["suite", "scope", "metric", "value", "low", "high", "n"]
    found = _judged(scores[scores["run"] == VERSION], experiment)[columns]
    return [
        {str(k): None if v != v else v for k, v in row.items()} for row in found.to_dict("records")
    ]  # NaN is not JSON


def old_work(version: Version, experiment: Experiment) -> float:
    """Measure of how well a version kept old work: mean over groups of its chief scores, in units of the tolerance.

    Only suites of `experiment` count; minus infinity without such a score.
    """
    kinds, rules = {s.name: SUITES[s.kind] for s in experiment.evaluate.suites}, rules_of(experiment)
    found = []
    for row in json.loads(version.tags.get("metrics", "[]")):
        kind = kinds.get(row["suite"])
        tolerance = tolerance_of(kind, rules) if kind else None
        if kind and tolerance and row["value"] is not None and (kind.by_source or row["scope"] == "group:L1"):
            found.append((-1 if lower_is_better(row["metric"]) else 1) * row["value"] / tolerance)
    return sum(found) / len(found) if found else -math.inf


def beside_base(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """`by_group` and `by_language`: scores of the version and the base, with intervals."""
    experiment, scores = load_experiment(folder / _EXPERIMENT, stored=True), pd.read_csv(folder / _METRICS)
    groups, judged = _judged(scores, experiment), _by_gate(scores, experiment)
    languages = judged[judged["scope"].str.startswith("language:")]
    languages = languages.assign(language=languages["scope"].str.removeprefix("language:"))
    return {"by_group": _side_by_side(groups, "scope"), "by_language": _side_by_side(languages, "language")}


def search_of(folder: Path) -> dict[str, Any] | None:
    """Result of the search that made the version: its front, the winner and the reason; None without a search."""
    if not (folder / SEARCH / PARETO_FRONT).exists():
        return None
    chosen = read_json(folder / SEARCH / WINNER) if (folder / SEARCH / WINNER).exists() else {}
    told = {k: chosen.get(k) for k in ("trial", "why", "tolerance", "against", "trials")}
    return {"front": read_json(folder / SEARCH / PARETO_FRONT), **told}


def facts(material: RunEvidence) -> dict[str, str]:
    """Tags of a version: base, replay ratio, data, code, test sentences and the models that were scored on them."""
    experiment = material.experiment
    rows = Evidence(VERSION, experiment, material.frames[VERSION]).rows
    seen = looks(Path(experiment.storage.runs), rows) | looks(material.run.parent, rows)
    known = {"base": experiment.model.id, "base_revision": experiment.model.revision or ""}
    known["experiment"] = experiment.name
    model, context = material.weights, material.context
    if context is not None:
        variants = {v.name: v for each in experiment.evaluate.contexts for v in each.variants}
        # each context that was scored is one more attempt with the same weights
        looked = {name: json_hash([model, v.model_dump(mode="json")]) for name, v in variants.items()}
        seen |= {each[:SHORT]: name for name, each in looked.items() if name != context.name}
        pools = {name: [e.__dict__ for e in pool.exemplars] for name, pool in context.pools.items()}
        model = json_hash([model, context.settings.model_dump(mode="json"), pools, [p.__dict__ for p in context.pairs]])
        known |= {"context": context.name, "look": looked[context.name]}
    known |= row_tags(rows, seen) | {"model": model}
    if not material.trained:
        return known | {"tuning": "none", "run": f"{BASE} + {context.name if context else ''}"}
    record = read_json(material.run / MODEL / RECORD)
    return known | {
        "tuning": experiment.model.tuning,
        "dose": f"{experiment.replay.ratio:g}",
        "seed": str(experiment.train.seed),
        "steps": str(experiment.train.steps),
        "run": str(record["run"]),
        "fingerprint": str(record["fingerprint"]),
        "finished": str(record["finished"]),
        "version": str(record["versions"].get("ialign_ray", "")),
    }


def _copy_search(run: Path, target: Path) -> None:
    if run.parent.name != TRIALS:
        return
    for name in (PARETO_FRONT, WINNER):
        if (found := run.parent.parent / name).exists():
            target.mkdir(exist_ok=True)
            shutil.copy(found, target / name)


def _side_by_side(scores: pd.DataFrame, by: str) -> list[dict[str, Any]]:
    """One row per suite and value of the column `by`: `version` and `base` with value, low and high."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in scores[scores["run"].isin([VERSION, BASE])].to_dict("records"):
        kind = SUITES[row["kind"]]
        metric, title = kind.metric, kind.title
        told = {"metric": metric, "title": title, "lower_is_better": lower_is_better(metric), "n": row["n"]}
        line = found.setdefault((row["suite"], row[by]), {"suite": row["suite"], by: row[by], **told})
        line[row["run"]] = {k: None if row[k] != row[k] else row[k] for k in ("value", "low", "high")}
    return list(found.values())


def _with_evaluation(trained: Experiment, evaluated: Experiment | None) -> Experiment:
    if evaluated is None:
        return trained
    if evaluated.model.id != trained.model.id:
        raise RegistryError(
            f"--experiment has model.id {evaluated.model.id!r}, but the run was trained on {trained.model.id!r}; "
            "name the experiment that it was evaluated with"
        )
    sections = ("evaluate", "promotion", "languages", "storage", "tracking")
    return trained.model_copy(update={name: getattr(evaluated, name) for name in sections})


def _control_beside(run: Path, experiment: Experiment) -> Path | None:
    beside = _beside(run, run_name(CONTROL, experiment.train.seed))
    return beside if beside and beside != run and spoiled_file(beside / MODEL) is None else None


def _beside(run: Path, name: str) -> Path | None:
    """A folder next to the run; for a trial, next to its `trials` or its `search`."""
    around = run.parents[:3] if run.parent.name == TRIALS else run.parents[:1]
    return next((each / name for each in around if (each / name).is_dir()), None)


def _hashes(units: Sequence[Unit]) -> dict[str, str]:
    """Suite -> hash of its sentences' texts and labels, whatever the prompts."""
    rows: dict[str, set[str]] = {}
    for unit in units:
        about = [c for c in unit.rows.columns if c in _TEXTS or str(c).startswith(TEXT)]
        rows.setdefault(unit.suite, set()).update(row_keys(unit.rows[about]))
    return {suite: json_hash(sorted(found)) for suite, found in rows.items()}


def _kept(experiment: Experiment, units: Sequence[Unit], subjects: Sequence[Subject]) -> list[dict[str, pd.DataFrame]]:
    """Each subject's stored predictions of every suite."""
    work = plan_work(subjects, units, [row_keys(unit.rows) for unit in units], experiment.evaluate.shard_rows)
    for number, subject in enumerate(subjects):
        lacking = [shard for shard in work.shards if shard.subject == number]
        if lacking:
            suites = ", ".join(dict.fromkeys(units[shard.unit].suite for shard in lacking))
            raise RegistryError(
                f"{subject.folder} lacks {sum(len(shard.places) for shard in lacking)} predictions of {suites} by this "
                "model on the present data; run `ialign evaluate EXPERIMENT --adapter RUN [--control RUN]` first"
            )
    return predict_models(experiment, subjects, Console(quiet=True), units)


def _scores(material: RunEvidence) -> pd.DataFrame:
    experiment = material.experiment
    runs: dict[str, Frames | Measured] = {
        role: Evidence(role, experiment, frames).measured() for role, frames in material.frames.items()
    }
    return summarise(runs, experiment.languages.groups(), resamples=experiment.evaluate.resamples)


def _judged(scores: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Rows by group (for instructions, all) of the metric and scorer that the gate uses."""
    by_source = scores["kind"].map({name: kind.by_source for name, kind in SUITES.items()})
    shown = scores["scope"].str.startswith("group:") | ((scores["scope"] == "all") & by_source.eq(True))
    return _by_gate(scores[shown], experiment)


def _by_gate(scores: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Rows of the metric and scorer that the gate uses, over all prompts."""
    metric = scores["kind"].map({name: kind.metric for name, kind in SUITES.items()})
    scorer = scores["kind"].map({name: kind.scored(experiment.evaluate.scorer) for name, kind in SUITES.items()})
    return scores[(scores["prompt"] == "all") & (scores["metric"] == metric) & (scores["scorer"] == scorer)]


def _table(scores: pd.DataFrame, experiment: Experiment) -> str:
    """Scores of the version, base and control, as Markdown."""
    roles = list(scores["run"].unique())
    intro = f"## Scores\n\nValue [95 % interval over sentences], scorer {experiment.evaluate.scorer}.\n\n"
    header = ["suite", "group", "metric", "n", *roles]
    known = declared(experiment)
    rows = [
        [f"{suite} {MARK}" if suite in known else suite, *rest]
        for suite, *rest in _table_rows(_judged(scores, experiment), roles)
    ]
    notes = "".join(f"\n{note}\n" for note in declared_notes(experiment))
    return intro + markdown_table(header, rows, texts=3) + notes


def _table_rows(scores: pd.DataFrame, roles: list[str]) -> Iterator[list[str]]:
    for (suite, scope, metric), part in scores.groupby(["suite", "scope", "metric"], sort=True):
        cells = {r["run"]: f"{r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in part.to_dict("records")}
        about = [str(suite), str(scope).removeprefix("group:"), str(metric), str(part["n"].iloc[0])]
        yield [*about, *(cells.get(role, "–") for role in roles)]
