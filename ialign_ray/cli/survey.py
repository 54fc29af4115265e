"""`ialign survey`: what a base model knows of many languages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ialign_ray.cli.options import RegistryOption, console, say


def survey(
    model: Annotated[
        str,
        typer.Argument(
            help="Hub id, model folder, `pocket:base`, run folder, or registered model (`champion`, `mine/3`).",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Parallel file, folder or `hub:ID`: a column per language, or a language per row with columns such as "
            "`lang`, `text` and `article`."
        ),
    ] = "data/udhr/udhr.parquet",
    languages: Annotated[
        str | None,
        typer.Option("--languages", "-l", help="Codes to survey, e.g. `jav,sun,min`. Default: all of the file."),
    ] = None,
    pivot: Annotated[str, typer.Option(help="Language that the others are compared with.")] = "eng",
    limit: Annotated[
        int, typer.Option(min=5, help="Units (texts) that the model reads in each language, the same for all.")
    ] = 8,
    longest: Annotated[
        int, typer.Option(min=0, help="Leave out units with more characters than this in the pivot; 0 keeps all.")
    ] = 120,
    long: Annotated[
        str | None,
        typer.Option(help="Columns of language, text and unit of a file with one language per row: `lang,text,id`."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="Precision of the model. Default: its run's, or fp32.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Model replicas on a Ray cluster. Default: this process, without Ray.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join with --workers, e.g. `auto`. Default: a local one.")
    ] = None,
    registry: RegistryOption = None,
    to: Annotated[Path | None, typer.Option(help="Output folder. Default: runs/surveys/MODEL.")] = None,
) -> None:
    """Map what a base model knows of many languages, without labels or training: the first command to run.

    Measures bits per byte, tokens per word and retrieval of English, and names what is likely to pay for each
    language. A second call continues.

    Example: `ialign survey HuggingFaceTB/SmolLM2-135M-Instruct`

    Example: `ialign survey pocket:base --data pocket:parallel --pivot eng`

    Example: `ialign survey my-model --data memory.tmx --languages jav,sun --limit 100 --longest 0`
    """
    from ialign_ray.workflows.survey import CSV, PAGE, SurveyRequest, survey

    request = SurveyRequest(
        model, data, _codes(languages), pivot, limit, longest or None, _codes(long), precision, workers, address,
        registry, to,
    )  # fmt: skip
    folder = survey(request, console)
    say(
        "",
        f"Page:  {folder / PAGE}",
        f"Table: {folder / CSV}",
        "Next:  write an experiment file for your language, and check it: ialign validate FILE",
    )


def _codes(text: str | None) -> list[str]:
    return [code.strip() for code in (text or "").split(",") if code.strip()]
