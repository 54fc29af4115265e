"""`ialign survey`: what a base model knows of many languages, before any training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd
from rich.console import Console

from ialign_ray.config import ModelSettings
from ialign_ray.errors import ConfigError
from ialign_ray.evaluation.scoring.actors import ScoringProgress, scoring_progress
from ialign_ray.modeling.fingerprint import base_identity, run_identity
from ialign_ray.modeling.load import load_adapted
from ialign_ray.storage import alone, write_text
from ialign_ray.survey.actors import measure_on_replicas
from ialign_ray.survey.advice import KINDS, PIVOT
from ialign_ray.survey.measure import SurveyWork
from ialign_ray.survey.page import SurveyedWith, cell, write_page
from ialign_ray.survey.table import survey_table
from ialign_ray.survey.texts import SurveyTexts, read_texts
from ialign_ray.terminal import BlockTable, say
from ialign_ray.training.runs import MODEL
from ialign_ray.workflows.predict import from_registry, model_settings

DATA = "data/udhr/udhr.parquet"
"""Default data: the Universal Declaration of Human Rights, aligned by article."""
CSV, PAGE = "survey.csv", "survey.html"
SHOWN = 5
"""Languages that the terminal shows of each kind."""


@dataclass(frozen=True)
class SurveyRequest:
    """Arguments of a survey."""

    model: str
    """Hub id, folder, `pocket:base`, run folder or registered model."""
    data: str = DATA
    """Parallel file; see `survey.texts.read_texts`."""
    languages: Sequence[str] = ()
    """Codes; all of the file if empty."""
    pivot: str = "eng"
    """Language that the others are compared with."""
    limit: int = 8
    """Units that the model reads in each language."""
    longest: int | None = 120
    """Most characters of a unit in the pivot."""
    long: Sequence[str] = ()
    """Columns of language, text and unit of a file with one language per row; found by name if empty."""
    precision: Literal["fp32", "bf16"] | None = None
    """Precision of the model; its own if omitted."""
    workers: int | None = None
    """Model replicas on a Ray cluster; this process if omitted."""
    address: str | None = None
    """Ray cluster to join with `workers`."""
    registry: str | None = None
    """MLflow server, database, or folder of runs of a registered model."""
    to: Path | None = None
    """Output folder; `runs/surveys/MODEL` if omitted."""


def survey(request: SurveyRequest, console: Console) -> Path:
    """Measure the missing languages, write the table and the page, and return the output folder. Raises IalignError."""
    if request.workers is None and request.address is not None:
        raise ConfigError("--address needs --workers, the number of model replicas on that cluster")
    if request.data == DATA and not Path(DATA).exists():
        raise ConfigError(
            f"{DATA} does not exist; name a parallel file with --data: a column per language, or a language per row"
        )
    texts = read_texts(
        request.data, pivot=request.pivot, languages=request.languages, long=request.long, longest=request.longest
    )
    folder = request.to or Path("runs") / "surveys" / re.sub(r"[^\w.-]+", "-", request.model.strip("/."))
    work = survey_work(request, texts, folder)
    with alone(folder, "`ialign survey`"):
        if missing := work.missing():
            with scoring_progress(console, sum(map(work.read_count, missing))) as advance:
                _measure(work, missing, request, advance)
        table = survey_table(work)
        write_text(folder / CSV, table.to_csv(index=False, float_format="%.4g"))
        title = Path(request.model).name if Path(request.model).is_dir() else request.model
        about = SurveyedWith(title, request.data, texts.pivot, request.limit, request.longest)
        write_page(table, folder / PAGE, about)
    show_summary(table, about, console)
    return folder


def survey_work(request: SurveyRequest, texts: SurveyTexts, folder: Path) -> SurveyWork:
    """The work of a survey that stores into `units` of a folder. Raises IalignError for a model that is not there."""
    named = Path(request.model)
    run = (named / MODEL / "experiment.yaml").exists() or (named / "experiment.yaml").exists()
    adapter, model = (named, None) if run else from_registry(request.model, request.registry)
    settings, trained = model_settings(adapter, model)
    if request.precision:
        settings = settings.model_copy(update={"precision": request.precision, "tuning": "lora"})
    own = run_identity(trained) if trained else None
    identity = [settings.precision, settings.quantization, settings.attention, base_identity(settings), own]
    where = (folder / "units").absolute()
    where.mkdir(parents=True, exist_ok=True)
    return SurveyWork(texts, request.limit, identity, where, partial(_open, settings, trained))


def _open(settings: ModelSettings, folder: Path | None) -> tuple[Any, Any]:
    import torch

    model, tokenizer = load_adapted(settings, folder)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _measure(work: SurveyWork, missing: Sequence[str], request: SurveyRequest, advance: ScoringProgress) -> None:
    if request.workers is not None:
        measure_on_replicas(work, request.workers, request.address, advance)
        return
    for code in missing:
        work.measure(code)
        advance(code, work.read_count(code))


def show_summary(table: pd.DataFrame, about: SurveyedWith, console: Console) -> None:
    """Print the number of languages of each kind, and the best and least known languages, within 80 columns."""
    others = table[table["known"] != PIVOT.kind].sort_values("parity", ascending=False, na_position="last")
    kinds = []
    for kind in KINDS:
        part = others[others["known"] == kind.kind]
        if len(part):
            kinds.append([kind.kind, f"{len(part):,}", ", ".join(part["name"].head(4))])
    say(console, "", f"{about.model}: {len(others):,} languages against {table['name'].iloc[0]}")
    console.print(BlockTable(["known", "languages", "for example"], kinds))
    shown = pd.concat([others.head(SHOWN), others.tail(SHOWN)]).drop_duplicates("code")
    shown = pd.concat([table.head(1), others if len(others) <= 2 * SHOWN else shown])
    header = ["language", "n", "bits/byte", "parity", "premium", "finds pivot"]
    names = ["bits_per_byte", "parity", "premium", "retrieval"]
    rows = [
        # the premium has the narrowest interval, and the table 80 columns
        [r["code"], str(r["read"]), *(" ".join(cell(r, n)[: 1 if n == "premium" else 2]).strip() for n in names)]
        for r in _records(shown)
    ]
    say(console, "")
    console.print(BlockTable(header, rows))


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", table.to_dict("records"))
